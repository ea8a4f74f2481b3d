from __future__ import annotations

from types import SimpleNamespace

import pytest

from imgbuilder.host.arch import can_run, host_arch, normalise


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("i386 i486 i586 i686", "i386"),
        ("amd64 x86_64", "x86_64"),
        ("arm64 aarch64", "aarch64"),
        ("powerpc ppc", "ppc"),
        ("powerpc64 ppc64", "ppc64"),
        ("powerpc64le ppc64el ppc64le", "ppc64le"),
        ("armv7l", "armv7l"),
    ],
)
def test_normalise(names: str, expected: str) -> None:
    assert {normalise(name) for name in names.split()} == {expected}


def test_host_arch_is_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine="i686"))
    assert host_arch() == "i386"


@pytest.mark.parametrize(
    ("host", "guest", "expected"),
    [
        ("x86_64", "amd64", True),
        ("amd64", "i686", True),
        ("i386", "x86_64", False),
        ("x86_64", "aarch64", False),
        ("aarch64", "aarch64", True),
    ],
)
def test_can_run(host: str, guest: str, expected: bool) -> None:
    assert can_run(host, guest) is expected
