"""The source packages of an image: found in signed archives, fetched, checked and packed."""
