"""Compressing with the real xz."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from imgbuilder.errors import DiskError, ToolError, UsageError, WorkspaceError
from imgbuilder.events import Event, Progress, ProgressEnd
from imgbuilder.host.interrupts import Interrupted
from imgrepo.images.compress import check_preset, compress, hash_image, xz_arguments
from imgrepo.images.scan import SourceImage, scan
from tests.unit.imgrepo.repository import image, stand_in


def silent(_event: Event) -> None:
    return


def source(tmp_path: Path, size: int = 40 << 20) -> SourceImage:
    folder = tmp_path / "images"
    folder.mkdir(exist_ok=True)
    image(folder / "a.img", size=size)
    (found,), _skipped = scan(folder)
    return found


def test_the_digests_are_those_of_the_bytes_and_the_blocks_are_small(tmp_path: Path) -> None:
    found = source(tmp_path)
    events: list[Event] = []
    made = compress(found, tmp_path / "a.xz", xz_arguments("0"), events.append)
    data = made.path.read_bytes()
    assert (made.size, made.sha512) == (len(data), hashlib.sha512(data).hexdigest())
    unpacked = subprocess.run(["xz", "-dc", made.path], capture_output=True, check=True).stdout
    assert unpacked == found.path.read_bytes()
    assert made.source_sha512 == hashlib.sha512(unpacked).hexdigest() == hash_image(found, silent)
    listing = subprocess.run(["xz", "--robot", "--list", made.path], capture_output=True, check=True).stdout
    (totals,) = [line.split(b"\t") for line in listing.split(b"\n") if line.startswith(b"file\t")]
    assert totals[2] == b"3"  # blocks of 16 MiB
    done = [event.done for event in events if isinstance(event, Progress)]
    assert done == sorted(done)
    assert events[-1] == ProgressEnd()


@pytest.mark.row("R6")
def test_an_image_written_to_meanwhile_is_refused(tmp_path: Path) -> None:
    found = source(tmp_path)

    def write(event: Event) -> None:
        if isinstance(event, Progress):
            os.utime(found.path, ns=(5, 5))

    with pytest.raises(DiskError, match="changed"):
        compress(found, tmp_path / "a.xz", xz_arguments("0"), write)
    with pytest.raises(DiskError, match="changed"):
        hash_image(found, silent)


@pytest.mark.row("R6")
def test_an_image_that_became_shorter_is_refused(tmp_path: Path) -> None:
    found = source(tmp_path)
    os.truncate(found.path, 1 << 20)
    with pytest.raises(DiskError):
        compress(found, tmp_path / "a.xz", xz_arguments("0"), silent)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(tmp_path)
    real = Path.open

    def opened(path: Path, *arguments: object, **keywords: object) -> object:
        path = Path("/dev/full") if path.name == "a.xz" else path
        return real(path, *(["wb"] if path.name == "full" else arguments), **keywords)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(WorkspaceError, match="No space left"):
        compress(found, tmp_path / "a.xz", xz_arguments("0"), silent)


def test_an_image_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = source(tmp_path, size=8 << 20)
    real = Path.open

    class Broken:
        def __init__(self, file: object) -> None:
            self.file = file
            self.pieces = 0

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_details: object) -> None:
            self.file.close()  # type: ignore[attr-defined]

        def read(self, _size: int) -> bytes:
            self.pieces += 1
            if self.pieces == 3:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(_size)

    def opened(path: Path, *arguments: object, **keywords: object) -> object:
        file = real(path, *arguments, **keywords)  # type: ignore[call-overload]
        return Broken(file) if path.name == "a.img" else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(WorkspaceError, match=r"a\.img: Input/output error"):
        compress(found, tmp_path / "a.xz", xz_arguments("0"), silent)


def test_xz_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo xz: no memory >&2; exit 1", program="xz")
    with pytest.raises(ToolError, match="no memory"):
        compress(source(tmp_path), tmp_path / "a.xz", xz_arguments("0"), silent)


def test_a_signal_ends_xz_and_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, f"echo $$ >{tmp_path}/pid; echo x; exec sleep 1000", program="xz")

    def stop(_event: Event) -> None:
        raise Interrupted(15)

    with pytest.raises(Interrupted):
        compress(source(tmp_path), tmp_path / "a.xz", xz_arguments("0"), stop)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("preset", ["", "10", "x", "6 --memlimit=1", "-1"])
def test_unknown_presets_are_refused(preset: str) -> None:
    with pytest.raises(UsageError):
        check_preset(preset)


def test_the_preset_reaches_xz() -> None:
    check_preset("9e")
    assert "--lzma2=preset=9e,dict=16777216" in xz_arguments("9e")
