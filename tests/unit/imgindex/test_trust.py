"""Fingerprints as users write them: row S29."""

from __future__ import annotations

import pytest

from imgindex.errors import UsageError
from imgindex.trust import full_fingerprint

FULL = "F7774FB1AD074A7E8C8767EA91738F73E1B768A0"


@pytest.mark.row("S29")
@pytest.mark.parametrize(
    "text",
    [FULL, FULL.lower(), "0x" + FULL, "F777 4FB1 AD07 4A7E 8C87  67EA 9173 8F73 E1B7 68A0", f" {FULL}\n"],
)
def test_full_fingerprints(text: str) -> None:
    assert full_fingerprint(text) == FULL


@pytest.mark.row("S29")
def test_long_fingerprint() -> None:
    assert full_fingerprint("ab" * 32) == "AB" * 32


@pytest.mark.row("S29")
@pytest.mark.parametrize(
    "text",
    ["", FULL[-8:], FULL[-16:], FULL[:39], FULL + "0", "G" * 40, "rjones@redhat.com", FULL + "!", "-" + FULL],
)
def test_anything_else(text: str) -> None:
    with pytest.raises(UsageError, match="not a full key fingerprint"):
        full_fingerprint(text)
