"""Builds and customizes images: the request, the plan, the output, the result."""
