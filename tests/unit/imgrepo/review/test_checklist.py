"""Points of a check, from what is known: no files, no images."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from imgbuilder.host.hashing import Fingerprint
from imgrepo.library.description import Description, parse_description
from imgrepo.library.records import (
    Account,
    CompressedSize,
    ContentsRecord,
    ImageMark,
    Inside,
    Leftover,
    Package,
    PasswordState,
    RunTrial,
    Seen,
    SourceGap,
    SourcesRecord,
)
from imgrepo.review.checklist import fits_budget, hints_digest, is_proven, judge_entry
from imgrepo.review.facts import EntryFacts
from imgrepo.review.results import CheckResult, Issue, Status

MARK = ImageMark("0" * 128, Fingerprint(1, 2, 3, 4))
TEXT = """
title = "A demo"
description = "It serves."
hints = "log in as root, password demo"
licence = "MIT"
contributor = "Ann"
size-budget = "1M"
source-offer = "ann@example.org"
"""
GPL = Package("bash", "5-1", "amd64", "bash", "5", ("GPL-3",), copyleft=True)
MIT = Package("zlib", "1-1", "amd64", "zlib", "1", ("MIT",), copyleft=False)
UNKNOWN = Package("odd", "1-1", "amd64", "odd-source", "1", (), copyleft=None)
ISSUE = Issue(Status.UNKNOWN, "it was not checked", "look")


def described(text: str = TEXT) -> Description:
    return parse_description(text, where="entry.toml")


def contents(*packages: Package) -> ContentsRecord:
    return ContentsRecord(MARK, "Debian", "debian", "12", "dpkg", packages)


def sources(*covered: tuple[str, str], gaps: tuple[SourceGap, ...] = ()) -> SourcesRecord:
    return SourcesRecord(MARK, "demo-sources.tar", "1" * 128, 10, covered, gaps)


def inside(*seen: Seen, accounts: tuple[Account, ...] = (), **changes: Any) -> Inside:
    plain = Inside(system=True, seen=seen, accounts=accounts, hints=hints_digest(described()))
    return dataclasses.replace(plain, **changes)


def facts(**changes: Any) -> EntryFacts:
    return dataclasses.replace(
        EntryFacts(
            folder="lib/demo",
            image="lib/demo/demo.img",
            description=described(),
            image_summary="demo.img, 2.0G",
            screenshot="screenshot.png",
            contents=contents(GPL, MIT),
            sources=sources(("bash", "5")),
            packed=CompressedSize(1000, 900),
            inside=inside(),
            run=RunTrial("0", ""),
        ),
        **changes,
    )


def item(key: str, **changes: Any) -> CheckResult:
    (found,) = [one for one in judge_entry(facts(**changes)) if one.key == key]
    return found


def test_an_entry_with_all_it_needs() -> None:
    items = judge_entry(facts())
    assert [one.key for one in items] == [
        "entry.toml", "title", "description", "hints", "licence", "contributor", "image", "size",
        "screenshot", "contents", "sources", "identity", "secrets", "run",
    ]  # fmt: skip
    assert {one.status for one in items} == {Status.OK}
    assert [one.hint for one in items] == [None] * len(items)
    assert is_proven(items)


@pytest.mark.parametrize("key", ["title", "description", "hints", "contributor", "licence"])
def test_empty_fields_are_missing(key: str) -> None:
    lines = [line for line in TEXT.splitlines() if not line.startswith(f"{key} =")]
    items = judge_entry(facts(description=described("\n".join(lines)), inside=inside(hints="")))
    missing = [one for one in items if one.status is not Status.OK]
    assert [(one.key, one.status) for one in missing] == [(key, Status.MISSING)]
    assert "entry.toml" in (missing[0].hint or "")
    assert not is_proven(items)


def test_an_unreadable_description_hides_no_other_check() -> None:
    items = judge_entry(facts(description=Issue(Status.WRONG, "no TOML")))
    assert [(one.key, one.status) for one in items if one.status is not Status.OK] == [
        ("entry.toml", Status.WRONG),
        ("size", Status.UNKNOWN),
    ]


@pytest.mark.parametrize("key", ["image_summary", "screenshot", "contents", "packed", "inside", "run"])
def test_unknown_facts_are_unknown_results(key: str) -> None:
    items = judge_entry(facts(**{key: ISSUE}))
    keys = {"image_summary": ["image"], "packed": ["size"], "inside": ["identity", "secrets"]}
    unknown = keys.get(key, [key]) + (["sources"] if key == "contents" else [])
    assert [one.key for one in items if one.status is Status.UNKNOWN] == unknown
    assert {one.hint for one in items if one.status is Status.UNKNOWN} == {"look"}
    assert not is_proven(items), "what is not known is not proven"


@pytest.mark.parametrize(
    ("packed", "state", "words"),
    [
        (CompressedSize(2 << 20, 1 << 20), Status.OK, "1024.0K packed, of 1024.0K"),
        (CompressedSize(2 << 20, (1 << 20) + 1), Status.WRONG, "packed, of"),
        (CompressedSize(1 << 19, None), Status.OK, "at most 512.0K"),
        (CompressedSize(2 << 20, None), Status.WRONG, "about 2.0M"),
        (CompressedSize(1 << 20, None), Status.UNKNOWN, "changed since"),
    ],
)
def test_sizes(packed: CompressedSize, state: Status, words: str) -> None:
    found = item("size", packed=packed)
    assert (found.status, words in found.detail.replace("1.0M", "1024.0K")) == (state, True), found


def test_xz_is_tried_only_when_zstd_leaves_it_open() -> None:
    asked = {zstd: fits_budget(CompressedSize(zstd, None), 1000) for zstd in (980, 981, 1500, 1501)}
    assert asked == {980: True, 981: None, 1500: None, 1501: False}


WITHOUT_BUDGET, WITHOUT_OFFER = (
    described(TEXT.replace(old, new)) for old, new in (("size-budget", "# "), ("ann@example.org", ""))
)
GONE = (SourceGap("bash", "5", "gone from the archive"),)
BUILT = dataclasses.replace(GPL, built_using=(("glibc", "2.36"),))
MANY = [dataclasses.replace(GPL, name=f"p{number}", source=f"p{number}") for number in range(9)]


@pytest.mark.parametrize(
    ("key", "changes", "state", "words"),
    [
        ("licence", {"description": described(TEXT.replace("MIT", "GPL"))}, Status.WRONG, "no licence GPL"),
        ("size", {"description": WITHOUT_BUDGET, "packed": ISSUE}, Status.OK, ""),
        ("sources", {"sources": sources(("bash", "4"))}, Status.WRONG, "1 of 1 source package missing"),
        ("sources", {"contents": contents(BUILT)}, Status.WRONG, "glibc 2.36"),
        ("sources", {"contents": contents(*MANY), "sources": sources()}, Status.WRONG, "; and 4 more"),
        ("sources", {"contents": contents(MIT), "sources": ISSUE}, Status.OK, "no licence in the image"),
        ("identity", {"inside": inside(system=False, reason="none")}, Status.UNKNOWN, "none"),
        ("secrets", {"inside": inside(system=False, reason="none")}, Status.UNKNOWN, "none"),
        ("run", {"run": RunTrial("0", "QEMU writes")}, Status.WRONG, "QEMU writes"),
    ],
)
def test_results(key: str, changes: dict[str, Any], state: Status, words: str) -> None:
    found = item(key, **changes)
    assert (found.status, words in found.detail) == (state, True), found


def test_sources_that_are_missing_are_named_with_their_reasons() -> None:
    found = item("sources", contents=contents(GPL, UNKNOWN, MIT), sources=sources(gaps=GONE))
    assert found.detail == "2 of 2 source packages missing: bash 5 (gone from the archive); odd-source 1"
    assert found.hint == "collect them: pybuilder-repo sources lib/demo"
    assert len(item("sources", description=WITHOUT_OFFER).notes) == 1


IDENTITY = [
    Leftover.MACHINE_ID, Leftover.SSH_HOST_KEY, Leftover.DHCP_LEASE,
    Leftover.NETWORK_RULE, Leftover.RANDOM_SEED, Leftover.HOSTNAME,
]  # fmt: skip
IDENTITY_NOTES = [Leftover.LOG, Leftover.CLOUD_INIT, Leftover.PACKAGE_CACHE, Leftover.TEMPORARY_FILE]
SECRETS = [
    Leftover.PRIVATE_KEY, Leftover.AUTHORIZED_KEY, Leftover.CREDENTIALS, Leftover.SHELL_HISTORY,
    Leftover.NETWORK_PASSWORD,
]  # fmt: skip
SECRET_NOTES = [Leftover.MADE_KEY, Leftover.TOOL_MEMORY]


@pytest.mark.parametrize("trace", Leftover)
def test_each_leftover_concerns_one_check(trace: Leftover) -> None:
    seen = inside(Seen(trace, ("/a b", "/c", "/d", "/e"), 7))
    identity, secrets = item("identity", inside=seen), item("secrets", inside=seen)
    states = {
        **dict.fromkeys(IDENTITY, (Status.WRONG, Status.OK)),
        **dict.fromkeys(SECRETS, (Status.OK, Status.WRONG)),
        **dict.fromkeys([*IDENTITY_NOTES, *SECRET_NOTES], (Status.OK, Status.OK)),
        Leftover.UNREADABLE: (Status.OK, Status.UNKNOWN),
        Leftover.UNREADABLE_IDENTITY: (Status.UNKNOWN, Status.OK),
    }
    assert (identity.status, secrets.status) == states[trace]
    assert len(identity.notes) == (trace in IDENTITY_NOTES)
    assert len(secrets.notes) == (trace in SECRET_NOTES)
    printed = " ".join([identity.detail, secrets.detail, *identity.notes, *secrets.notes])
    assert "/a b, /c, /d and 4 more" in printed


def test_what_makes_an_image_larger_comes_with_the_command_that_removes_it() -> None:
    lists = Seen(Leftover.PACKAGE_CACHE, ("/var/lib/apt/lists/a", "/var/lib/apt/lists/b"), 2, 87 << 20)
    identity = item("identity", inside=inside(lists, Seen(Leftover.LOG, ("/var/log/syslog",), 1)))
    assert identity.status is Status.OK
    assert "again, 87.0M: /var/lib/apt/lists/a" in identity.notes[0] + identity.notes[1]
    assert identity.notes[-1] == (
        "to make the image smaller: pybuilder-customize -a lib/demo/demo.img --sysprep package-caches"
    )


def test_the_remedy_is_a_command_with_quoted_paths() -> None:
    seen = inside(
        Seen(Leftover.SSH_HOST_KEY, ("/etc/ssh/ssh_host_rsa_key",), 1),
        Seen(Leftover.HOSTNAME, ("/etc/hostname",), 1),
    )
    assert item("identity", inside=seen).hint == (
        "remove it: pybuilder-customize -a lib/demo/demo.img --hostname localhost --sysprep all"
    )
    seen = inside(
        Seen(Leftover.SHELL_HISTORY, ("/root/.bash_history",), 1),
        Seen(Leftover.PRIVATE_KEY, ("/a; reboot",), 1),
    )
    hint = item("secrets", inside=seen).hint or ""
    assert hint.endswith("--delete '/a; reboot' --sysprep all")


@pytest.mark.parametrize(
    ("password", "state", "notes"),
    [
        (PasswordState.IN_HINTS, Status.OK, 0),
        (PasswordState.EMPTY, Status.OK, 1),
        (PasswordState.COMMON, Status.OK, 1),
        (PasswordState.NOT_IN_HINTS, Status.WRONG, 0),
        (PasswordState.UNTRIED, Status.UNKNOWN, 0),
    ],
)
def test_passwords(password: PasswordState, state: Status, notes: int) -> None:
    found = item("secrets", inside=inside(accounts=(Account("ann", password),)))
    assert (found.status, len(found.notes)) == (state, notes)
    assert state is Status.OK or "ann" in found.detail


@pytest.mark.parametrize("password", PasswordState)
def test_changed_hints_may_have_other_passwords(password: PasswordState) -> None:
    seen = inside(accounts=(Account("ann", password),), hints="of another day")
    printed = {PasswordState.IN_HINTS, PasswordState.NOT_IN_HINTS, PasswordState.UNTRIED}
    assert (item("secrets", inside=seen).status is Status.UNKNOWN) == (password in printed)
