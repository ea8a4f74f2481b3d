"""Files that turn out to be something else: nothing waits for a FIFO, nothing reads a device; and records."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

import pytest

from imgindex import files
from imgindex.errors import UsageError
from imgindex.files import check_writers, open_file, open_given, read_json, write_json

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("opener", [open_file, open_given])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "a link to a fifo"])
def test_what_is_no_ordinary_file_is_refused_at_once(
    tmp_path: Path, opener: Callable[[Path], BufferedReader], kind: str
) -> None:
    path = tmp_path / "given"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            os.mkfifo(tmp_path / "fifo")
            path.symlink_to("fifo")
    with pytest.raises(OSError, match="Is a directory" if kind == "folder" else "not an ordinary file"):
        opener(path)


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_what_the_shell_leaves_open_is_read(folder: str) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a command")
    os.close(writing)
    try:
        with open_given(Path(folder, str(reading))) as file:
            assert file.read() == b"from a command"
    finally:
        os.close(reading)


def test_standard_input_is_read(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"typed")
    kept, given = os.dup(0), os.open(tmp_path / "in", os.O_RDONLY)
    try:
        os.dup2(given, 0)
        with open_given(Path("/dev/stdin")) as file:
            assert file.read() == b"typed"
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(given)


def test_a_folder_and_a_closed_descriptor_are_no_input(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        open_given(Path(f"/dev/fd/{descriptor}"))
    os.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_given(Path(f"/dev/fd/{descriptor}"))


OWN_FILES = {
    "builder/imgbuilder/appliance/hostside/devices.py": "the new image of the build",
    "builder/imgbuilder/building/build.py": "the new image of the build",
    "builder/imgbuilder/building/customize_image.py": "a copy of its own",
    "builder/imgbuilder/customize/initramfs.py": "a copy of its own",
    "builder/imgbuilder/disk/diskimage.py": "disks, which may be devices",
    "builder/imgbuilder/disk/partition.py": "a copy of its own",
    "builder/imgbuilder/disk/skeleton.py": "a copy of its own",
    "builder/imgbuilder/disk/tablegrowth.py": "a copy of its own",
    "builder/imgbuilder/host/sparse.py": "disks, which may be devices",
    "builder/imgbuilder/host/workspace.py": "a temporary file",
    "builder/imgbuilder/appliance/instant/program.py": "files of a saved appliance; it stands alone",
    "builder/imgbuilder/appliance/instant/save.py": "files of an appliance that is being saved",
    "repo-tools/imgrepo/images/blocks.py": "images, looked at before",
    "repo-tools/imgrepo/images/compress.py": "images, looked at before",
    "repo-tools/imgrepo/webroot/transaction.py": "a temporary file",
    "repo-tools/imgrepo/review/check.py": "messages of a program that it started",
}
"""Modules that open files for reading without ``imgindex.files``, and which files."""


def test_files_of_others_are_opened_in_one_way() -> None:
    opening = re.compile(r"\.open\(\"rb\"|\bopen\([\w.]+, \"rb\"")
    found = {
        str(path.relative_to(ROOT))
        for room in ("index", "builder", "repo-tools")
        for path in (ROOT / room).rglob("*.py")
        if opening.search(path.read_text())
    }
    assert found - set(OWN_FILES) == set(), "open these by imgindex.files, or say what they are"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "record.json"


def read(path: Path, *, private: bool = True) -> dict[str, object]:
    return read_json(path, version=1, limit=1000, private=private)


def test_what_is_written_is_read(path: Path) -> None:
    for durable in (True, False):
        write_json(path, {"name": "é", "durable": durable}, version=1, durable=durable)
        assert read(path) == {"version": 1, "name": "é", "durable": durable}
        assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["record.json"]


def test_a_record_without_a_version(path: Path) -> None:
    write_json(path, {"key": 1}, version=None, durable=False)
    assert read_json(path, version=None, limit=1000) == {"key": 1}
    with pytest.raises(ValueError, match="another version"):
        read(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 900,
        b"{}",
        b'{"version": 2}',
        b'{"version": true}',
        b'{"version": "1"}',
        b'{"version": 1}' + b" " * 1000,
    ],
)
def test_anything_else_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read(path)


def test_deep_nesting_is_refused(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(path, version=1, limit=1 << 20)


def test_a_link_and_a_fifo_are_refused_and_a_missing_file_is_missing(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(path)
    write_json(tmp_path / "elsewhere", {}, version=1, durable=False)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="not an ordinary file"):
        read(path)


@pytest.mark.parametrize("change", ["writable by the group", "writable by all", "second name"])
def test_a_private_record_that_others_may_have_changed(path: Path, change: str) -> None:
    write_json(path, {}, version=1, durable=False)
    match change:
        case "second name":
            path.with_name("second").hardlink_to(path)
        case "writable by the group":
            path.chmod(0o620)
        case _:
            path.chmod(0o602)
    with pytest.raises(PermissionError):
        read(path)
    assert read(path, private=False)


def test_a_failed_write_leaves_the_earlier_record(path: Path) -> None:
    write_json(path, {"good": 1}, version=1, durable=True)
    with pytest.raises(TypeError):
        write_json(path, {"bad": object()}, version=1, durable=True)
    assert read(path)["good"] == 1
    assert len(list(path.parent.iterdir())) == 1


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    made = tmp_path / "folder/file"
    made.write_text("x")
    made.chmod(0o664)  # groups may write
    return made


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        check_writers(path, path.stat())
    return f"{caught.value.message} ({caught.value.hint})"


def test_own_files_in_own_folders(file: Path) -> None:
    check_writers(file, file.stat())


def test_everybody_may_change_it(file: Path) -> None:
    file.chmod(0o646)
    assert f"chmod o-w {file}" in refusal(file)


@pytest.mark.parametrize("linked", [False, True])
def test_everybody_may_exchange_it(file: Path, linked: bool) -> None:
    """Also where it really is, behind a link."""
    open_folder = file.parent
    if linked:
        (file.parent.parent / "closed").mkdir()
        link = file.parent.parent / "closed/link"
        link.symlink_to(file)
        file = link
    open_folder.chmod(0o777)
    assert f"chmod o-w {open_folder}" in refusal(file)
    open_folder.chmod(0o1777)  # as /tmp: only the owner of a name may remove it
    check_writers(file, file.stat())
    open_folder.chmod(0o755)
    open_folder.parent.chmod(0o777)
    assert f"chmod o-w {open_folder.parent})" in refusal(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_it_belongs_to_a_stranger(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(file, 65534, 65534)
    assert "belongs to user 65534" in refusal(file)
    monkeypatch.setenv("SUDO_UID", "65534")
    check_writers(file, file.stat())
    monkeypatch.setenv("SUDO_UID", "1000")
    refusal(file)
    mapped = tmp_path / "uid_map"
    mapped.write_text("         0       1000          1\n")
    monkeypatch.setattr(files, "_NAMESPACES", mapped)
    check_writers(file, file.stat())  # in a user namespace, root's files look like that
