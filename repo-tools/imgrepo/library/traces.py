"""What traces in an image mean: whose machine it was, and whose secrets are in it. Pure."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from imgrepo.library.checkrecord import PasswordState, Trace
from imgrepo.library.item import Item, ItemState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from imgrepo.library.checkrecord import Inside, Seen

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
_MOST = 3
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
        return Item("secrets", ItemState.UNKNOWN, reason, _AGAIN, notes)
    unread = _paths(one for one in inside.seen if one.trace is Trace.UNREADABLE)
    if unread:
        return Item("secrets", ItemState.UNKNOWN, f"could not be read: {unread}", _BY_HAND, notes)
    if PasswordState.UNTRIED in told:
        return Item("secrets", ItemState.UNKNOWN, told[PasswordState.UNTRIED], _BY_HAND, notes)
    return Item("secrets", ItemState.OK, "none were found where they are looked for", None, notes)


_BY_HAND = "somebody has to look at that"
_AGAIN = "check it again, without --quick"


def _told(seen: Seen, words: dict[Trace, str]) -> str:
    return f"{words[seen.trace]}: {_paths([seen])}"


def _paths(found: Iterable[Seen]) -> str:
    seen = list(found)
    paths = [path for one in seen for path in one.paths][:_MOST]
    more = sum(one.count for one in seen) - len(paths)
    return ", ".join(paths) + (f" and {more} more" if more > 0 else "")


def _remedy(found: Iterable[Trace], paths: Iterable[str], image: str) -> str:
    """Return the command that takes it away.

    The tool that does it gives a guest a new machine id and a new seed, as for one that is to be run; for one
    that is to be copied, ``--sysprep`` takes those away at the very end.
    """
    words = [f"--delete {shlex.quote(path)}" for path in list(paths)[:_MOST]]  # the guest chose the names
    words += ["--hostname localhost"] if Trace.HOSTNAME in found else []
    return f"pybuilder-customize -a {image} {' '.join([*words, '--sysprep all'])}"
