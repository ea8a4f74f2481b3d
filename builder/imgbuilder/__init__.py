"""The client: builds a bootable disk image from a template of a signed repository."""
