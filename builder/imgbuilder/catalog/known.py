"""Public libraries that can be added by name; the table of them is ``imgbuilder/stock/known.toml``."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.catalog.sources import index_format
from imgbuilder.errors import UsageError
from imgbuilder.host import paths

TABLE = paths.STOCK_SOURCES / "known.toml"


@dataclass(frozen=True)
class KnownSource:
    """A public library, as the table describes it.

    Attributes:
        title: What it holds.
        offers: Further words that mean it.
        uri: The address of its index.
        licence: What its templates may be used for.
        key: The file with its key; None for a library without a signature.
        fingerprint: The only key in that file that counts.
        unsigned: Why no signature can be checked; empty for a signed library.
    """

    name: str
    title: str
    uri: str
    licence: str
    offers: tuple[str, ...] = ()
    key: Path | None = None
    fingerprint: str = ""
    unsigned: str = ""


def known_sources() -> dict[str, KnownSource]:
    """Return the known libraries by their names."""
    table = tomllib.loads(TABLE.read_text())
    return {
        name: KnownSource(
            name,
            fields["title"],
            fields["uri"],
            fields["licence"],
            tuple(fields.get("offers", ())),
            TABLE.parent / fields["key"] if "key" in fields else None,
            fields.get("fingerprint", ""),
            fields.get("unsigned", ""),
        )
        for name, fields in table.items()
    }


def known_source(word: str) -> KnownSource:
    """Return the library that a name means, or the first that has what it names."""
    known = known_sources()
    by_word = {offer: source for source in reversed(known.values()) for offer in source.offers} | known
    if word.lower() in by_word:
        return by_word[word.lower()]
    near = difflib.get_close_matches(word.lower(), by_word, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"no public library is known as {word!r}",
        hint=f"{meant}for all of them: pybuilder source available; "
        "to add another one: pybuilder source add NAME URL --gpgkey FILE",
    )


def known_list(configured: Mapping[str, Path | None]) -> str:
    """Return the text of ``source available``: a paragraph for each library.

    Args:
        configured: The configuration files of all sources by their names; None for one without a file.
    """
    paragraphs = []
    for source in known_sources().values():
        uri, kind = index_format(source.uri)
        facts = [("Source:", source.name), ("Holds:", source.title)]
        if source.offers:
            facts.append(("Also known as:", ", ".join(source.offers)))
        facts += [("URI:", str(uri)), ("Format:", kind.value)]
        facts.append(
            ("Not signed:", source.unsigned) if source.unsigned else ("Signed by:", source.fingerprint)
        )
        facts.append(("Licence:", source.licence))
        origin = configured.get(source.name)
        facts.append(("State:", "not added" if origin is None else f"configured in {origin}"))
        paragraphs.append("".join(f"{label:<24} {value}\n" for label, value in facts))
    return "\n".join(paragraphs)
