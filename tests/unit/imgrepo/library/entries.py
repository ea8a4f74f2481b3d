"""Entries in a publisher's folder, for tests."""

from __future__ import annotations

from datetime import UTC, datetime

from imgbuilder.events import ignore
from imgrepo.library import records
from imgrepo.library.folder import EntryFolder
from imgrepo.publishing.publish import PublishResult
from tests.unit.imgrepo.repository import Repository, debian, image

TEXT = 'title = "A demo"\ndescription = "It serves.\\n\\nA page."\nhints = "log in as root"\n'


def add(
    repository: Repository, name: str = "demo", text: str = TEXT, fill: bytes = b"x", ending: str = "img"
) -> EntryFolder:
    """Put an entry into the publisher's folder, or another image and text into it."""
    folder = EntryFolder(repository.images / name)
    folder.path.mkdir(exist_ok=True)
    folder.description.write_text(text)
    repository.appliances.disks[f"{name}.{ending}"] = debian()
    image(folder.path / f"{name}.{ending}", fill)
    return folder


def boot(folder: EntryFolder, verdict: records.Verdict = records.Verdict.BOOTED) -> None:
    """Write down what a boot check of the entry's image saw."""
    folder.boot.mkdir(exist_ok=True)
    mark = records.ImageMark.of(folder.image(), ignore)
    now = datetime.now(UTC)
    records.BOOT_FILE.write(
        folder.boot, records.BootRecord(mark, verdict, "panic", "7.2.11", "tcg", now, 1.0)
    )


def reasons(result: PublishResult) -> str:
    """Return why images were refused, one a line."""
    return "\n".join(f"{name}: {error.message} ({error.hint})" for name, error in result.refused.items())
