"""Tests of ``imgrepo.catalogue``."""
