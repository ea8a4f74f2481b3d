"""Entries of a library: each an image in its own folder, with its description, records and approval."""
