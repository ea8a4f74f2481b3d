"""The text of ``--list-format full``: JSON for programs, with everything about templates and sources.

The short, long and json lists are virt-builder's, byte for byte, and so cannot
name the signer of an index; this one is ours, and has version 2.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from imgbuilder.catalog.catalog import Catalog, FailedSource, Offer
from imgbuilder.catalog.loader import LoadedSource
from imgbuilder.catalog.sources import Source, SourceFormat
from imgbuilder.fetch.urls import template_url
from imgindex.model import UNKNOWN_SIZE, Entry
from imgindex.trust import VerifiedText

Fields = dict[str, object]


def full_list(catalog: Catalog, entries: Collection[Entry], now: datetime) -> str:
    """Return a list as JSON.

    Args:
        catalog: All sources, including unusable ones.
        entries: The entries to list: objects of the catalogue itself.
        now: The time, in UTC, for ages.
    """
    wanted = {id(entry) for entry in entries}
    shadowed = {id(offer.entry) for offer in catalog.shadowed}
    templates = [
        _template(offer, shadowed=id(offer.entry) in shadowed)
        for offer in catalog.every_offer
        if id(offer.entry) in wanted
    ]
    fields = {
        "version": 2,
        "sources": [_loaded(item, now) for item in catalog.loaded],
        "unusable-sources": [_failed(item) for item in catalog.failed],
        "templates": templates,
    }
    return json.dumps(fields, indent=2) + "\n"  # pure ASCII: nothing in it can control a terminal


def _loaded(item: LoadedSource, now: datetime) -> Fields:
    return _source(item.source) | {"signed": None if item.signed is None else _signature(item.signed, now)}


def _failed(item: FailedSource) -> Fields:
    return _source(item.source) | {"error": item.error.message, "hint": item.error.hint}


def _source(source: Source) -> Fields:
    fields: Fields = {
        "name": source.name,
        "uri": source.shown_uri,
        "mirrors": list(source.mirrors),
        "configuration": _path(source.origin),
        "format": source.format.value,
        "key": str(source.key) if source.key is not None and not isinstance(source.key, tuple) else None,
        "fingerprints": list(source.key if isinstance(source.key, tuple) else source.only),
    }
    return fields


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _signature(signed: VerifiedText, now: datetime) -> Fields:
    return {
        "by": signed.primary_fingerprint,
        "with": signed.fingerprint,
        "at": signed.signed_at.isoformat(),
        "age": max(0, int((now - signed.signed_at).total_seconds())),
        "expires": None if signed.expires_at is None else signed.expires_at.isoformat(),
    }


def _template(offer: Offer, *, shadowed: bool) -> Fields:
    entry, source = offer.entry, offer.source
    zstd = entry.zstd
    return {
        "os-version": entry.os_version,
        "source": source.name,
        "shadowed": shadowed,
        "full-name": entry.name,
        "arch": entry.arch,
        "osinfo": entry.osinfo,
        "aliases": list(entry.aliases),
        "hidden": entry.hidden,
        "revision": entry.revision if source.format is SourceFormat.NATIVE else None,
        "size": None if entry.size == UNKNOWN_SIZE else entry.size,
        "format": entry.format,
        "url": template_url(source.uri, entry.file),
        "compressed-size": entry.compressed_size,
        "sha512": entry.sha512,
        "sha256": entry.sha256,
        "zstd": None
        if zstd is None
        else {
            "url": template_url(source.uri, zstd.file),
            "compressed-size": zstd.compressed_size,
            "sha512": zstd.sha512,
        },
        "expand": entry.expand,
        "lvexpand": entry.lvexpand,
        "notes": {note.language: note.text for note in entry.notes},
        "other": {
            item.key if item.subkey is None else f"{item.key}[{item.subkey}]": item.value
            for item in entry.extra
        },
    }
