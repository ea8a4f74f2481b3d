"""What an image holds: the packages of its own database, as CycloneDX and SPDX, and what changed."""
