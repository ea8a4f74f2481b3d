"""The environment for programs that we start: ours without its secrets."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_CREDENTIALS = frozenset(
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RSYNC_PASSWORD"}
)
"""Variables with credentials for our commands."""

_ADDRESS_WITH_USER = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*@", re.DOTALL)
"""Beginning of a value that is an address with a user name."""

_withheld: set[str] = set()


def withhold(variable: str) -> None:
    """Keep a variable with a secret out of the environment of all programs started from now on."""
    _withheld.add(variable)


def plain_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment with an untranslated locale and without secrets.

    Args:
        extra: Variables to add, even secret ones: the program needs them.
    """
    own = {name: value for name, value in os.environ.items() if not _is_secret(name, value)}
    return {**own, "LC_ALL": "C.UTF-8", "LANGUAGE": "C", **(extra or {})}


def _is_secret(name: str, value: str) -> bool:
    if name in _withheld or name in _CREDENTIALS or _ADDRESS_WITH_USER.match(value):
        return True
    return name.lower().endswith("_proxy") and "@" in value  # an address without its scheme counts as well
