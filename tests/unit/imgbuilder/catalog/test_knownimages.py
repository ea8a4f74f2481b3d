from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from imgbuilder.catalog.knownimages import KnownImages
from imgbuilder.events import Event
from imgindex.model import UNKNOWN_SIZE, Entry, Index

BARE = Entry("x", "x.img", "amd64", UNKNOWN_SIZE, sha256="ab" * 32, compressed_size=9)
FULL = replace(BARE, sha512="cd" * 64, format="qcow2", size=1 << 20)


def test_facts_come_back_for_the_same_bytes_only(tmp_path: Path) -> None:
    images = KnownImages(tmp_path / "images")
    other = replace(BARE, sha256="00" * 32)
    assert images.completed(Index((BARE,))).entries == (BARE,)
    images.remember(FULL)
    renamed = replace(BARE, os_version="y", file="z")
    assert images.completed(Index((BARE, other, renamed))).entries == (
        FULL,
        other,
        replace(renamed, sha512=FULL.sha512, format="qcow2", size=1 << 20),
    )
    contradicting = replace(BARE, sha512="ee" * 64)
    assert images.completed(Index((contradicting,))).entries == (contradicting,)


def test_what_is_not_complete_is_not_remembered(tmp_path: Path) -> None:
    images = KnownImages(tmp_path / "images")
    for entry in (
        BARE,
        replace(FULL, size=UNKNOWN_SIZE),
        replace(FULL, sha512=None),
        replace(FULL, sha256=None, sha512=None),
    ):
        images.remember(entry)
    assert not images.folder.exists()
    only_512 = replace(FULL, sha256=None)
    images.remember(only_512)
    assert images.completed(Index((replace(only_512, format=None, size=UNKNOWN_SIZE),))).entries == (
        only_512,
    )


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    events: list[Event] = []
    KnownImages(tmp_path / "file" / "images").remember(FULL, events.append)
    assert len(events) == 1
