"""Differences of two lists of packages."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import PybuilderError
from imgrepo.cli.main import run
from imgrepo.contents.diff import Listed, compare, compare_lists, parse_list, read_list, rpmvercmp
from imgrepo.contents.documents import as_cyclonedx
from imgrepo.library.records import CONTENTS_FILE, Package
from tests.unit.imgrepo.contents.guests import CONTENTS, PACKAGES, WHEN
from tests.unit.imgrepo.repository import Repository

NEW = replace(
    CONTENTS,
    packages=(
        replace(PACKAGES[0], version="5.2.15-10"),  # a newer one, though not by letters
        replace(PACKAGES[1], version="1:9.9"),  # an older one by its epoch
        replace(PACKAGES[2], licences=("GPL-3.0-only",)),
        PACKAGES[3],
        Package("zlib1g", "1", "amd64", "zlib", "1", ("Zlib",)),
    ),
)


def said(
    repository: Repository, capsys: pytest.CaptureFixture[str], old: Path, new: Path
) -> dict[str, object]:

    assert run(["sbom", "diff", str(old), str(new), "--json"], repository.services()) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def write_both(folder: Path) -> tuple[Path, Path]:
    for name, contents in (("old", CONTENTS), ("new", NEW)):
        (folder / name / "contents").mkdir(parents=True)
        CONTENTS_FILE.write(folder / name / "contents", contents)
        (folder / f"{name}.cdx.json").write_text(as_cyclonedx(contents, name, WHEN))
    return folder / "old", folder / "new"


def test_everything_that_can_change(
    repository: Repository, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    old, new = write_both(tmp_path)
    expected = {
        "version": 1,
        "added": [{"name": "zlib1g", "arch": "amd64", "version": "1"}],
        "removed": [{"name": "libstdc++6", "arch": "amd64", "version": "12.2.0-14"}],
        "upgraded": [{"name": "bash", "arch": "amd64", "from": "5.2.15-2+b7", "to": "5.2.15-10"}],
        "downgraded": [{"name": "bison", "arch": "amd64", "from": "2:3.8", "to": "1:9.9"}],
        "changed": [],
        "licences": [
            {"name": "libc6", "arch": "amd64", "from": ["LGPL-2.1-or-later"], "to": ["GPL-3.0-only"]}
        ],
    }
    assert said(repository, capsys, old, new) == expected
    # By what others would have made of it, the same.
    assert said(repository, capsys, tmp_path / "old.cdx.json", tmp_path / "new.cdx.json") == expected
    assert said(repository, capsys, old / "contents", tmp_path / "new.cdx.json") == expected
    # By the images that they are of.
    for folder in (old, new):
        (folder / "contents").rename(tmp_path / f"{folder.name}.contents")
    assert said(repository, capsys, tmp_path / "old.img", tmp_path / "new.qcow2") == expected


def test_for_people(tmp_path: Path) -> None:
    old, new = write_both(tmp_path)
    lines = compare_lists(read_list(old), read_list(new)).as_lines()
    assert "+ zlib1g 1 (amd64)" in lines
    assert "upgraded: bash 5.2.15-2+b7 -> 5.2.15-10 (amd64)" in lines
    assert "downgraded: bison 2:3.8 -> 1:9.9 (amd64)" in lines
    assert lines[-1] == "1 added, 1 removed, 1 upgraded, 1 downgraded, 1 with other licences"
    assert compare_lists(read_list(old), read_list(old)).as_lines() == ["the same packages"]


def test_several_versions_side_by_side() -> None:
    def kernel(version: str) -> Listed:
        return Listed("kernel", "x86_64", "rpm", version)

    found = compare_lists([kernel("6.1-1"), kernel("6.2-1")], [kernel("6.2-1"), kernel("6.10-1")])
    assert [one.version for one in found.added] == ["6.10-1"]
    assert [one.version for one in found.removed] == ["6.1-1"]
    assert found.upgraded == ()


def test_lists_of_others() -> None:
    def listing(version: str) -> tuple[Listed, ...]:
        component = {
            "type": "library", "name": "x", "version": version, "licenses": [{"expression": "MIT OR ISC"}],
            "components": [{"type": "file", "name": "/etc/x"}, {"type": "application", "name": "inner"}],
        }  # fmt: skip
        rpm = {"type": "library", "name": "y", "purl": f"pkg:rpm/fedora/y@{version}?arch=x86_64&epoch=2"}
        return parse_list(
            json.dumps({"bomFormat": "CycloneDX", "components": [component, rpm]}).encode(), where="x"
        )

    assert listing("1")[1] == Listed("x", "", "", "1", ("MIT OR ISC",))
    found = compare_lists(listing("9"), listing("10"))
    assert [one.package.name for one in found.changed] == ["x"]
    assert [(one.before.version, one.package.version) for one in found.upgraded] == [("2:9", "2:10")]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bomFormat": "CycloneDX", "components": 1}', "x" * 100])
def test_what_is_no_list(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(PybuilderError):
        read_list(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("old",), "Missing argument 'NEW'"),
        (("a", "b"), "cannot read a: No such file"),
        (("a.img", "b.img"), "a.contents is missing: the packages of the image are not listed yet"),
        (("--quiet", "a", "b"), "sbom diff has no option --quiet"),
    ],
)
def test_wrong_words(
    repository: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sbom", "diff", *words], repository.services()) == 2
    assert message in capsys.readouterr().err


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["name", "version", "purl", "licenses", "license", "id", "components", "type"]), inner
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values, st.binary(max_size=50))
def test_any_list_raises_only_our_errors(value: object, data: bytes) -> None:
    for fields in ({"bomFormat": "CycloneDX", "components": value}, {"manager": "dpkg", "packages": value}):
        try:
            compare_lists(parse_list(json.dumps(fields).encode(), where="x"), ())
        except PybuilderError:
            continue
    with pytest.raises(PybuilderError):
        parse_list(data, where="x")


DEBIAN = [
    "1.0", "1.0-1", "1.0~rc1-1", "1:0.5", "1.0+b1", "1.0-1+deb12u2", "1.0-1+deb12u10", "1.10", "1.9",
    "0:1.0",
]  # fmt: skip
RPM = [
    "1.0", "1.0~rc1", "1.0^git1", "1.0.1", "1.0a", "1.a", "1.10", "1.9", "01.0", "1.0^", "1.0~", "1..0",
    "a", "10", "1.0^git1~x", "1.0.", "2_0", "1.0~~", "1^a", "1a",
]  # fmt: skip
APK = [
    "0.9", "1.0_alpha1", "1.0_alpha2", "1.0_rc1", "1.0", "1.0-r1", "1.0-r10", "1.0_p1", "1.0a", "1.0.01",
    "1.0.1", "1.2", "1.10",
]  # fmt: skip


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
