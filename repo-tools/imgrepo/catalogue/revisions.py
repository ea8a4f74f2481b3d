"""Former revisions of templates: the journal knows when and how large they were, the memory what changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from imgindex.model import Entry
from imgrepo.catalogue.memory import MOST_REVISIONS, Former
from imgrepo.catalogue.model import Change, Changes, Revision
from imgrepo.catalogue.text import line
from imgrepo.webroot.journal import Change as Step
from imgrepo.webroot.journal import Line

Key = tuple[str, str]


class Past:
    """The former revisions of all templates, as far as the journal is vouched for."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._steps: defaultdict[Key, list[tuple[Line, Step]]] = defaultdict(list)
        for one in reversed(lines):
            for step in one.changes:
                if step.before != step.after:
                    self._steps[step.name, step.arch].append((one, step))

    def of(self, entry: Entry, remembered: Sequence[Former]) -> tuple[Revision, ...]:
        """Return the former revisions of a template, newest first; ``remembered`` are those of the memory."""
        found: dict[int, Revision] = {}
        for one in remembered:
            found[one.revision] = Revision(one.revision, one.published, changes=clean(one.changes))
        steps = self._steps.get((entry.os_version, entry.arch), [])
        began = {step.after: one.when for one, step in reversed(steps)}
        for _one, step in steps[: MOST_REVISIONS + 1]:
            former = step.former_entry()
            if former is None:
                continue
            known = found.get(former.revision)
            found[former.revision] = Revision(
                former.revision,
                began.get(former.revision) or (known.published if known else None),
                former.size,
                former.compressed_size,
                known.changes if known else None,
            )
        found.pop(entry.revision, None)
        return tuple(found[number] for number in sorted(found, reverse=True))[:MOST_REVISIONS]


def clean(changes: Changes | None) -> Changes | None:
    """Clean the text of an old catalogue, which may be older than our rules."""
    if changes is None:
        return None
    packages = (Change(line(one.name), line(one.before), line(one.after)) for one in changes.packages)
    return Changes(changes.revision, tuple(packages))
