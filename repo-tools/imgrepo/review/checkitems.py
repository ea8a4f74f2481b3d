"""What is missing or wrong with an entry, point by point: a pure function of what is known (ADR 0036)."""

from __future__ import annotations

import enum
import hashlib
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from imgbuilder.sizes import counted, human_size
from imgrepo.contents.licences import wanted_sources
from imgrepo.library.description import DESCRIPTION_NAME, Description, licence_problem
from imgrepo.library.records import ContentsRecord, SourcesRecord
from imgrepo.review.checkrecord import Inside, Packed, PasswordState, RunTrial, Seen, Trace

COSTLY = frozenset({"size", "identity", "secrets", "run"})
"""Points for which an image is packed, looked into, or handed to QEMU."""
_HOPELESS = 1.5
"""zstd packs quickly, and never so much worse than xz."""
_SURE = 0.98
"""And never better, but for what both cannot pack."""
_MOST = 5
"""Names that are told of many."""
_AGAIN = "check it again, without --quick"
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Evidence:
    """What is known of an entry now; a ``Lack`` stands for what is not there.

    Attributes:
        folder: Its folder, as a command takes it.
        image: Its image, as a command takes it.
        description: What its contributor says.
        image_is: What the image is, in words for people.
        screenshot: What the picture is, in words for people.
        contents: Its packages.
        sources: Their sources; the archive of the record is there, and is the one.
        packed: How large it becomes.
        inside: What was seen in it.
        run: How the script fared.
    """

    folder: str
    image: str
    description: Description | Lack
    image_is: str | Lack
    screenshot: str | Lack
    contents: ContentsRecord | Lack
    sources: SourcesRecord | Lack
    packed: Packed | Lack
    inside: Inside | Lack
    run: RunTrial | Lack


def judge_entry(evidence: Evidence) -> tuple[Item, ...]:
    """Tell of each point how it stands, in the order in which a contributor comes to them."""
    description = evidence.description
    if isinstance(description, Lack):
        own: tuple[Item, ...] = (Item.of(DESCRIPTION_NAME, description),)
    else:
        own = (Item(DESCRIPTION_NAME, ItemState.OK, "it can be read"), *_words(description))
    return (
        *own,
        _plain("image", evidence.image_is),
        _size(evidence),
        _plain("screenshot", evidence.screenshot),
        _contents(evidence.contents),
        _sources(evidence),
        _of("identity", evidence.inside, lambda inside: identity_item(inside, evidence.image)),
        _of("secrets", evidence.inside, lambda inside: _secrets(evidence, inside)),
        _of("run", evidence.run, lambda trial: _run(evidence, trial)),
    )


def is_proven(items: tuple[Item, ...]) -> bool:
    """Tell whether an entry is checked by its points: what is not known is not proven."""
    return all(item.state is ItemState.OK for item in items)


def hints_digest(description: Description) -> str:
    """Return SHA-256 of the hints, by which it is seen that they changed."""
    return hashlib.sha256(description.hints.encode()).hexdigest()


def _words(description: Description) -> tuple[Item, ...]:
    texts = {
        "title": (description.title, "one line that says what it is"),
        "description": (description.description, "a few sentences on what it is"),
        "hints": (description.hints, "who logs in and how, and what to try"),
        "contributor": (description.contributor, "who made it"),
    }
    items = []
    for key, (text, meaning) in texts.items():
        if text:
            items.append(Item(key, ItemState.OK, _first_line(text)))
        else:
            hint = f"write it into {DESCRIPTION_NAME}: {meaning}"
            items.append(Item(key, ItemState.MISSING, f"no {key}", hint))
        if key == "hints":
            items.append(_licence(description.licence))
    return tuple(items)


