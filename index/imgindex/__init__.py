"""The index of a template repository: its format, and the proof that it may be trusted.

This package reads and writes the text that virt-builder calls the index, and
decides whether a signed copy of it is accepted. It never touches the network
and knows nothing of disk images or guests.
"""

__version__ = "0.1.0"
