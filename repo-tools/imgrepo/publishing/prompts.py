"""What ``--interactive`` asks about a new image: what virt-builder-repository asks, in its order.

So the answers for that tool can be piped in here. An empty answer takes what was
found; ``-`` takes nothing, as that tool's manual promises.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass

from imgindex.model import Entry
from imgrepo.images.facts import ImageFacts
from imgrepo.webroot.entries import UNKNOWN_ARCH

_NOTHING = "-"
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_.+/-]{1,200}")


@dataclass(frozen=True)
class Question:
    """A question to the publisher.

    Attributes:
        text: What is asked, such as ``debian-12.img: architecture``.
        default: What an empty answer means; None when there must be one.
        pattern: What the answer must look like.
        optional: Whether ``-`` is an answer.
    """

    text: str
    default: str | None
    pattern: re.Pattern[str]
    optional: bool


Ask = Callable[[Question], str]
"""Asks until the answer fits the pattern; returns it, or the default."""

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ARCH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,31}")
_LINE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")


def ask_about(
    image: str, identifier: str, facts: ImageFacts | None, old: Entry | None, ask: Ask
) -> tuple[str, ImageFacts]:
    """Ask about an image.

    Args:
        image: Its file's name.
        identifier: Its template's name, unless the publisher says otherwise.
        facts: What was found in it; None for an image without a system.
        old: Its entry; what that says is not asked.
        ask: Asks.

    Returns:
        The name of the template and what to publish about it.
    """
    found = facts or ImageFacts("", None, None, None, system=False)

    def answer(label: str, default: str | None, pattern: re.Pattern[str]) -> str | None:
        optional = pattern not in (IDENTIFIER, _ARCH)
        given = ask(
            Question(f"{image}: {label}", default or (_NOTHING if optional else None), pattern, optional)
        )
        return None if optional and given == _NOTHING else given

    if old is None:
        name, title = answer("name of the template", identifier, IDENTIFIER), found.name
        arch = answer("architecture", found.arch, _ARCH)
    else:
        name = old.os_version
        guessed = old.arch == UNKNOWN_ARCH
        arch = answer("architecture", found.arch, _ARCH) if guessed else found.arch or old.arch
        title = old.name or answer("display name", found.name, _LINE)
    osinfo = (old.osinfo if old else None) or answer("libosinfo id", found.osinfo, _LINE)
    expand = (old.expand if old else None) or answer("partition to expand", found.expand, _DEVICE)
    lvexpand = old.lvexpand if old else None
    if found.lvexpand is not None:  # where there are volumes
        lvexpand = lvexpand or answer("volume to expand", found.lvexpand, _DEVICE)
    assert name is not None
    assert arch is not None
    return name, dataclasses.replace(
        found, arch=arch, name=title, osinfo=osinfo, expand=expand, lvexpand=lvexpand
    )
