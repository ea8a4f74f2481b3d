"""The texts of ``--list`` and ``--notes``, byte for byte as virt-builder prints them; and lists of our own.

Programs read them, so that nothing may be added where ``docs/compatibility.md``
does not allow it. Those lists cannot name the signer of an index;
``--list-format full`` is ours, and has version 2.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.catalog.sources import SourceFormat
from imgbuilder.errors import SourceStateError
from imgbuilder.fetch.transfer import SYSTEM_PROXY
from imgbuilder.fetch.urls import template_url
from imgbuilder.sizes import human_size
from imgindex.accept import show
from imgindex.lexer import MISLEADING
from imgindex.model import UNKNOWN_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from imgbuilder.catalog.catalog import Catalog, FailedSource, Offer
    from imgbuilder.catalog.loader import LoadedSource
    from imgbuilder.catalog.sourcefiles import SourcesResult
    from imgbuilder.catalog.sources import Source
    from imgbuilder.catalog.state import SourceStates
    from imgindex.model import Entry, FurtherFile
    from imgindex.trust import VerifiedText

Fields = dict[str, object]

_LOCALE = r"([a-z]+)(_[a-z]+)?(\.[a-z0-9-]+)?(@[a-z]+)?"

_ESCAPES = {
    **{code: f"\\u{code:04x}" for code in (*range(0x20), *range(0x7F, 0xA0), *range(0xDC80, 0xDD00))},
    **str.maketrans({'"': '\\"', "\\": "\\\\", "\b": "\\b", "\n": "\\n", "\r": "\\r", "\t": "\\t"}),
}
"""Characters that JSON or a terminal does not take as they are; the last range is bytes outside UTF-8."""


def short_list(entries: Iterable[Entry]) -> str:
    """Return the table of ``--list``: name, architecture and title of each visible template."""
    return "".join(
        f"{entry.os_version:<24} {entry.arch:<10}" + ("" if entry.name is None else f" {entry.name}") + "\n"
        for entry in entries
        if not entry.hidden
    )


def long_list(sources: Iterable[Source], entries: Iterable[Entry], languages: Sequence[str] = ("",)) -> str:
    """Return the text of ``--list --long``: the sources, then the facts of each visible template."""
    lines: list[str] = []
    for source in sources:
        lines.append(f"Source URI: {source.listed_uri}")
        if isinstance(source.key, Path):
            lines.append(f"Key: {source.key}")
        elif source.key is not None:
            lines.append(f"Fingerprint: {','.join(source.key)}")
        lines.append("")
    for entry in entries:
        if not entry.hidden:
            lines += _facts(entry, languages)
    return "".join(line + "\n" for line in lines)


def _facts(entry: Entry, languages: Sequence[str]) -> list[str]:
    facts = [("os-version:", entry.os_version)]
    if entry.name is not None:
        facts.append(("Full name:", entry.name))
    facts.append(("Architecture:", entry.arch))
    if entry.size != UNKNOWN_SIZE:
        facts.append(("Minimum/default size:", human_size(entry.size)))
    if entry.compressed_size is not None:
        facts.append(("Download size:", human_size(entry.compressed_size)))
    if entry.aliases:
        facts.append(("Aliases:", " ".join(entry.aliases)))
    lines = [f"{label:<24} {value}" for label, value in facts]
    notes = notes_text(entry, languages)
    if notes is not None:
        lines += ["", "Notes:", "", notes]
    return [*lines, ""]


def is_pattern(name: str) -> bool:
    """Report whether a name is a shell pattern: names of templates have no such characters."""
    return not {"*", "?", "["}.isdisjoint(name)


def matching(entries: Iterable[Entry], pattern: str) -> tuple[Entry, ...]:
    """Return the visible templates whose name or alias matches a shell pattern."""
    return tuple(
        entry
        for entry in entries
        if not entry.hidden and any(fnmatchcase(name, pattern) for name in (entry.os_version, *entry.aliases))
    )


def search(entries: Iterable[Entry], word: str) -> tuple[Entry, ...]:
    """Return the visible templates with a word, in any case, in name, alias, full name, osinfo or notes."""
    wanted = word.casefold()
    return tuple(
        entry for entry in entries if not entry.hidden and any(wanted in text for text in _texts(entry))
    )


def _texts(entry: Entry) -> Iterator[str]:
    notes = [note.text for note in entry.notes]
    for text in (entry.os_version, *entry.aliases, entry.name, entry.osinfo, *notes):
        yield (text or "").casefold()


def json_list(sources: Iterable[Source], entries: Iterable[Entry]) -> str:
    """Return the text of ``--list --list-format json``, which includes hidden templates."""
    return (
        _json(
            {
                "version": 1,
                "sources": [_json_source(source) for source in sources],
                "templates": [_json_entry(entry) for entry in entries],
            }
        )
        + "\n"
    )


def _json_source(source: Source) -> dict[str, object]:
    fields: dict[str, object] = {}
    if isinstance(source.key, Path):
        fields["key"] = str(source.key)
    elif source.key is not None:
        fields["fingerprint"] = ",".join(source.key)
    fields["uri"] = source.listed_uri
    return fields


def _json_entry(entry: Entry) -> dict[str, object]:
    fields: dict[str, object] = {"os-version": entry.os_version}
    if entry.name is not None:
        fields["full-name"] = entry.name
    fields["arch"] = entry.arch
    if entry.size != UNKNOWN_SIZE:  # virt-builder writes the size of the download here
        fields["size"] = entry.size
    if entry.compressed_size is not None:
        fields["compressed-size"] = str(entry.compressed_size)
    if entry.notes:
        notes = sorted((_language(note.language), note.text) for note in entry.notes)
        fields["notes"] = {language or "C": text for language, text in notes}
    if entry.aliases:
        fields["aliases"] = list(entry.aliases)
    if entry.osinfo is not None:
        fields["osinfo"] = entry.osinfo
    fields["hidden"] = entry.hidden
    return fields


def _json(value: object, indent: str = "") -> str:
    # The json module escapes more than virt-builder does, and prints empty containers differently.
    deeper = indent + "  "
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        items = [f"{deeper}{_json(key)}: {_json(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + ("\n" if items else "") + indent + "}"
    if isinstance(value, list):
        items = [deeper + _json(item, deeper) for item in value]
        return "[\n" + ",\n".join(items) + ("\n" if items else "") + indent + "]"
    if isinstance(value, int):
        return str(value)
    text = str(value).translate(_ESCAPES)
    return '"' + MISLEADING.sub(lambda found: json.dumps(found[0])[1:-1], text) + '"'


def _language(tag: str) -> str:
    return "" if tag == "C" else tag


def notes_text(entry: Entry, languages: Sequence[str]) -> str | None:
    """Return a template's notes in the first preferred language that it has; None without any."""
    notes: dict[str, str] = {}
    for note in entry.notes:
        notes.setdefault(_language(note.language), note.text)
    return next((notes[language] for language in languages if language in notes), None)


