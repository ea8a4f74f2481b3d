"""A guest as the other rooms see it: its files and commands, its filesystems, its encrypted disks."""
