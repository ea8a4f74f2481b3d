"""An entry's folder, what its contributor writes, and the records of the tools."""

from __future__ import annotations

import contextlib
import errno
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import PybuilderError, RepositoryError, UsageError
from imgbuilder.events import ignore
from imgbuilder.machine.model import Firmware, Forward
from imgrepo.library.description import parse_description
from imgrepo.library.folder import EntryFolder, broken_folders, find_entries, find_entry
from imgrepo.library.records import ImageMark
from imgrepo.library.running import machine_of

SECTOR = 512
TEXT = """
title = "Debian 12 with nginx"
description = \"\"\"
Serves a page.
\"\"\"
hints = "log in as root\\nthe password is: pybuilder"
licence = "GPL-2.0-or-later AND MIT"
tags = ["web", "demo"]
not-before = 2026-12-01
size-budget = "100M"

[machine]
memory = 512
firmware = "uefi"
ports = ["8080:80"]

[boot]
marker = "demo login:"
ports = [80]
"""


def entry(library: Path, name: str, text: str = TEXT, *, image: str | None = None) -> EntryFolder:
    folder = library / name
    folder.mkdir(parents=True)
    (folder / "entry.toml").write_text(text)
    (folder / (image or f"{name}.img")).write_bytes(bytes(4 * SECTOR))
    return EntryFolder(folder)


class TestDescription:
    def test_all_keys(self) -> None:
        read = parse_description(TEXT, where="x")
        assert read.title == "Debian 12 with nginx"
        assert read.description == "Serves a page."
        assert read.not_before == datetime(2026, 12, 1, tzinfo=UTC)
        assert read.size_budget == 100 << 20
        assert read.machine.firmware is Firmware.UEFI
        assert read.machine.ports == (Forward(8080, 80),)
        assert read.tags == ("web", "demo")
        assert (read.boot.marker, read.boot.ports) == ("demo login:", (80,))

    def test_nothing_is_required_for_a_draft(self) -> None:
        assert parse_description("", where="x").boot.marker == "login:"

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("titel = 'x'", "titel: unknown key"),
            ("title = 1", "title: "),
            ("title = 'a\\nb'\n".replace("'", '"'), "one line"),
            ('title = "a\\u001bb"', "control characters"),
            ('title = "a\\u202eb"', "control characters"),
            ("size-budget = '100'", "size-budget: "),
            ("size-budget = -1", "size-budget: "),
            ("not-before = 'soon'", "not-before = 2026-12-01"),
            ("arch = 'vax'", "must be one of"),
            ("homepage = 'javascript:alert(1)'", "homepage: "),
            ("[machine]\nfirmware = 'coreboot'", "machine.firmware: "),
            ("[machine]\nports = ['x']", "is not a port"),
            ("[machine]\nports = 80", "it must be a list"),
            ("[machine]\nmemory = 1", "machine.memory: "),
            ("[boot]\nmarker = '('", "not a valid regular expression"),
            ("[boot]\nports = [0]", "boot.ports.0: "),
            ("title = ", "is not valid TOML"),
        ],
    )
    def test_wrong_ones_are_named(self, text: str, word: str) -> None:
        with pytest.raises(RepositoryError, match=r"^entry\.toml") as caught:
            parse_description(text, where="entry.toml")
        assert word in caught.value.message

    def test_all_wrong_keys_are_named_at_once(self) -> None:
        with pytest.raises(RepositoryError) as caught:
            parse_description("titel = 1\nlicence = 2", where="x")
        assert "titel" in caught.value.message
        assert "licence" in caught.value.message

    @given(st.text(max_size=200))
    def test_any_text_raises_only_our_errors(self, text: str) -> None:
        with contextlib.suppress(PybuilderError):
            parse_description(text, where="x")

    @given(
        st.dictionaries(
            st.sampled_from(
                ["title", "hints", "tags", "not-before", "size-budget", "machine", "boot", "arch"]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=9),
                lambda deeper: (
                    st.lists(deeper, max_size=3)
                    | st.dictionaries(st.sampled_from(["ports", "memory", "marker", "x"]), deeper, max_size=3)
                ),
                max_leaves=6,
            ),
        )
    )
    def test_any_values_raise_only_our_errors(self, values: dict[str, object]) -> None:
        import tomli_w

        def plain(value: object) -> object:
            if value is None:
                return 1.5
            if isinstance(value, list):
                return [plain(item) for item in value]
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            return value

        with contextlib.suppress(PybuilderError):
            parse_description(tomli_w.dumps({key: plain(value) for key, value in values.items()}), where="x")


