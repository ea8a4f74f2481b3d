"""The files of one template: a publisher may offer the same disk packed twice.

``.xz`` is for every client; zstd unpacks several times faster (design.md
decision 8). Each is a template of its own here, with a digest of its own, so
that the two layers of the cache need not know about it.
"""

from __future__ import annotations

from dataclasses import replace

from imgbuilder.catalog.catalog import Selection
from imgbuilder.fetch.urls import template_url
from imgbuilder.host.process import find_program
from imgindex.model import Entry


def files_of(entry: Entry) -> tuple[Entry, ...]:
    """Return an entry once for each of its files, the quickest to unpack first."""
    if entry.zstd is None:
        return (entry,)
    packed = entry.zstd
    quick = replace(
        entry,
        file=packed.file,
        sha512=packed.sha512,
        compressed_size=packed.compressed_size,
        sig=None,
        zstd=None,
    )
    return (quick, replace(entry, zstd=None))


def for_everybody(selection: Selection) -> Selection:
    """Return a template with the file that every client can unpack, virt-builder too."""
    return replace(selection, entry=replace(selection.entry, zstd=None))


def usable(selection: Selection) -> tuple[Selection, ...]:
    """Return a template once for each of its files that this machine can unpack, in the same order.

    Raises:
        RepositoryError: The index gives a file an address outside the source.
    """
    files = files_of(selection.entry)
    if len(files) == 1:
        return (selection,)
    quick, plain = files
    others = (replace(selection, entry=plain),)
    if find_program("zstd") is None:
        return others
    return (replace(selection, entry=quick, url=template_url(selection.source.uri, quick.file)), *others)
