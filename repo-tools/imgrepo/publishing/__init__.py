"""Publishing a folder of images: scan, look inside, pack, sign; and the status of a published folder."""
