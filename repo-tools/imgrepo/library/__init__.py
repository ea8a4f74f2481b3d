"""Entries of a library: an image in a folder of its own, with all that people need to know and trust it."""
