"""Messages, configuration and exit codes: modules for programs only."""
