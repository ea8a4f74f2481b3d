"""Reports what users get: the index at a public address, the files and pages there, and upload targets."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from imgbuilder.errors import (
    FileMissingError,
    NoRangesError,
    PybuilderError,
    WrongSizeError,
)
from imgbuilder.events import Reporter, Step
from imgbuilder.fetch.transfer import INDEX_LIMIT, INDEX_SECONDS, Download, Fetcher
from imgbuilder.fetch.urls import Address, check_uri, template_url
from imgbuilder.host.privatefolder import scratch_folder
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Entry, Index
from imgindex.parse import parse_index
from imgrepo.catalogue.memory import LARGEST, MEMORY_NAME, parse_memory
from imgrepo.publishing.status import FolderStatus, index_status, pages_behind
from imgrepo.services import Services
from imgrepo.sharing.mirror import index_address
from imgrepo.sharing.upload import CATALOGUE, Target, UploadPlace, read_place
from imgrepo.webroot.entries import downloads_of
from imgrepo.webroot.signing import PUBLIC_KEY, SIGNED_INDEX, read_index_file

_KEY_LIMIT = 1 << 20


def public_status(
    url: str, key_file: Path | None, services: Services, on_event: Reporter, *, within: timedelta
) -> FolderStatus:
    """Check what users get at the address of an index, or of its folder: one small request for each file.

    Without ``key_file``, the key file next to the index is used, which proves only that both belong together.
    """
    check_uri(url)
    address = Address(url).derive(index_address)
    on_event(Step(f"Asking {address}"))
    data = _read(services.fetcher, address, INDEX_LIMIT)
    with scratch_folder() as folder:
        if key_file is None:
            key_file = folder / PUBLIC_KEY
            key_file.write_bytes(_read(services.fetcher, template_url(address, PUBLIC_KEY), _KEY_LIMIT))
        pin = trusted_keys_from_file(key_file, where=str(key_file))
        tolerant = replace(pin, extra_signatures=True, expired_signatures=True)
        signed = services.verifier.verify(data, tolerant, where=str(address))
        index = parse_index(signed, where=str(address))
        status = index_status(data, signed, index, key_file, services.clock(), within)
    files = _files(services.fetcher, address, index.entries)
    return replace(status, problems=(*status.problems, *files, *_pages(services.fetcher, address, index)))


def address_behind(
    folder: Path, url: str, entries: Sequence[Entry], fetcher: Fetcher, on_event: Reporter
) -> Iterator[str]:
    """Compare the index at an address with that of the served folder; ask for the files of some entries."""
    address = Address(url).derive(index_address)
    on_event(Step(f"Asking {address}"))
    try:
        theirs = _read(fetcher, address, INDEX_LIMIT)
    except PybuilderError as error:
        yield error.in_one_line
        return
    if theirs != read_index_file(folder / SIGNED_INDEX):
        yield (
            f"{Address(url)} serves a different index from the one in {folder} (does it go through a cache "
            "that keeps it? is a target missing in library.toml?)"
        )
        return
    yield from _files(fetcher, address, entries)


def _read(fetcher: Fetcher, address: Address, limit: int) -> bytes:
    body = io.BytesIO()
    fetcher.fetch(Download(address, body, limit=limit, seconds=INDEX_SECONDS))
    return body.getvalue()


def _files(fetcher: Fetcher, address: Address, entries: Sequence[Entry]) -> Iterator[str]:
    """Ask for one byte of each file: the answer says how long the whole is."""
    for file in {file.name: file for entry in entries for file in downloads_of(entry)}.values():
        where = template_url(address, file.name)
        try:
            fetcher.fetch(
                Download(where, io.BytesIO(), limit=1, expected=file.size, digest_known=True, span=(0, 1))
            )
        except NoRangesError:
            continue  # it is there; its size cannot be known without fetching it
        except FileMissingError:
            yield f"{where} is missing: upload again"
        except WrongSizeError:
            yield f"{where} does not have the {file.size} bytes that the index names: upload again"
        except PybuilderError as error:
            yield f"{file.name} cannot be fetched: {error.message}"


def _pages(fetcher: Fetcher, address: Address, index: Index) -> Iterator[str]:
    where = template_url(address, f"{CATALOGUE}/{MEMORY_NAME}")
    try:
        data = _read(fetcher, where, LARGEST)
    except FileMissingError:
        return  # a library without pages
    except PybuilderError as error:
        yield f"the pages cannot be fetched: {error.message}"
        return
    yield from pages_behind(parse_memory(data, where=str(where)), index)


def targets_behind(
    folder: Path, targets: Sequence[str], open_target: Callable[[UploadPlace], Target]
) -> Iterator[str]:
    """Compare the index at each upload target with that of the served folder on this machine."""
    ours = read_index_file(folder / SIGNED_INDEX)
    for text in targets:
        place = read_place(text)
        again = f"pybuilder-repo upload {folder} {place.shown}"
        try:
            theirs = open_target(place).read(SIGNED_INDEX, INDEX_LIMIT)
        except PybuilderError as error:
            yield f"the target {place.shown} cannot be read: {error.message}"
            continue
        if theirs != ours:
            yield f"the target {place.shown} does not have this index: {again}"
