"""Serving, mirroring and uploading what is published."""
