"""Getting files: from web servers and local folders, within limits."""
