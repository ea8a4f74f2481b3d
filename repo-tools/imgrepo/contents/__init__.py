"""The contents of an image: its packages, their licences, bills of materials, and differences."""
