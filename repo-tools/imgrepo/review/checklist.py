"""The checks of an entry, one after the other: pure functions of its facts (ADR 0036)."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable
from typing import TypeVar

from imgbuilder.sizes import counted, human_size
from imgrepo.contents.licences import required_sources
from imgrepo.library.description import DESCRIPTION_NAME, Description, licence_problem
from imgrepo.library.records import (
    CompressedSize,
    ContentsRecord,
    Inside,
    Leftover,
    PasswordState,
    RunTrial,
    Seen,
)
from imgrepo.review.facts import EntryFacts
from imgrepo.review.results import CheckResult, Issue, Status

_HOPELESS = 1.5
"""Upper bound of the size that zstd reaches, as a multiple of what xz reaches."""
_SURE = 0.98
"""Lower bound of it: zstd is never better than xz, except for what neither can pack."""
_MOST = 5
"""Names that are listed of many."""
_AGAIN = "check it again, without --quick"
_Found = TypeVar("_Found")


def judge_entry(facts: EntryFacts) -> tuple[CheckResult, ...]:
    """Return the result of each check, in the order in which a contributor comes to them."""
    description = facts.description
    if isinstance(description, Issue):
        own: tuple[CheckResult, ...] = (CheckResult.of(DESCRIPTION_NAME, description),)
    else:
        own = (CheckResult(DESCRIPTION_NAME, Status.OK, "it can be read"), *_metadata(description))
    return (
        *own,
        _plain("image", facts.image_summary),
        _size(facts),
        _plain("screenshot", facts.screenshot),
        _contents(facts.contents),
        _sources(facts),
        _of("identity", _seen_inside(facts), lambda inside: _identity(facts, inside)),
        _of("secrets", _seen_inside(facts), lambda inside: _secrets(facts, inside)),
        _of("run", facts.run, lambda trial: _run(facts, trial)),
    )


def is_proven(results: tuple[CheckResult, ...]) -> bool:
    """Return whether an entry is checked: what is unknown is not proven."""
    return all(result.status is Status.OK for result in results)


def hints_digest(description: Description) -> str:
    """Return the SHA-256 of the hints, to see later whether they changed."""
    return hashlib.sha256(description.hints.encode()).hexdigest()


def _metadata(description: Description) -> tuple[CheckResult, ...]:
    texts = {
        "title": (description.title, "one line that says what it is"),
        "description": (description.description, "a few sentences on what it is"),
        "hints": (description.hints, "who logs in and how, and what to try"),
        "contributor": (description.contributor, "who made it"),
    }
    results = []
    for key, (text, meaning) in texts.items():
        if text:
            results.append(CheckResult(key, Status.OK, _first_line(text)))
        else:
            hint = f"write it into {DESCRIPTION_NAME}: {meaning}"
            results.append(CheckResult(key, Status.MISSING, f"no {key}", hint))
        if key == "hints":
            results.append(_licence(description.licence))
    return tuple(results)


def _first_line(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= 60 else f"{line[:57]}..."


def _licence(text: str) -> CheckResult:
    hint = f'write it into {DESCRIPTION_NAME} as an SPDX expression: licence = "GPL-2.0-or-later AND MIT"'
    if not text:
        return CheckResult("licence", Status.MISSING, "no licence is named", hint)
    problem = licence_problem(text)
    if problem is not None:
        return CheckResult("licence", Status.WRONG, f"{text}: {problem}", hint)
    return CheckResult("licence", Status.OK, text)


def _plain(key: str, found: str | Issue) -> CheckResult:
    return CheckResult.of(key, found) if isinstance(found, Issue) else CheckResult(key, Status.OK, found)


def _of(key: str, found: _Found | Issue, judge: Callable[[_Found], CheckResult]) -> CheckResult:
    return CheckResult.of(key, found) if isinstance(found, Issue) else judge(found)


def fits_budget(packed: CompressedSize, budget: int) -> bool | None:
    """Return whether an image becomes small enough; None when xz has to be tried for that."""
    if packed.xz is not None:
        return packed.xz <= budget
    if packed.zstd <= budget * _SURE:
        return True
    return False if packed.zstd > budget * _HOPELESS else None


def _size(facts: EntryFacts) -> CheckResult:
    description, packed = facts.description, facts.packed
    if isinstance(description, Issue):
        reason = f"the limit is set in {DESCRIPTION_NAME}, which cannot be read"
        return CheckResult("size", Status.UNKNOWN, reason)
    budget = description.size_budget
    if budget is None:
        return CheckResult("size", Status.OK, "no size-budget is set")
    if isinstance(packed, Issue):
        return CheckResult.of("size", packed)
    fits = fits_budget(packed, budget)
    if fits is None:
        return CheckResult("size", Status.UNKNOWN, "the size-budget changed since it was packed", _AGAIN)
    about = "at most" if fits else "about"
    size = human_size(packed.xz) if packed.xz is not None else f"{about} {human_size(packed.zstd)}"
    detail = f"{size} packed, of {human_size(budget)}"
    if fits:
        return CheckResult("size", Status.OK, detail)
    hint = f"remove what the system does not need, or raise size-budget in {DESCRIPTION_NAME}"
    return CheckResult("size", Status.WRONG, detail, hint)


def _contents(contents: ContentsRecord | Issue) -> CheckResult:
    if isinstance(contents, Issue):
        return CheckResult.of("contents", contents)
    return CheckResult(
        "contents", Status.OK, f"{counted(len(contents.packages), 'package')} ({contents.manager})"
    )


def _sources(facts: EntryFacts) -> CheckResult:
    contents, sources = facts.contents, facts.sources
    if isinstance(contents, Issue):
        reason = "which sources are required is not known without the contents"
        return CheckResult("sources", Status.UNKNOWN, reason, contents.hint)
    wanted = set(required_sources(contents))
    if not wanted:
        return CheckResult("sources", Status.OK, "no licence in the image requires any")
    if isinstance(sources, Issue):
        return CheckResult.of("sources", sources)
    missing = sorted(wanted - set(sources.covered))
    if not missing:
        offer = not isinstance(facts.description, Issue) and facts.description.source_offer
        notes = () if offer else ("source-offer is empty: users cannot ask for them",)
        return CheckResult("sources", Status.OK, f"{counted(len(wanted), 'source package')}", None, notes)
    reasons = {(gap.source, gap.version): gap.reason for gap in sources.gaps}
    named = "; ".join(
        " ".join(source) + (f" ({reasons[source]})" if source in reasons else "")
        for source in missing[:_MOST]
    )
    more = f"; and {len(missing) - _MOST} more" if len(missing) > _MOST else ""
    detail = f"{len(missing)} of {counted(len(wanted), 'source package')} missing: {named}{more}"
    hint = f"collect them: pybuilder-repo sources {facts.folder}"
    return CheckResult("sources", Status.WRONG, detail, hint)


def _run(facts: EntryFacts, trial: RunTrial) -> CheckResult:
    if not trial.problem:
        detail = "it starts QEMU from another folder and only reads the image"
        return CheckResult("run", Status.OK, detail)
    return CheckResult("run", Status.WRONG, trial.problem, f"see: {facts.folder}/run --dry-run")


# Leftovers in an image: of the machine that it was made on, and secrets.

_IDENTITY = {
    Leftover.MACHINE_ID: "the id of one machine",
    Leftover.SSH_HOST_KEY: "host keys of SSH, which all copies would share",
    Leftover.DHCP_LEASE: "leases of its network",
    Leftover.NETWORK_RULE: "names of one machine's network cards",
    Leftover.RANDOM_SEED: "a seed of random numbers, which all copies would share",
    Leftover.HOSTNAME: "the name of the machine that it was checked on",
}
_IDENTITY_NOTES = {
    Leftover.LOG: "logs",
    Leftover.CLOUD_INIT: "state of cloud-init from a boot",
    Leftover.PACKAGE_CACHE: "lists and packages that can be fetched again",
    Leftover.TEMPORARY_FILE: "temporary files",
}
_SECRETS = {
    Leftover.PRIVATE_KEY: "private keys",
    Leftover.AUTHORIZED_KEY: "keys of users who may log in",
    Leftover.CREDENTIALS: "credentials",
    Leftover.SHELL_HISTORY: "shell history",
    Leftover.NETWORK_PASSWORD: "passwords of networks",
}
_SECRET_NOTES = {
    Leftover.MADE_KEY: "a key that the distribution generated, which all copies share",
    Leftover.TOOL_MEMORY: "history files of programs",
}
_PASSWORDS = {
    PasswordState.IN_HINTS: "with a password that is in the hints",
    PasswordState.NOT_IN_HINTS: "with a password that is not in the hints",
    PasswordState.UNTRIED: "with a password hash that was not tried",
    PasswordState.COMMON: "with a password that is easily guessed and not in the hints",
    PasswordState.EMPTY: "without any password",
}
_BY_HINTS = (PasswordState.IN_HINTS, PasswordState.NOT_IN_HINTS)
_NOTED = (PasswordState.COMMON, PasswordState.EMPTY)
_BY_SYSPREP = {*_IDENTITY, Leftover.SHELL_HISTORY} - {Leftover.HOSTNAME}
"""Removed by ``--sysprep``."""
_MOST_PATHS = 3
"""Paths that are listed of a kind."""


def _seen_inside(facts: EntryFacts) -> Inside | Issue:
    inside = facts.inside
    if isinstance(inside, Issue) or inside.system:
        return inside
    return Issue(Status.UNKNOWN, inside.reason, _BY_HAND)


def _identity(facts: EntryFacts, inside: Inside) -> CheckResult:
    """Check that no machine's identity is left in an image."""
    found, notes = _sorted_out(inside, _IDENTITY, _IDENTITY_NOTES)
    waste = [one.trace.value for one in inside.seen if one.size]
    if waste:
        command = f"pybuilder-customize -a {facts.image} --sysprep {','.join(waste)}"
        notes = (*notes, f"to make the image smaller: {command}")
    if found:
        detail = "; ".join(_described(one, _IDENTITY) for one in found)
        remedy = f"remove it: {_remedy({one.trace for one in found}, (), facts.image)}"
        return CheckResult("identity", Status.WRONG, detail, remedy, notes)
    unread = _paths(one for one in inside.seen if one.trace is Leftover.UNREADABLE_IDENTITY)
    if unread:
        return CheckResult("identity", Status.UNKNOWN, f"could not be read: {unread}", _BY_HAND, notes)
    return CheckResult("identity", Status.OK, "no identity of a machine was found", None, notes)


