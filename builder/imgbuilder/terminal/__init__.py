"""What only programs use: messages, configuration, exit codes."""
