"""Judging entries: evidence, checks, proofs, states."""
