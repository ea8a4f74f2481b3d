"""Serves, mirrors and uploads published folders."""
