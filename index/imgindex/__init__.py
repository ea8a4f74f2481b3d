"""The index of a template repository: its format, and the rules by which it is trusted.

This package reads and writes the text that virt-builder calls the index, and
decides whether a signed copy of it is accepted. It never uses the network and
knows nothing about disk images or guests.
"""

__version__ = "0.1.0"
