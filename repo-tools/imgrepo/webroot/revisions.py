"""Gives a template an image that was published before: its former one, or that of another template.

Revisions never go back: clients that hold the newer one would refuse the older.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.events import Reporter
from imgindex.fields import settle_comments
from imgindex.gpg import trusted_keys_from_file
from imgindex.model import Entry, Index
from imgindex.trust import TrustedKeys
from imgrepo.services import Services, Signing
from imgrepo.webroot.edit import Edited, edit, edit_with_keys, find, same_arch
from imgrepo.webroot.entries import files_of, is_complete
from imgrepo.webroot.journal import Action, Journal, former_revisions, read_journal
from imgrepo.webroot.signing import PUBLIC_KEY, read_served
from imgrepo.webroot.state import (
    former_entries,
    protected_templates,
    refuse_protected,
    remember_protected,
    remember_set_aside,
    set_aside_files,
    withdrawn_templates,
)
from imgrepo.webroot.transaction import locked


def rollback(
    folder: Path, signing: Signing, services: Services, name: str, arch: str | None, on_event: Reporter,
    *, revision: int | None = None,
) -> Edited:  # fmt: skip
    """Publish a former image of a template under a new, higher revision.

    It is the image before the present one, or that of ``revision``. Title and notes come back with it;
    other names, a deprecation and so on stay as they are. ``publish`` leaves the present image out until it
    changes.
    """

    def change(index: Index, trusted: TrustedKeys) -> Index:
        text = read_served(folder, services)[0].text or ""
        journal = read_journal(folder, services.verifier, trusted, text)
        if journal.problem is not None:
            raise RepositoryError(
                f"the former revisions are not known for certain: {journal.problem}",
                hint="see: pybuilder-repo history --help",
            )
        made = {
            (entry.os_version, entry.arch): _rolled_back(folder, entry, journal, revision)
            for entry in find(index, name, arch)
        }
        return _put(folder, index, made)

    return edit_with_keys(folder, signing, services, change, on_event, action=Action.ROLLBACK)


def _rolled_back(folder: Path, entry: Entry, journal: Journal, revision: int | None) -> Entry:
    known = [former for _when, former in former_revisions(journal.lines, entry.os_version, entry.arch)]
    fitting = [
        former
        for former in known
        if former.sha512 != entry.sha512 and (revision is None or former.revision == revision)
    ]
    if not fitting:
        others = sorted({one.revision for one in known if one.sha512 != entry.sha512})
        what = "former revision" if revision is None else f"revision {revision} with a different image"
        raise UsageError(
            f"the journal knows no {what} of {entry.os_version}",
            hint=f"known are: {', '.join(map(str, others)) or 'none'}",
        )
    former = fitting[0]
    missing = [file.name for file in files_of(former) if not is_complete(folder, file)]
    if missing:
        raise UsageError(
            f"revision {former.revision} of {entry.os_version} cannot come back: {', '.join(missing)} was "
            "deleted by prune",
            hint="restore the file from a backup, or publish the old image again",
        )
    return dataclasses.replace(
        former,
        revision=max(one.revision for one in (entry, *known)) + 1,
        aliases=entry.aliases,
        hidden=entry.hidden,
        extra=entry.extra,
        comments=entry.comments,
    )


def move_channel(
    folder: Path, signing: Signing, services: Services, source: str, target: str, arch: str | None,
    on_event: Reporter,
) -> Edited:  # fmt: skip
    """Give a template the image of another one, as its next revision; a missing one is made."""

    def change(index: Index) -> Index:
        if source == target:
            raise UsageError(f"{source} and {target} are the same template")
        owner = next((entry.os_version for entry in index.entries if target in entry.aliases), None)
        if owner is not None:
            raise UsageError(f"{target} is an alias of {owner}", hint="see: pybuilder-repo alias --help")
        former, withdrawn = former_entries(folder), withdrawn_templates(folder)
        made = {}
        for entry in find(index, source, arch):
            key = (target, entry.arch)
            if key in withdrawn:
                raise UsageError(
                    f"{target} was withdrawn",
                    hint=f"to bring it back: pybuilder-repo withdraw --undo {folder} {target} --gpg-key KEY",
                )
            old = index.find(*key)
            if old is None or old.sha512 != entry.sha512:
                made[key] = _promoted(entry, target, old, former.get(key))
        return _put(folder, index, made)

    return edit(folder, signing, services, change, on_event, action=Action.CHANNEL)


def _promoted(entry: Entry, target: str, old: Entry | None, former: Entry | None) -> Entry:
    last = old or former
    return dataclasses.replace(
        entry,
        os_version=target,
        revision=1 if last is None else last.revision + 1,
        aliases=() if old is None else old.aliases,
        hidden=old is not None and old.hidden,
        extra=() if old is None else old.extra,
        comments=(),
    )


def _put(folder: Path, index: Index, made: dict[tuple[str, str], Entry]) -> Index:
    """Put entries into an index; ``publish`` leaves the images that they replace out from now on."""
    replaced = {entry.file for entry in index.entries if (entry.os_version, entry.arch) in made}
    entries = [made.get((entry.os_version, entry.arch), entry) for entry in index.entries]
    added = [entry for key, entry in made.items() if index.find(*key) is None]
    new = dataclasses.replace(index, entries=tuple(map(settle_comments, (*entries, *added))))
    refuse_protected(folder, index, new)
    remember_set_aside(folder, (set_aside_files(folder) | replaced) - {one.file for one in made.values()})
    return new


def protect(
    folder: Path, services: Services, names: Sequence[str], arch: str | None, *, undo: bool
) -> tuple[tuple[str, str], ...]:
    """Protect templates from being replaced or taken away, or end that; return all protected ones."""
    with locked(folder):
        before = protected_templates(folder)
        if undo:
            chosen = {key for key in before if key[0] in names and (arch is None or same_arch(key[1], arch))}
            missing = set(names) - {name for name, _arch in chosen}
            if missing:
                raise UsageError(f"not protected: {', '.join(sorted(missing))}")
            after = before - chosen
        else:
            index = read_served(folder, services)[0].index
            found = [entry for name in names for entry in find(index, name, arch)]
            after = before | {(entry.os_version, entry.arch) for entry in found}
        remember_protected(folder, after)
    return tuple(sorted(after))


def history(folder: Path, services: Services) -> Journal:
    """Return the journal of a served folder, as far as the keys in its key file vouch for it."""
    published, _signed = read_served(folder, services)
    trusted = trusted_keys_from_file(folder / PUBLIC_KEY, where=str(folder), any_owner=True)
    return read_journal(folder, services.verifier, trusted, published.text or "")


def last_replaced(journal: Journal) -> dict[tuple[str, str], datetime]:
    """Return when the image of each template last changed, as far as the journal knows."""
    files: dict[tuple[str, str], str] = {}
    times: dict[tuple[str, str], datetime] = {}
    for line in journal.lines:
        for change in line.changes:
            key = (change.name, change.arch)
            if files.get(key) != change.file:
                files[key], times[key] = change.file, line.when
    return times
