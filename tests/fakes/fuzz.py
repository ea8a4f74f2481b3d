"""How long property tests of hostile input try: quickly in each run, and 200,000 times in ``make fuzz``."""

from __future__ import annotations

import os


def examples(quick: int) -> int:
    """Return the number of examples: ``quick``, or what ``PYBUILDER_EXAMPLES`` says."""
    return int(os.environ.get("PYBUILDER_EXAMPLES", quick))
