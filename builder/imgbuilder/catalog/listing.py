"""The texts of ``--list`` and ``--notes``, byte for byte as virt-builder prints them.

Programs read them, so that nothing may be added where ``docs/compatibility.md``
does not allow it.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.sizes import human_size
from imgindex.lexer import MISLEADING
from imgindex.model import UNKNOWN_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from imgbuilder.catalog.sources import Source
    from imgindex.model import Entry

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
    """Return the text of ``--list --long``: the sources, then the facts of each visible template.

    Args:
        sources: The sources to show; none in the list of one template.
        entries: The templates.
        languages: Preferred languages of the notes, as from ``preferred_languages``.
    """
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
    """Return the languages of a locale, the best first; the empty string is the default.

    Args:
        locale: Its name, such as ``de_AT.UTF-8@euro`` or ``C``.
    """
    match = re.fullmatch(_LOCALE, locale, re.IGNORECASE)  # compiled here: short lists do not need it
    if match is None or match[1] in ("C", "POSIX"):
        return ("",)
    language, territory = match[1], match[2] or ""
    return (language + territory, language, "") if territory else (language, "")