def _secrets(facts: EntryFacts, inside: Inside) -> CheckResult:
    """Check that no secrets are left in an image."""
    found, notes = _sorted_out(inside, _SECRETS, _SECRET_NOTES)
    accounts = _accounts(inside)
    notes += tuple(accounts[state] for state in _NOTED if state in accounts)
    is_current = _is_current(facts, inside)
    wrong = [_described(one, _SECRETS) for one in found]
    remedies = []
    if found:
        paths = [path for one in found if one.trace not in _BY_SYSPREP for path in one.paths]
        remedies.append(f"remove it: {_remedy((), paths, facts.image)}")
    if is_current and PasswordState.NOT_IN_HINTS in accounts:
        wrong.append(accounts[PasswordState.NOT_IN_HINTS])
        remedies.append("give the password in the hints, or lock it: --password NAME:locked")
    if wrong:
        return CheckResult("secrets", Status.WRONG, "; ".join(wrong), "; ".join(remedies), notes)
    if not is_current:
        reason = "the hints changed since the passwords were tried"
        return CheckResult("secrets", Status.UNKNOWN, reason, _AGAIN, notes)
    unread = _paths(one for one in inside.seen if one.trace is Leftover.UNREADABLE)
    doubt = f"could not be read: {unread}" if unread else accounts.get(PasswordState.UNTRIED)
    if doubt:
        return CheckResult("secrets", Status.UNKNOWN, doubt, _BY_HAND, notes)
    return CheckResult("secrets", Status.OK, "none were found in the usual places", None, notes)


