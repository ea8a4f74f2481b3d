"""The published folder: reading, checking and changing its files and index."""
