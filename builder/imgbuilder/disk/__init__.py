"""Disk image files on the host: formats, headers, holes, partition tables."""