class TestFolder:
    def test_entries_are_folders_with_a_description(self, tmp_path: Path) -> None:
        entry(tmp_path, "b")
        entry(tmp_path, "a")
        entry(tmp_path, ".hidden", image="x.img")
        (tmp_path / "empty").mkdir()
        (tmp_path / "loose.img").write_bytes(bytes(SECTOR))
        (tmp_path / "link").symlink_to(tmp_path / "a")
        assert [one.name for one in find_entries(tmp_path)] == ["a", "b"]

    def test_a_name_that_no_template_can_have(self, tmp_path: Path) -> None:
        entry(tmp_path, "a b", image="x.img")
        entry(tmp_path, "fine")
        assert [one.name for one in find_entries(tmp_path)] == ["fine"]
        (problem,) = broken_folders(tmp_path).items()
        assert problem[0] == "a b"
        assert "has a name that an entry cannot have" in problem[1].message

    def test_folders_that_cannot_be_looked_into(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A filesystem's ``lost+found`` is ignored, and a contributor's folder is reported."""
        for name in ("lost+found", "theirs", "ours"):
            entry(tmp_path, name, image="x.img")
        plain = Path.stat

        def refuse(path: Path, **options: bool) -> os.stat_result:
            if path.parent.name in {"lost+found", "theirs"}:
                raise PermissionError(errno.EACCES, "Permission denied")
            return plain(path, **options)

        monkeypatch.setattr(Path, "stat", refuse)
        assert [one.name for one in find_entries(tmp_path)] == ["ours"]
        assert list(broken_folders(tmp_path)) == ["theirs"]

    @pytest.mark.parametrize("name", ["b", "../a", ""])
    def test_an_unknown_entry_names_the_known_ones(self, tmp_path: Path, name: str) -> None:
        entry(tmp_path, "a")
        with pytest.raises(UsageError) as caught:
            find_entry(tmp_path, name)
        assert caught.value.hint == (
            f"there are: a; make a new one: pybuilder-repo entry new {name} --library {tmp_path}"
        )
        assert find_entry(tmp_path, "a/").name == "a"

    def test_an_empty_library_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as caught:
            find_entry(tmp_path, "b")
        assert str(caught.value.hint).startswith("there are no entries; make a new one:")

    def test_the_image(self, tmp_path: Path) -> None:
        folder = entry(tmp_path, "a")
        assert folder.image().name == "a.img"
        (folder.path / "b.img").write_bytes(b"")
        with pytest.raises(RepositoryError, match=r"more than one image: a\.img, b\.img"):
            folder.image()
        (folder.path / "a.img").unlink()
        with pytest.raises(RepositoryError, match="different name from the entry"):
            folder.image()
        (folder.path / "b.img").unlink()
        with pytest.raises(RepositoryError, match="no image is in"):
            folder.image()

    def test_the_machine(self, tmp_path: Path) -> None:
        folder = entry(tmp_path, "a")
        machine = machine_of(folder.image(), folder.read(), tested="7.2")
        assert machine.image == Path("a.img")
        assert (machine.memory, machine.firmware, machine.tested) == (512, Firmware.UEFI, "7.2")
        assert machine.hints == ("log in as root", "the password is: pybuilder")
        assert machine_of(folder.image(), folder.read(), relative=False).image == folder.path / "a.img"


def test_a_record_is_of_one_image(tmp_path: Path) -> None:
    folder = entry(tmp_path, "a")
    mark = ImageMark.of(folder.image(), ignore)
    image = folder.path / "a.img"
    assert mark.fits(folder.image(), ignore)
    data = image.read_bytes()
    image.unlink()
    image.write_bytes(data)  # a copy: another inode, the same bytes
    assert mark.fits(folder.image(), ignore)
    image.write_bytes(b"x" + data[1:])
    assert not mark.fits(folder.image(), ignore)
