"""Random indexes, made a hundred times faster than hypothesis makes them, from a seed that names each."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from random import Random
from typing import TypeVar

from imgindex.fields import entry_fields, is_known_field, settle_comments
from imgindex.model import Comment, Entry, ExtraField, FurtherFile, Index, Note
from imgindex.write import tidy_note

_PIECES = (
    *("", " ", "  ", "=", "[", "]", "[a]", "[evil]", "#", "# x", "-", "- ", "-----BEGIN PGP SIGNATURE-----"),
    *("file=", "notes=", "notes[de]=x", "From me", ".", "\\n", "%s", '"', "'", "x" * 40, "0", "true"),
    *("\u00e4", "\u00a0", "\u200b", "\u202e", "\u3000", "\ufeff", "\U0001f427", "\ufffd", "e\u0301"),
)
_LETTERS = "ABCxyz0189"
_T = TypeVar("_T")


def random_index(rng: Random) -> Index:
    """Return an index as ``write_index`` takes it, with any kind of field and comment."""
    entries: dict[tuple[str, str], Entry] = {}
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        entry = _entry(rng)
        entries[entry.os_version, entry.arch] = entry
    head, tail = _perhaps(rng, _comment) or "", _perhaps(rng, _comment) or ""
    return Index(tuple(entries.values()), head, tail if entries else "")


def _entry(rng: Random) -> Entry:
    aliases = {_word(rng, ".-") for _ in range(rng.choice((0, 0, 1, 3)))}
    notes = {_perhaps(rng, lambda r: _word(r, "_,.")) or "": _lines(rng) for _ in range(rng.randrange(4))}
    extra = {
        (key, subkey): ExtraField(key, subkey, _lines(rng))
        for _ in range(rng.randrange(4))
        if not is_known_field(key := _word(rng, "_."), subkey := _perhaps(rng, lambda r: _word(r, "_,.")))
    }
    name = _word(rng, "._-")
    entry = Entry(
        os_version=name,
        file=_path(rng),
        arch=rng.choice(("x86_64", "aarch64", "i686")),
        size=rng.randint(1, 2**34) * 512,
        name=_perhaps(rng, _text),
        osinfo=_perhaps(rng, _text),
        sha512=_perhaps(rng, _digest),
        revision=rng.choice((0, 1, 2, 2**63 - 1)),
        format=rng.choice((None, "raw", "qcow2")),
        compressed_size=_perhaps(rng, lambda r: r.randint(1, 2**40)),
        expand=rng.choice((None, "/dev/sda3")),
        lvexpand=rng.choice((None, "/dev/vg/root")),
        notes=tuple(Note(language, text) for language, text in notes.items()),
        hidden=rng.random() < 0.3,
        # Unlike any other template's: two may not have the same one.
        aliases=tuple(f"{name}+{rng.randrange(2**64)}{alias}" for alias in aliases),
        sig=_perhaps(rng, _path),
        zstd=(zstd := _perhaps(rng, _further_file)),
        blocks=None if zstd is None else _perhaps(rng, _further_file),
        extra=tuple(extra.values()),
    )
    labels = ["", *(label for label, _value in entry_fields(entry))]
    chosen = rng.sample(labels, rng.randrange(min(5, len(labels))))
    comments = tuple(Comment(label, _comment(rng)) for label in chosen)
    return settle_comments(Entry(**{**vars(entry), "comments": comments}))


def _further_file(rng: Random) -> FurtherFile:
    return FurtherFile(_path(rng), _digest(rng), rng.randint(1, 2**40))


def _perhaps(rng: Random, make: Callable[[Random], _T]) -> _T | None:
    return make(rng) if rng.random() < 0.6 else None


def _word(rng: Random, more: str) -> str:
    return rng.choice(_LETTERS) + "".join(rng.choices(_LETTERS + more, k=rng.randrange(8)))


def _path(rng: Random) -> str:
    return "/".join(_word(rng, "._~-") for _ in range(rng.choice((1, 1, 2, 3))))


def _digest(rng: Random) -> str:
    return f"{rng.getrandbits(512):0128x}"


def _text(rng: Random) -> str:
    """Return one line: pieces that mean something elsewhere in the format, and characters of any kind."""
    pieces = rng.choices(_PIECES, k=rng.randrange(6))
    if rng.random() < 0.3:
        characters = [chr(rng.randrange(0x20, 0x3000)) for _ in range(3)]
        pieces += [one for one in characters if unicodedata.category(one) not in {"Cc", "Zl", "Zp"}]
    rng.shuffle(pieces)
    return tidy_note("".join(pieces))


def _lines(rng: Random) -> str:
    return tidy_note("\n".join(_text(rng) for _ in range(rng.randrange(5))))


def _comment(rng: Random) -> str:
    return "\n".join(f"#{_text(rng)}" for _ in range(rng.randint(1, 3)))
