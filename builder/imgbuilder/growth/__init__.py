"""Growth in place: the partition table on the host, what the partition holds in the appliance."""
