"""What holds for all tests."""

from __future__ import annotations

import os

# Without this, a test that looks for templates would ask the public repository that comes with the package.
os.environ["VIRT_BUILDER_DIRS"] = "/nonexistent"
