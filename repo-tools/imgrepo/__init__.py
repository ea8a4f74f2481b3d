"""The publisher: makes templates and publishes directories of them with a signed index."""