def _sorted_out(
    inside: Inside, faults: dict[Leftover, str], notes: dict[Leftover, str]
) -> tuple[list[Seen], tuple[str, ...]]:
    """Return the leftovers that are faults, and those that are only noted, described."""
    found = [one for one in inside.seen if one.trace in faults]
    return found, tuple(_described(one, notes) for one in inside.seen if one.trace in notes)


def _accounts(inside: Inside) -> dict[PasswordState, str]:
    """Describe the accounts of each state of passwords."""
    names: dict[PasswordState, list[str]] = {}
    for one in inside.accounts:
        names.setdefault(one.password, []).append(one.name)
    return {state: f"{', '.join(found)} {_PASSWORDS[state]}" for state, found in names.items()}


def _is_current(facts: EntryFacts, inside: Inside) -> bool:
    """Return whether no judgement of a password depends on hints that changed since."""
    digest = "" if isinstance(facts.description, Issue) else hints_digest(facts.description)
    return inside.hints == digest or not any(one.password in _BY_HINTS for one in inside.accounts)


_BY_HAND = "check that by hand"


def _described(seen: Seen, kinds: dict[Leftover, str]) -> str:
    size = f", {human_size(seen.size)}" if seen.size else ""
    return f"{kinds[seen.trace]}{size}: {_paths([seen])}"


def _paths(found: Iterable[Seen]) -> str:
    seen = list(found)
    paths = [path for one in seen for path in one.paths][:_MOST_PATHS]
    more = sum(one.count for one in seen) - len(paths)
    return ", ".join(paths) + (f" and {more} more" if more > 0 else "")


def _remedy(found: Iterable[Leftover], paths: Iterable[str], image: str) -> str:
    """Return the command that removes leftovers.

    ``--sysprep`` runs at the end, so that the machine id and the random seed that the program itself sets for
    a guest are removed as well.
    """
    options = [
        f"--delete {shlex.quote(path)}" for path in list(paths)[:_MOST_PATHS]
    ]  # the guest chose the names
    options += ["--hostname localhost"] if Leftover.HOSTNAME in found else []
    return f"pybuilder-customize -a {image} {' '.join([*options, '--sysprep all'])}"
