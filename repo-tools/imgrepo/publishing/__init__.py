"""Publishing a folder of images: what is eligible, packing, the new index."""
