"""Recipes: builds written as TOML files (ADR 0008).

``reader`` turns files into a ``Recipe``, ``writer`` turns a command line into a file, ``schema`` describes
the format for editors, ``locate`` finds the lines that messages name. Settings are listed in ``recipe``,
operations in their registry (``customize/registry.py``) alone.
"""
