"""What is missing or wrong with an entry, point by point: a pure function of what is known (ADR 0076)."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from imgbuilder.sizes import counted, human_size
from imgrepo.library.description import DESCRIPTION_NAME
from imgrepo.library.item import Item, ItemState, Lack
from imgrepo.library.licence import licence_problem
from imgrepo.library.traces import identity_item, secrets_item
from imgrepo.sourcepackages.wanted import wanted_sources

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgrepo.library.checkrecord import Inside, Packed, RunTrial
    from imgrepo.library.description import Description
    from imgrepo.library.records import ContentsRecord, SourcesRecord

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
