"""Templates kept on this machine: downloaded, verified, unpacked."""
