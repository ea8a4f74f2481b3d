"""Changes a published index without any image: read, change, sign, put in place.

The changes are pure functions from index to index.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, info, warn
from imgbuilder.host.arch import normalise
from imgbuilder.sizes import counted
from imgindex.fields import Deprecation, is_known_field, settle_comments, with_deprecation
from imgindex.model import Entry, ExtraField, Index, Note
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys, UnverifiedText
from imgindex.write import tidy_note, write_index
from imgrepo.services import Services, Signing
from imgrepo.webroot.entries import files_of, is_complete
from imgrepo.webroot.journal import Action
from imgrepo.webroot.retired import retire, served_files
from imgrepo.webroot.signing import SIGNED_INDEX, IndexSigner, PublishedIndex, is_premature, signing_step
from imgrepo.webroot.state import (
    former_entries,
    refuse_protected,
    remember_withdrawn,
    withdrawn_templates,
)
from imgrepo.webroot.transaction import open_session

_PATIENCE = 10.0
"""Seconds to wait for another command that changes the index, which takes a moment."""


@dataclass(frozen=True)
class Edited:
    """An index before and after."""

    before: Index
    after: Index


def edit(
    folder: Path,
    signing: Signing,
    services: Services,
    change: Callable[[Index], Index],
    on_event: Reporter,
    *,
    action: Action = Action.EDIT,
    finish: bool = False,
) -> Edited:
    """Change the published index and sign it with the keys that signed the present one.

    A rotation is signed even if nothing changes; with ``finish`` it drops other keys.
    """

    def from_index(index: Index, _trusted: TrustedKeys) -> Index:
        return change(index)

    return edit_with_keys(folder, signing, services, from_index, on_event, action=action, finish=finish)


def edit_with_keys(
    folder: Path,
    signing: Signing,
    services: Services,
    change: Callable[[Index, TrustedKeys], Index],
    on_event: Reporter,
    *,
    action: Action,
    finish: bool = False,
) -> Edited:
    """Change the published index as ``edit`` does; the change is given the keys that sign as well."""
    with _opened(folder, signing, services, on_event, finish=finish) as (signer, old):
        new = change(old.index, signer.trusted)
        if new == old.index and action is not Action.ROTATE_KEY:
            info(on_event, "nothing to change")
        else:
            on_event(signing_step(new))
            signer.replace(folder, old, new, action, finish=finish)
        retire(served_files(folder, on_event), new, old.index, now=services.clock(), on_event=on_event)
    return Edited(old.index, new)


def refresh(
    folder: Path, signing: Signing, services: Services, on_event: Reporter, *, within: timedelta | None
) -> bool:
    """Sign the published index again, with nothing else changed; return whether it was.

    With ``within``, only if the present signature expires within this time.
    """
    with _opened(folder, signing, services, on_event) as (signer, old):
        now = services.clock()
        future = old.signed_at is not None and is_premature(old.signed_at, now)
        if within is not None and not future and (old.expires_at is None or old.expires_at - now > within):
            if old.expires_at is None:
                info(on_event, "the signature does not expire; nothing to renew")
            else:
                end = f"{old.expires_at:%Y-%m-%d %H:%M} UTC"
                info(on_event, f"the signature expires at {end}: it is not renewed yet")
            return False
        on_event(signing_step(old.index))
        signer.replace(folder, old, old.index, Action.REFRESH)
    return True


def rotate(
    folder: Path, old_key: str, new_key: str, signing: Signing, services: Services, on_event: Reporter,
    *, finish: bool,
) -> None:  # fmt: skip
    """Move from one signing key to the next: both sign, or with ``finish`` only the new one."""
    keys = services.make_keys(signing)
    if keys.check_key(old_key) == keys.check_key(new_key):
        raise UsageError(f"{old_key} and {new_key} are the same key")
    chosen = dataclasses.replace(
        signing, key=new_key if finish else old_key, also=() if finish else (new_key,)
    )
    edit(folder, chosen, services, lambda index: index, on_event, action=Action.ROTATE_KEY, finish=finish)


def withdraw(
    folder: Path, signing: Signing, services: Services, names: Sequence[str], arch: str | None,
    on_event: Reporter, *, now: bool = False,
) -> Edited:  # fmt: skip
    """Remove templates from the index; with ``now`` also their files, as for a secret that leaked.

    They are remembered first, so that ``publish`` does not add them again.
    """

    def change(index: Index) -> Index:
        before = withdrawn_templates(folder)
        for name in names:
            gone = all(entry.os_version != name for entry in index.entries)
            if gone and not now and any(key[0] == name for key in before):
                raise UsageError(
                    f"{name} is withdrawn already",
                    hint=f"to bring it back: pybuilder-repo withdraw --undo {folder} {name} --gpg-key KEY",
                )
        known = {name for name, _arch in before} if now else set()
        chosen = [
            entry
            for name in names
            if name not in known or any(entry.os_version == name for entry in index.entries)
            for entry in find(index, name, arch)
        ]
        left = tuple(entry for entry in index.entries if entry not in chosen)
        new = dataclasses.replace(index, entries=left)
        refuse_protected(folder, index, new)
        remember_withdrawn(folder, before | {(entry.os_version, entry.arch) for entry in chosen})
        return new

    edited = edit(folder, signing, services, change, on_event, action=Action.WITHDRAW)
    if now:
        files = withdrawn_files(folder, names, arch)
        named = {file.name: entry for entry in edited.after.entries for file in files_of(entry)}
        for name in files:
            if name in named:
                warn(
                    on_event,
                    f"{name} stays, because the template {named[name].os_version} has the same file: "
                    "withdraw that one as well",
                )
        deleted = served_files(folder, on_event).delete([name for name in files if name not in named])
        info(on_event, f"{counted(len(deleted), 'file')} deleted")
    return edited


def withdrawn_files(folder: Path, names: Sequence[str], arch: str | None) -> tuple[str, ...]:
    """Return the files of templates that were withdrawn, as far as their last entries are known."""
    withdrawn = withdrawn_templates(folder)
    return tuple(
        file.name
        for key, entry in former_entries(folder).items()
        if key in withdrawn and key[0] in names and (arch is None or same_arch(key[1], arch))
        for file in files_of(entry)
    )


def undo_withdrawal(
    folder: Path, signing: Signing, services: Services, names: Sequence[str], arch: str | None,
    on_event: Reporter,
) -> Edited:  # fmt: skip
    """Put withdrawn templates back as they were; those without their files are left to ``publish``."""
    before = withdrawn_templates(folder) if folder.is_dir() else frozenset()
    back = {key for key in before if key[0] in names and (arch is None or same_arch(key[1], arch))}

    def change(index: Index) -> Index:
        missing = set(names) - {name for name, _arch in back}
        if missing:
            raise UsageError(f"not withdrawn: {', '.join(sorted(missing))}")
        former, entries = former_entries(folder), list(index.entries)
        taken = {name for entry in entries for name in (entry.os_version, *entry.aliases)}
        for key in sorted(back - {(entry.os_version, entry.arch) for entry in entries}):
            entry = former.get(key)
            if entry is None or not all(is_complete(folder, file) for file in files_of(entry)):
                info(on_event, f"the next run of publish publishes {key[0]} again, if its image is there")
                continue
            aliases = tuple(alias for alias in entry.aliases if alias not in taken)
            entries.append(dataclasses.replace(entry, aliases=aliases))
        return dataclasses.replace(index, entries=tuple(entries))

    edited = edit(folder, signing, services, change, on_event, action=Action.WITHDRAW_UNDO)
    remember_withdrawn(folder, before - back)
    return edited


def deprecate(index: Index, name: str, arch: str | None, end: Deprecation | None) -> Index:
    """Deprecate a template, or end its deprecation."""
    if end is not None and end.replaced_by is not None:
        find(index, end.replaced_by, arch)
        if end.replaced_by == name:
            raise UsageError(f"{name} cannot replace itself")
    return _each(index, find(index, name, arch), lambda entry: with_deprecation(entry, end))


def add_aliases(index: Index, name: str, arch: str | None, aliases: Sequence[str]) -> Index:
    """Give a template further names; other templates of the same architecture lose them."""
    wanted = find(index, name, arch)
    for alias in aliases:
        if any(entry.os_version == alias for entry in index.entries):
            raise UsageError(f"{alias} is the name of a template, which an alias would hide")
    arches = {normalise(entry.arch) for entry in wanted}

    def change(entry: Entry) -> Entry:
        kept = tuple(alias for alias in entry.aliases if alias not in aliases)
        if entry in wanted:
            kept += tuple(aliases)
        return dataclasses.replace(entry, aliases=kept)

    touched = [entry for entry in index.entries if normalise(entry.arch) in arches]
    return _each(index, touched, change)


def remove_aliases(index: Index, name: str, arch: str | None, aliases: Sequence[str]) -> Index:
    """Remove names from a template."""
    wanted = find(index, name, arch)
    missing = [alias for alias in aliases if not any(alias in entry.aliases for entry in wanted)]
    if missing:
        raise UsageError(f"{name} has no alias {', '.join(missing)}")
    return _each(
        index,
        wanted,
        lambda entry: dataclasses.replace(
            entry, aliases=tuple(alias for alias in entry.aliases if alias not in aliases)
        ),
    )


def hide(index: Index, name: str, arch: str | None, *, hidden: bool) -> Index:
    """Leave a template out of listings, or show it again; it can be built from either way."""
    return _each(index, find(index, name, arch), lambda entry: dataclasses.replace(entry, hidden=hidden))


_FIELD = re.compile(r"(?P<key>[A-Za-z0-9_.-]+)(?:\[(?P<subkey>[A-Za-z0-9_.@-]+)\])?")
_DESCRIPTION = ("name", "osinfo", "expand", "lvexpand")
_EDITABLE = (*_DESCRIPTION, "notes", "aliases", "hidden", "extra", "comments")


def describe(index: Index, name: str, arch: str | None, values: Mapping[str, str]) -> Index:
    """Set fields of a template that people write, such as ``notes[de]``; an empty value removes one."""
    for label, value in values.items():
        index = _each(
            index, find(index, name, arch), partial(_with_field, label=label, value=tidy_note(value))
        )
    return index


def _with_field(entry: Entry, label: str, value: str) -> Entry:
    match = _FIELD.fullmatch(label)
    if match is None:
        raise UsageError(f"{label!r} is not the name of a field", hint="write it as in the index: notes[de]")
    key, subkey = match["key"], match["subkey"]
    if key in _DESCRIPTION and subkey is None:
        fields: dict[str, str | None] = {key: value or None}
        return dataclasses.replace(entry, **fields)  # type: ignore[arg-type]
    if key == "notes":
        notes = {**dict(entry.notes), subkey or "": value}
        return dataclasses.replace(entry, notes=tuple(Note(*note) for note in notes.items() if note[1]))
    if is_known_field(key, subkey):
        raise UsageError(
            f"{label} cannot be set: it is a fact about the image, or has a command of its own",
            hint="see: pybuilder-repo alias --help, and hide --help",
        )
    extra = {(item.key, item.subkey): item.value for item in entry.extra} | {(key, subkey): value}
    return dataclasses.replace(
        entry, extra=tuple(ExtraField(*name, text) for name, text in extra.items() if text)
    )


def as_text(index: Index, name: str, arch: str | None) -> str:
    """Return one template as the text that stands in the index."""
    found = find(index, name, arch)
    if len(found) > 1:
        raise UsageError(
            f"{name} is published for {' and '.join(entry.arch for entry in found)}",
            hint="choose one of them: --arch ARCH",
        )
    return write_index(Index(found))


def rewrite(index: Index, name: str, arch: str | None, text: str) -> Index:
    """Replace a template by a text that was made of ``as_text``; facts about the image must be the same."""
    (old,) = find(index, name, arch)
    entries = parse_index(UnverifiedText(text), where="the edited text").entries
    facts = [
        dataclasses.replace(entry, **{field: getattr(old, field) for field in _EDITABLE}) for entry in entries
    ]
    if facts != [old]:
        raise UsageError(
            f"the edited text is no longer the template {name}: its name or a fact about its image changed",
            hint=f"change only these fields: {', '.join((*_DESCRIPTION, 'notes', 'aliases', 'hidden'))}, or "
            "fields of your own",
        )
    return _each(index, (old,), lambda _entry: entries[0])


def find(index: Index, name: str, arch: str | None) -> tuple[Entry, ...]:
    """Return the templates of a name, of one architecture or all."""
    found = tuple(
        entry
        for entry in index.entries
        if entry.os_version == name and (arch is None or same_arch(entry.arch, arch))
    )
    owner = next((entry.os_version for entry in index.entries if name in entry.aliases), None)
    if not found and owner is not None:
        raise UsageError(f"{name} is an alias of {owner}", hint=f"give the name of the template: {owner}")
    if not found:
        known = ", ".join(sorted({entry.os_version for entry in index.entries})) or "none"
        what = name if arch is None else f"{name} for {arch}"
        raise UsageError(f"no template {what} is published", hint=f"published are: {known}")
    return found


def same_arch(one: str, other: str) -> bool:
    """Check whether two names mean the same architecture."""
    return normalise(one) == normalise(other)


def _each(index: Index, chosen: Sequence[Entry], change: Callable[[Entry], Entry]) -> Index:
    return dataclasses.replace(
        index,
        entries=tuple(
            settle_comments(change(entry)) if entry in chosen else entry for entry in index.entries
        ),
    )


@contextlib.contextmanager
def _opened(
    folder: Path, signing: Signing, services: Services, on_event: Reporter, *, finish: bool = False
) -> Iterator[tuple[IndexSigner, PublishedIndex]]:
    _check_folder(folder)
    with open_session(folder, patience=_PATIENCE) as session:
        signer = IndexSigner(services, signing, session)
        old = signer.read(folder, finish=finish, on_event=on_event)
        if old.text is None:
            raise UsageError(f"nothing is published in {folder}", hint="see: pybuilder-repo publish --help")
        yield signer, old


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(f"the folder {folder} does not exist", hint=f"give the folder with {SIGNED_INDEX}")
