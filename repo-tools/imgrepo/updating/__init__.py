"""Brings a whole library up to date: images from their origins, proofs, publication, pages, targets."""