def preferred_languages(locale: str) -> tuple[str, ...]:
    """Return the languages of a locale, the best first; the empty string is the default."""
    match = re.fullmatch(_LOCALE, locale, re.IGNORECASE)  # compiled here: short lists do not need it
    if match is None or match[1] in ("C", "POSIX"):
        return ("",)
    language, territory = match[1], match[2] or ""
    return (language + territory, language, "") if territory else (language, "")


def full_list(catalog: Catalog, entries: Collection[Entry], now: datetime) -> str:
    """Return the text of ``--list-format full``: everything about templates and sources, as JSON."""
    wanted = {id(entry) for entry in entries}
    shadowed = {id(offer.entry) for offer in catalog.shadowed}
    templates = [
        _full_template(offer, shadowed=id(offer.entry) in shadowed)
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
    return _full_source(item.source) | {
        "signed": None if item.signed is None else _signature(item.signed, now)
    }


def _failed(item: FailedSource) -> Fields:
    return _full_source(item.source) | {"error": item.error.message, "hint": item.error.hint}


def _full_source(source: Source) -> Fields:
    return {
        "name": source.name,
        "uri": source.shown_uri,
        "mirrors": list(source.mirrors),
        "configuration": _path(source.origin),
        "format": source.format.value,
        "key": str(source.key) if source.key is not None and not isinstance(source.key, tuple) else None,
        "fingerprints": list(source.key if isinstance(source.key, tuple) else source.only),
    }


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


def _full_template(offer: Offer, *, shadowed: bool) -> Fields:
    entry, source = offer.entry, offer.source

    def further(file: FurtherFile | None) -> Fields | None:
        if file is None:
            return None
        url = template_url(source.uri, file.file)
        return {"url": url, "compressed-size": file.compressed_size, "sha512": file.sha512}

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
        "zstd": further(entry.zstd),
        "blocks": further(entry.blocks),
        "expand": entry.expand,
        "lvexpand": entry.lvexpand,
        "notes": {note.language: note.text for note in entry.notes},
        "other": {
            item.key if item.subkey is None else f"{item.key}[{item.subkey}]": item.value
            for item in entry.extra
        },
    }


def source_list(found: SourcesResult, states: SourceStates, answers: Sequence[str] = ()) -> str:
    """Return the text of ``pybuilder source list``: a paragraph for each source, the most important first."""
    paragraphs = [list(_source_facts(source, states)) for source in found.sources]
    for paragraph, answer in zip(paragraphs, answers, strict=False):
        paragraph.append(("Answer now:", answer))
    paragraphs += [
        [("Source:", name), ("Configuration:", str(origin)), ("State:", "switched off by enabled=no")]
        for name, origin in found.disabled
    ]
    return "".join(
        "".join(f"{label:<24} {value}\n" for label, value in paragraph) + "\n" for paragraph in paragraphs
    )


def _source_facts(source: Source, states: SourceStates) -> Iterator[tuple[str, str]]:
    yield "Source:", source.name
    for uri in source.addresses:
        yield "URI:", uri
    if source.format is not SourceFormat.NATIVE:
        yield "Format:", source.format.value
    yield "Configuration:", "command line" if source.origin is None else str(source.origin)
    if isinstance(source.key, Path):
        yield "Key:", str(source.key)
        if source.only:
            yield "Fingerprint:", ",".join(source.only)
    elif source.key:
        yield "Fingerprint:", ",".join(source.key)
    if source.proxy != SYSTEM_PROXY:
        yield "Proxy:", source.proxy
    if source.max_age is not None:
        yield "Oldest allowed:", f"{source.max_age // timedelta(days=1)} days"
    try:
        last = states.newest(source.index_addresses)
    except SourceStateError as error:
        yield "State:", error.in_one_line
        return
    if last is None:
        yield "State:", "not signed (unsigned=yes)" if source.unsigned else "never used"
        return
    yield "State:", "was signed before; refused with unsigned=yes" if source.unsigned else "signed"
    yield "Signed by:", last.signer
    yield "Signed at:", show(last.signed_at)
    yield "Expires:", "never" if last.expires_at is None else show(last.expires_at)
    yield "Last accepted:", show(last.accepted_at)
