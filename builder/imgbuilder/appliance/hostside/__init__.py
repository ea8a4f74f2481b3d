"""Builds without an appliance: a confined process on this host writes the ext2/3/4 filesystem of an image.

The image may be hostile, and the libraries and programs that read it are written in C. So every process that
touches it gives up its rights first (``confine``).
"""
