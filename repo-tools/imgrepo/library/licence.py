"""Whether a licence is named so that programs understand it: as an SPDX expression."""

from __future__ import annotations

import functools
from typing import Any

_LONGEST = 200
_OPERATORS = {"AND", "OR", "WITH", "(", ")"}
_EXAMPLE = 'such as "GPL-2.0-or-later AND MIT"'


@functools.cache
def _licensing() -> Any:  # noqa: ANN401 - a library without types
    from license_expression import get_spdx_licensing  # late: reading its list takes a third of a second

    return get_spdx_licensing()


def licence_problem(text: str) -> str | None:
    """Say why a text is no SPDX licence expression; None when it is one.

    ``LicenseRef-`` identifiers are allowed: for what is not in SPDX's list (SPDX 2.3, annex D).
    """
    if len(text) > _LONGEST:
        return f"it is longer than {_LONGEST} characters"
    licensing = _licensing()
    words = text.replace("(", " ( ").replace(")", " ) ").split()
    names = [word for word in words if word not in _OPERATORS and not word.startswith("LicenseRef-")]
    # The library takes nicknames such as "GPL", too, which say too little.
    unknown = [name for name in names if name not in licensing.known_symbols]
    if unknown:
        return f"SPDX has no licence {', '.join(unknown)}"
    try:
        # A known licence in the place of each private one, for the grammar.
        plain = " ".join("MIT" if word.startswith("LicenseRef-") else word for word in words)
        # It reports errors of the grammar, but fails with AttributeError on some errors of its own parser.
        found = licensing.validate(plain) if words else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        found = None
    return None if found is not None and not found.errors else f"it is no SPDX expression, {_EXAMPLE}"
