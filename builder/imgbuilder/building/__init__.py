"""Making an image: the request, the plan, the place of the output, the work, the result."""
