"""Fleets: many machines from one file, each a recipe of its own (docs/fleet.md).

``entries`` reads the files, ``hosts`` makes a host of each entry and compares them. Nothing here writes an
image: a host is built by ``pybuilder build`` from its recipe.
"""
