"""Disk images of a publisher: finding, copying, reading and compressing them."""
