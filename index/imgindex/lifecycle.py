"""The end of a template's life, as fields that virt-builder skips: pure functions over an ``Entry``.

``deprecated=true`` says that a template should not be used for new machines,
``deprecated_until=2027-01-31`` how long it stays, ``replaced_by=debian-13`` what
to use instead. Field names have no hyphens, because the format allows none.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import date

from imgindex.fields import settle_comments
from imgindex.lexer import shorten
from imgindex.model import Entry, ExtraField

_DEPRECATED, _UNTIL, _REPLACED_BY = "deprecated", "deprecated_until", "replaced_by"
_KEYS = (_DEPRECATED, _UNTIL, _REPLACED_BY)


@dataclass(frozen=True)
class Deprecation:
    """A template that should not be used any more.

    Attributes:
        until: The day on which its publisher means to withdraw it; None when the index does not say, or
            says it in a way that is no date.
        replaced_by: Name of the template to use instead; None when the index does not say.
    """

    until: date | None = None
    replaced_by: str | None = None


def deprecation(entry: Entry) -> Deprecation | None:
    """Return what an entry says about its end; None for a template in good standing."""
    fields = {item.key: item.value for item in entry.extra if item.subkey is None and item.key in _KEYS}
    if fields.get(_DEPRECATED) != "true":
        return None
    try:
        until = date.fromisoformat(fields[_UNTIL]) if _UNTIL in fields else None
    except ValueError:
        until = None
    return Deprecation(until, fields.get(_REPLACED_BY) or None)


def with_deprecation(entry: Entry, end: Deprecation | None) -> Entry:
    """Return an entry that says this about its end, and nothing else about it."""
    kept = [item for item in entry.extra if item.subkey is not None or item.key not in _KEYS]
    if end is not None:
        kept.append(ExtraField(_DEPRECATED, None, "true"))
        if end.until is not None:
            kept.append(ExtraField(_UNTIL, None, end.until.isoformat()))
        if end.replaced_by is not None:
            kept.append(ExtraField(_REPLACED_BY, None, end.replaced_by))
    return settle_comments(dataclasses.replace(entry, extra=tuple(kept)))


def deprecation_notice(entry: Entry) -> str | None:
    """Return one line for people who use a template, None when there is nothing to say."""
    end = deprecation(entry)
    if end is None:
        return None
    words = f"the template {entry.os_version} is deprecated"
    if end.until is not None:
        words += f", and may be withdrawn after {end.until.isoformat()}"
    if end.replaced_by is not None:
        words += f"; its publisher recommends {shorten(end.replaced_by)}"
    return words
