"""The source packages of an image's binaries: found in signed archives, fetched, checked, packed."""
