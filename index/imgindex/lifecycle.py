"""Deprecation of templates, in fields that virt-builder skips: pure functions over an ``Entry``.

``deprecated=true``: the template should not be used for new machines.
``deprecated_until=2027-01-31``: it may be withdrawn after that day.
``replaced_by=debian-13``: the template to use instead. The format allows no hyphens in names.
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
    """The deprecation of a template.

    Attributes:
        until: The planned day of its withdrawal; None when the index gives no valid date.
        replaced_by: Name of the template to use instead, or None.
    """

    until: date | None = None
    replaced_by: str | None = None


def deprecation(entry: Entry) -> Deprecation | None:
    """Return the deprecation of an entry; None for a template that is not deprecated."""
    fields = {item.key: item.value for item in entry.extra if item.subkey is None and item.key in _KEYS}
    if fields.get(_DEPRECATED) != "true":
        return None
    try:
        until = date.fromisoformat(fields[_UNTIL]) if _UNTIL in fields else None
    except ValueError:
        until = None
    return Deprecation(until, fields.get(_REPLACED_BY) or None)


def with_deprecation(entry: Entry, end: Deprecation | None) -> Entry:
    """Return an entry with this deprecation, in place of any earlier one."""
    kept = [item for item in entry.extra if item.subkey is not None or item.key not in _KEYS]
    if end is not None:
        kept.append(ExtraField(_DEPRECATED, None, "true"))
        if end.until is not None:
            kept.append(ExtraField(_UNTIL, None, end.until.isoformat()))
        if end.replaced_by is not None:
            kept.append(ExtraField(_REPLACED_BY, None, end.replaced_by))
    return settle_comments(dataclasses.replace(entry, extra=tuple(kept)))


def deprecation_notice(entry: Entry) -> str | None:
    """Return one line for users of a deprecated template; None for others."""
    end = deprecation(entry)
    if end is None:
        return None
    words = f"the template {entry.os_version} is deprecated"
    if end.until is not None:
        words += f", and may be withdrawn after {end.until.isoformat()}"
    if end.replaced_by is not None:
        words += f"; its publisher recommends {shorten(end.replaced_by)}"
    return words
