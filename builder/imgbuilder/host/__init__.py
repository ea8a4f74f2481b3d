"""This machine: files, locks, processes, signals, folders; nothing about images or templates."""
