"""A small library with all that an entry may have, published for real."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from imgrepo.catalogue.make import CatalogueResult, make_catalogue
from imgrepo.catalogue.model import CatalogueRequest
from imgrepo.cli.main import run
from imgrepo.library.folder import EntryFolder, find_entries
from imgrepo.library.records import (
    BOOT_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    BootRecord,
    ContentsRecord,
    ImageMark,
    Package,
    SourceGap,
    SourcesRecord,
    Verdict,
)
from imgrepo.stats import Request, Statistics, count_downloads, files_of
from imgrepo.webroot.state import read_state
from tests.unit.imgrepo.repository import Repository, debian, image

PACKAGES = (("bash", "5.2.15-2"), ("dash", "0.5.12-2"), ("libc6", "2.36-9"), ("zlib1g", "1:1.2.13"))


def png(width: int, height: int, colour: tuple[int, int, int] = (40, 90, 140)) -> bytes:
    """Return a picture: stripes of a colour."""
    rows = b"".join(
        b"\0" + (bytes(colour) if row // 12 % 2 else b"\x10\x14\x18") * width for row in range(height)
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_entry(repository: Repository, name: str, day: str | None = None, **fields: object) -> EntryFolder:
    """Write an ``entry.toml``; ``day`` as TOML has it, ``fields`` with underscores for hyphens."""
    folder = repository.images / name
    folder.mkdir(exist_ok=True)
    values = {key.replace("_", "-"): value for key, value in fields.items()}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    lines += [f"not-before = {day}"] if day else []
    (folder / "entry.toml").write_text("\n".join(lines) + "\n")
    return EntryFolder(folder)


def write_records(
    repository: Repository, name: str, packages: Sequence[tuple[str, str]] = PACKAGES, *, booted: bool = True
) -> None:
    """Write what the tools would have found of the published image."""
    folder = EntryFolder(repository.images / name)
    item = read_state(repository.web, repository.images)[f"{name}.img"]
    mark = ImageMark(item.sha512, item.fingerprint)
    for place in (folder.boot, folder.contents, folder.sources):
        place.mkdir(exist_ok=True)
    (folder.boot / "screen.png").write_bytes(png(720, 400))
    (folder.boot / "thumbnail.png").write_bytes(png(320, 240))
    verdict, reason = (Verdict.BOOTED, "") if booted else (Verdict.FAILED, "no login prompt in 120 seconds")
    started = datetime(2026, 11, 20, 8, 30, tzinfo=UTC)
    BOOT_FILE.write(
        folder.boot,
        BootRecord(
            mark, verdict, reason, "7.2.11", "tcg", started, 41.7,
            ("[    2.1] ata1: link is slow to respond",), (22,), pictures=True,
        ),
    )  # fmt: skip
    found = tuple(
        Package(one, version, "amd64", one, version, ("GPL-2.0-or-later",), copyleft=True)
        for one, version in packages
    )
    system = "Debian GNU/Linux 12 (bookworm)"
    CONTENTS_FILE.write(folder.contents, ContentsRecord(mark, system, "debian", "12", "dpkg", found))
    archive = f"{name}-sources.tar"
    (folder.sources / archive).write_bytes(b"sources of " + name.encode())
    gaps = (SourceGap("glibc", "2.36-9", "the archive does not have it"),)
    SOURCES_FILE.write(folder.sources, _sources(folder.sources / archive, mark, gaps))


def _sources(archive: Path, mark: ImageMark, gaps: tuple[SourceGap, ...]) -> SourcesRecord:
    data = archive.read_bytes()
    digest = hashlib.sha512(data).hexdigest()
    return SourcesRecord(mark, archive.name, digest, len(data), (("bash", "5.2.15-2"),), gaps)


def make_library(repository: Repository) -> None:
    """Publish four templates: two dated, one of another system without any entry, one with all there is."""
    for name in ("ascii-snake", "debian-web", "plain"):
        repository.add(f"{name}.img", name.encode())
    write_entry(
        repository, "ascii-snake", day="2026-11-02", title="Snake in the terminal",
        tags=["games", "terminal"],
        description="A game for a terminal of 80 by 24 characters.\n\nIt starts by itself.",
        hints="Log in as root, without a password.\nThe keys are h, j, k and l.",
        licence="MIT", contributor="Ada Example", homepage="https://example.org/snake",
    )  # fmt: skip
    write_entry(
        repository, "debian-web", day="2026-11-24", title="A web server of Debian 12", tags=["server"],
        description="Debian 12 with nginx, which serves a page that says hello.",
        hints="The page is at port 8080 of your machine.", licence="GPL-2.0-or-later",
        contributor="Grace Example", source_offer="sources@example.org",
    )  # fmt: skip
    write_entry(repository, "later", day="2099-12-24", title="A surprise", description="It is secret.")
    # One image in its entry, where publish finds it; others lie next to theirs.
    (repository.images / "ascii-snake.img").rename(repository.images / "ascii-snake" / "ascii-snake.img")
    repository.publish()
    write_records(repository, "debian-web")
    (repository.images / "ascii-snake" / "screenshot.png").write_bytes(png(640, 480, (60, 120, 60)))


def make_example(repository: Repository, example: Path, *more: str) -> None:
    """Type what the README of the example types, but for what boots something; images are in memory.

    Its last day becomes one that will never come. ``more`` are options of ``catalogue``.
    """
    services, library, web = repository.services(), str(repository.images), str(repository.web)
    for number, entry in enumerate(find_entries(example)):
        made = image(repository.base / f"{entry.name}.img", bytes([number + 1]))
        repository.appliances.disks[made.name] = debian()
        words = ["entry", "new", entry.name, "--library", library, "--image", str(made), "--move"]
        assert run(words, services) == 0
        printed = entry.description.read_text().replace("not-before = 2025-12-24", "not-before = 2099-12-24")
        (repository.images / entry.name / "entry.toml").write_text(printed)
    publish = ["publish", library, "--output", web, "--gpg-key", repository.key, "--xz-preset", "0"]
    assert run(publish, services) == 0
    for name in ("guess", "life"):
        write_records(repository, name)
    show = ["catalogue", library, web, "--title", "Winter calendar", "--calendar", *more]
    assert run(show, services) == 0


def make_site(repository: Repository, **changes: object) -> CatalogueResult:
    """Make the catalogue as a publisher does."""
    statistics: Statistics | None = changes.pop("statistics", None)  # type: ignore[assignment]
    plain = CatalogueRequest(repository.images, repository.web, repository.web / "catalogue")
    request = dataclasses.replace(plain, **changes)  # type: ignore[arg-type]
    return make_catalogue(request, repository.services(), repository.events.append, statistics)


def downloads(repository: Repository, days: Mapping[int, int]) -> Statistics:
    """Count downloads of ``debian-web`` on days of November 2026."""
    entry = repository.entry("debian-web")
    requests = [
        Request(
            (f"192.0.2.{number}", "curl"), datetime(2026, 11, day, 9, tzinfo=UTC), "GET",
            f"/{entry.file}", 200, entry.compressed_size or 0,
        )
        for day, times in days.items()
        for number in range(times)
    ]  # fmt: skip
    return count_downloads(requests, files_of(repository.read()))
