"""The published folder: reading, checking and changing the index and the files that it names."""
