"""Boot checks: an image is booted without a user, and its console is read."""
