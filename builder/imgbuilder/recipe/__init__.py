"""Recipes: a build written down as a TOML file.

``read`` turns files into a ``Recipe``, ``write`` turns a command line into a
file, ``schema`` describes the format for editors; ``locate`` finds the lines
that messages name. What operations there are comes from their registry alone.
"""
