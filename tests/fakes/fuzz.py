"""Number of examples of property tests of hostile input: few in each run, 200,000 in ``make fuzz``."""

from __future__ import annotations

import os


def examples(quick: int) -> int:
    """Return the number of examples: ``quick``, or what ``PYBUILDER_EXAMPLES`` says."""
    return int(os.environ.get("PYBUILDER_EXAMPLES", quick))
