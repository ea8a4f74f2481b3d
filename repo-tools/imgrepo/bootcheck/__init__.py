"""Does an image boot? It is booted without anybody before it, and its console is read."""
