"""The disk images of a publisher: finding, examining and packing them."""
