"""Import of a distribution's cloud image: found, checked, and put among the images to publish."""
