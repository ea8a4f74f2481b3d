"""Bringing a published folder to where it is served: by rsync, to S3."""
