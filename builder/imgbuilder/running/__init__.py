"""Runs a template or an image under QEMU, for ``pybuilder run``."""
