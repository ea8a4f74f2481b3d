"""The customization operations, one module per area; ``registry.all_operations`` imports them all."""
