"""Where templates come from: sources, their indexes, and one catalogue of them."""
