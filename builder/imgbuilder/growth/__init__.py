"""Growth in place: of the partition table on the host, of the partition's content in the appliance."""
