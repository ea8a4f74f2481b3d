"""The command line: the only part that prints, asks and exits."""
