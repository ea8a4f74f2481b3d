"""Versions are compared as the package managers themselves do."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import PybuilderError
from imgrepo.contents.versions import compare, rpmvercmp

DEBIAN = [
    "1.0",
    "1.0-1",
    "1.0~rc1-1",
    "1:0.5",
    "1.0+b1",
    "1.0-1+deb12u2",
    "1.0-1+deb12u10",
    "1.10",
    "1.9",
    "0:1.0",
]
RPM = [
    "1.0",
    "1.0~rc1",
    "1.0^git1",
    "1.0.1",
    "1.0a",
    "1.a",
    "1.10",
    "1.9",
    "01.0",
    "1.0^",
    "1.0~",
    "1..0",
    "a",
    "10",
    "1.0^git1~x",
    "1.0.",
    "2_0",
    "1.0~~",
    "1^a",
    "1a",
]
APK = [
    "0.9",
    "1.0_alpha1",
    "1.0_alpha2",
    "1.0_rc1",
    "1.0",
    "1.0-r1",
    "1.0-r10",
    "1.0_p1",
    "1.0a",
    "1.0.01",
    "1.0.1",
    "1.2",
    "1.10",
]


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
def test_debian_versions_as_dpkg_has_them() -> None:
    for left, right in itertools.product(DEBIAN, repeat=2):
        order = compare("dpkg", left, right)
        word = {-1: "lt", 0: "eq", 1: "gt"}[order]
        assert subprocess.run(["dpkg", "--compare-versions", left, word, right]).returncode == 0, (
            left,
            right,
        )


@pytest.mark.skipif(shutil.which("rpm") is None, reason="rpm is not installed")
def test_rpm_versions_as_rpm_has_them() -> None:
    pairs = list(itertools.product(RPM, repeat=2))
    words = ", ".join(f'"{word}"' for word in RPM)
    script = (
        f"l = {{{words}}} for _, a in ipairs(l) do for _, b in ipairs(l) do "
        "print(rpm.vercmp(a, b), ' ') end end"
    )
    done = subprocess.run(["rpm", "--eval", f"%{{lua: {script}}}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    answers = [int(word) for word in said.split()]
    assert len(answers) == len(pairs)
    for (left, right), answer in zip(pairs, answers, strict=True):
        assert rpmvercmp(left, right) == answer, (left, right)


def test_rpm_epoch_version_release() -> None:
    assert compare("rpm", "1:1.0-1", "2.0-1") == 1
    assert compare("rpm", "0:1.0-1.fc40", "1.0-1.fc40") == 0
    assert compare("rpm", "1.0-2", "1.0-10") == -1


def test_apk_versions_are_in_order() -> None:
    for (at, left), (to, right) in itertools.product(enumerate(APK), repeat=2):
        assert compare("apk", left, right) == (at > to) - (at < to), (left, right)


@pytest.mark.parametrize("version", ["", "x", "1.0_nothing1", "1.0-1", "1.0x1"])
def test_what_is_no_version_of_alpine(version: str) -> None:
    with pytest.raises(PybuilderError):
        compare("apk", version, "1.0")


@given(st.sampled_from(["dpkg", "rpm", "apk", "other"]), st.text(), st.text())
def test_any_text_raises_only_our_errors(manager: str, left: str, right: str) -> None:
    for one, two in ((left, right), ("1" * 5000 + left, "2" * 5000 + right), (f"1.0{left}", "1.0")):
        try:
            assert compare(manager, one, two) == -compare(manager, two, one)
            assert compare(manager, one, one) == 0
        except PybuilderError:
            continue
