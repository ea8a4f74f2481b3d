"""Words in initial RAM filesystems, of the compressions and the layouts that distributions make."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.customize.initramfs import UnreadableError, find_words

NAME = b"0a1b2c3d-1111-4222-8333-444455556666"
WORDS = re.compile(re.escape(NAME), re.IGNORECASE)
PACKERS = (["gzip"], ["xz", "--check=crc32"], ["xz", "--format=lzma"], ["zstd", "-q"], ["bzip2"])


def archive(name: str, content: bytes) -> bytes:
    """An archive of one file."""

    def member(path: str, data: bytes) -> bytes:
        sizes = [0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % size for size in sizes) + path.encode() + b"\0"
        return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    return member(name, content) + member("TRAILER!!!", b"")


def packed(command: list[str], content: bytes) -> bytes:
    return subprocess.run([*command, "-c"], input=content, capture_output=True, check=True).stdout


def find(tmp_path: Path, content: bytes) -> set[bytes]:
    image = tmp_path / "initrd"
    image.write_bytes(content)
    return find_words(image, WORDS)


@pytest.mark.parametrize("command", PACKERS)
def test_a_word_behind_microcode_in_the_compressed_part(command: list[str], tmp_path: Path) -> None:
    early = archive("kernel/x86/microcode", b"x" * 1001) + bytes(1000)
    resume = archive("conf/conf.d/resume", b"RESUME=UUID=" + NAME.upper())
    assert find(tmp_path, early * 2 + packed(command, bytes(3 << 20) + resume)) == {NAME}
    assert find(tmp_path, early * 2 + packed(command, archive("init", b"#!/bin/sh"))) == set()


@pytest.mark.parametrize("before", range((1 << 20) - 40, (1 << 20) + 1, 8))
def test_a_word_that_two_pieces_share(before: int, tmp_path: Path) -> None:
    assert find(tmp_path, packed(["gzip"], bytes(before) + NAME + bytes(1 << 20))) == {NAME}


def test_a_word_that_is_not_compressed(tmp_path: Path) -> None:
    assert find(tmp_path, archive(f"devexists-{NAME.decode()}.sh", b"")) == {NAME}
    assert find(tmp_path, b"") == set()


def test_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    whole = packed(["zstd", "-q"], archive("a", bytes(range(256)) * 400))
    for content in (b"\x7fELF and more", whole[: len(whole) // 2]):
        with pytest.raises(UnreadableError):
            find(tmp_path, content)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from([archive("a", b"1"), b"\0" * 7, b"070701", b"\x1f\x8b", b"FFFFFFFF" * 20])
        | st.binary()
    )
)
def test_any_bytes_have_words_or_are_unreadable(pieces: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UnreadableError):
        assert find(Path(folder), b"".join(pieces)) == set()
