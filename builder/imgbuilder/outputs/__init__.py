"""Places on other machines that files are put to: buckets of S3, and pools of libvirt."""