def _first_line(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= 60 else f"{line[:57]}..."


def _licence(text: str) -> Item:
    hint = f'write it into {DESCRIPTION_NAME} as an SPDX expression: licence = "GPL-2.0-or-later AND MIT"'
    if not text:
        return Item("licence", ItemState.MISSING, "no licence is named", hint)
    problem = licence_problem(text)
    if problem is not None:
        return Item("licence", ItemState.WRONG, f"{text}: {problem}", hint)
    return Item("licence", ItemState.OK, text)


def _plain(key: str, found: str | Lack) -> Item:
    return Item.of(key, found) if isinstance(found, Lack) else Item(key, ItemState.OK, found)


def _of(key: str, found: _Found | Lack, judge: Callable[[_Found], Item]) -> Item:
    return Item.of(key, found) if isinstance(found, Lack) else judge(found)


def fits_budget(packed: Packed, budget: int) -> bool | None:
    """Tell whether an image becomes small enough; None when xz has to be tried for that.

    Args:
        packed: How large it becomes.
        budget: How large it may become, in bytes.
    """
    if packed.xz is not None:
        return packed.xz <= budget
    if packed.zstd <= budget * _SURE:
        return True
    return False if packed.zstd > budget * _HOPELESS else None


def _size(evidence: Evidence) -> Item:
    description, packed = evidence.description, evidence.packed
    if isinstance(description, Lack):
        reason = f"the limit stands in {DESCRIPTION_NAME}, which cannot be read"
        return Item("size", ItemState.UNKNOWN, reason)
    budget = description.size_budget
    if budget is None:
        return Item("size", ItemState.OK, "no size-budget is set")
    if isinstance(packed, Lack):
        return Item.of("size", packed)
    fits = fits_budget(packed, budget)
    if fits is None:
        return Item("size", ItemState.UNKNOWN, "the size-budget was another one when it was packed", _AGAIN)
    about = "at most" if fits else "about"
    told = human_size(packed.xz) if packed.xz is not None else f"{about} {human_size(packed.zstd)}"
    detail = f"{told} packed, of {human_size(budget)}"
    if fits:
        return Item("size", ItemState.OK, detail)
    hint = f"what the system does not need can go; or raise size-budget in {DESCRIPTION_NAME}"
    return Item("size", ItemState.WRONG, detail, hint)


def _contents(contents: ContentsRecord | Lack) -> Item:
    if isinstance(contents, Lack):
        return Item.of("contents", contents)
    return Item(
        "contents", ItemState.OK, f"{counted(len(contents.packages), 'package')} ({contents.manager})"
    )


def _sources(evidence: Evidence) -> Item:
    contents, sources = evidence.contents, evidence.sources
    if isinstance(contents, Lack):
        reason = "what is to be covered is not known without the contents"
        return Item("sources", ItemState.UNKNOWN, reason, contents.hint)
    wanted = set(wanted_sources(contents))
    if not wanted:
        return Item("sources", ItemState.OK, "no licence in the image asks for any")
    if isinstance(sources, Lack):
        return Item.of("sources", sources)
    missing = sorted(wanted - set(sources.covered))
    if not missing:
        notes = () if _offer(evidence) else ("source-offer is empty: people cannot ask for them",)
        return Item("sources", ItemState.OK, f"{counted(len(wanted), 'source package')}", None, notes)
    reasons = {(gap.source, gap.version): gap.reason for gap in sources.gaps}
    named = "; ".join(
        " ".join(source) + (f" ({reasons[source]})" if source in reasons else "")
        for source in missing[:_MOST]
    )
    more = f"; and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
    detail = f"{len(missing)} of {counted(len(wanted), 'source package')} missing: {named}{more}"
    hint = f"collect them: pybuilder-repo sources {evidence.folder}"
    return Item("sources", ItemState.WRONG, detail, hint)


def _offer(evidence: Evidence) -> str:
    return "" if isinstance(evidence.description, Lack) else evidence.description.source_offer


def _secrets(evidence: Evidence, inside: Inside) -> Item:
    description = evidence.description
    digest = "" if isinstance(description, Lack) else hints_digest(description)
    return secrets_item(inside, evidence.image, digest)


def _run(evidence: Evidence, trial: RunTrial) -> Item:
    if not trial.problem:
        detail = "it starts QEMU from another folder, and only reads the image"
        return Item("run", ItemState.OK, detail)
    return Item("run", ItemState.WRONG, trial.problem, f"see: {evidence.folder}/run --dry-run")


def command(words: str, *names: str) -> str:
    """Return a command for people to type, with names as a shell takes them."""
    return " ".join([words, *map(shlex.quote, names)])


# A point of a check, and how it stands.


class ItemState(enum.Enum):
    """How a point stands; its value is what users read."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"
    UNKNOWN = "unknown"


class Lack(NamedTuple):
    """Why something that a point needs is not there.

    Attributes:
        state: What that makes of the point.
        reason: In words for people.
        hint: What to do about it.
    """

    state: ItemState
    reason: str
    hint: str | None = None


@dataclass(frozen=True)
class Item:
    """A point of a check.

    Attributes:
        key: Its name, for programs and people.
        state: How it stands.
        detail: Why, in words for people.
        hint: What to do about it; None when nothing has to be done.
        notes: What somebody may want to know all the same.
    """

    key: str
    state: ItemState
    detail: str = ""
    hint: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, lack: Lack) -> Item:
        """Return the point for which something is not there."""
        return cls(key, *lack)

    @property
    def fails(self) -> bool:
        """Whether somebody has to do something."""
        return self.state in {ItemState.MISSING, ItemState.WRONG}


# What traces in an image mean: whose machine it was, and whose secrets are in it. Pure.


_IDENTITY = {
    Trace.MACHINE_ID: "the id of one machine",
    Trace.SSH_HOST_KEY: "host keys of SSH, which all copies would share",
    Trace.DHCP_LEASE: "leases of its network",
    Trace.NETWORK_RULE: "names of one machine's network cards",
    Trace.RANDOM_SEED: "a seed of random numbers, which all copies would share",
    Trace.HOSTNAME: "the name of the machine that it was checked on",
}
_IDENTITY_NOTES = {
    Trace.LOG: "logs of its making",
    Trace.CLOUD_INIT: "what cloud-init remembers of a boot",
    Trace.PACKAGE_CACHE: "lists and packages that can be fetched again",
    Trace.TEMPORARY_FILE: "temporary files",
}
_SECRETS = {
    Trace.PRIVATE_KEY: "private keys",
    Trace.AUTHORIZED_KEY: "keys whose owners may log in",
    Trace.CREDENTIALS: "credentials",
    Trace.SHELL_HISTORY: "what somebody typed into a shell",
    Trace.NETWORK_PASSWORD: "passwords of networks",
}
_SECRET_NOTES = {
    Trace.MADE_KEY: "a key that the distribution made, which all copies share",
    Trace.TOOL_MEMORY: "what programs remember of their use",
}
_PASSWORDS = {
    PasswordState.UNTOLD: "with a password that the hints do not tell",
    PasswordState.UNTRIED: "with a password hash that was not tried",
    PasswordState.COMMON: "with a password that anybody would guess, and that the hints do not tell",
    PasswordState.EMPTY: "without any password",
}
_BY_SYSPREP = {*_IDENTITY, Trace.SHELL_HISTORY} - {Trace.HOSTNAME}
"""What ``--sysprep`` takes away."""
_TRACES_MOST = 3
"""Paths that are named of a kind."""


def identity_item(inside: Inside, image: str) -> Item:
    """Tell whether a machine's identity is left in an image.

    Args:
        inside: What was seen.
        image: The image, as a command takes it.
    """
    notes = tuple(_told(one, _IDENTITY_NOTES) for one in inside.seen if one.trace in _IDENTITY_NOTES)
    found = [one for one in inside.seen if one.trace in _IDENTITY]
    if not inside.system:
        return Item("identity", ItemState.UNKNOWN, inside.reason, _BY_HAND)
    if found:
        detail = "; ".join(_told(one, _IDENTITY) for one in found)
        remedy = f"take it away: {_remedy({one.trace for one in found}, (), image)}"
        return Item("identity", ItemState.WRONG, detail, remedy, notes)
    unread = _paths(one for one in inside.seen if one.trace is Trace.UNREADABLE_IDENTITY)
    if unread:
        return Item("identity", ItemState.UNKNOWN, f"could not be read: {unread}", _BY_HAND, notes)
    return Item("identity", ItemState.OK, "nothing of one machine was found", None, notes)


def secrets_item(inside: Inside, image: str, hints: str) -> Item:
    """Tell whether somebody's secrets are left in an image.

    Args:
        inside: What was seen.
        image: The image, as a command takes it.
        hints: SHA-256 of what the hints say now.
    """
    if not inside.system:
        return Item("secrets", ItemState.UNKNOWN, inside.reason, _BY_HAND)
    by_state = {
        state: ", ".join(one.name for one in inside.accounts if one.password is state)
        for state in PasswordState
    }
    told = {
        state: f"{names} {_PASSWORDS[state]}"
        for state, names in by_state.items()
        if names and state in _PASSWORDS
    }
    notes = tuple(_told(one, _SECRET_NOTES) for one in inside.seen if one.trace in _SECRET_NOTES)
    notes += tuple(told[state] for state in (PasswordState.COMMON, PasswordState.EMPTY) if state in told)
    found = [one for one in inside.seen if one.trace in _SECRETS]
    asked = inside.hints == hints or not (by_state[PasswordState.TOLD] or by_state[PasswordState.UNTOLD])
    wrong = [_told(one, _SECRETS) for one in found]
    if asked and PasswordState.UNTOLD in told:
        wrong.append(told[PasswordState.UNTOLD])
    if wrong:
        remedies = []
        if found:
            paths = [path for one in found if one.trace not in _BY_SYSPREP for path in one.paths]
            remedies.append(f"take it away: {_remedy((), paths, image)}")
        if asked and PasswordState.UNTOLD in told:
            remedies.append("tell the password in the hints, or lock it: --password NAME:locked")
        return Item("secrets", ItemState.WRONG, "; ".join(wrong), "; ".join(remedies), notes)
    if not asked:
        reason = "the hints changed since passwords were looked for in them"
        return Item("secrets", ItemState.UNKNOWN, reason, _TRACES_AGAIN, notes)
    unread = _paths(one for one in inside.seen if one.trace is Trace.UNREADABLE)
    if unread:
        return Item("secrets", ItemState.UNKNOWN, f"could not be read: {unread}", _BY_HAND, notes)
    if PasswordState.UNTRIED in told:
        return Item("secrets", ItemState.UNKNOWN, told[PasswordState.UNTRIED], _BY_HAND, notes)
    return Item("secrets", ItemState.OK, "none were found where they are looked for", None, notes)


_BY_HAND = "somebody has to look at that"
_TRACES_AGAIN = "check it again, without --quick"


def _told(seen: Seen, words: dict[Trace, str]) -> str:
    return f"{words[seen.trace]}: {_paths([seen])}"


def _paths(found: Iterable[Seen]) -> str:
    seen = list(found)
    paths = [path for one in seen for path in one.paths][:_TRACES_MOST]
    more = sum(one.count for one in seen) - len(paths)
    return ", ".join(paths) + (f" and {more} more" if more > 0 else "")


def _remedy(found: Iterable[Trace], paths: Iterable[str], image: str) -> str:
    """Return the command that takes it away.

    The tool that does it gives a guest a new machine id and a new seed, as for one that is to be run; for one
    that is to be copied, ``--sysprep`` takes those away at the very end.
    """
    words = [
        f"--delete {shlex.quote(path)}" for path in list(paths)[:_TRACES_MOST]
    ]  # the guest chose the names
    words += ["--hostname localhost"] if Trace.HOSTNAME in found else []
    return f"pybuilder-customize -a {image} {' '.join([*words, '--sysprep all'])}"
