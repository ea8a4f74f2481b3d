"""Sources of templates: their configuration, their indexes, and one catalogue of them."""
