"""virt-builder's way of writing options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.cli.getopt import spell_out
from imgbuilder.errors import UsageError

OPTIONS = {
    "list": False,
    "list-format": True,
    "long": False,
    "size": True,
    "smp": True,
    "run": True,
    "run-command": True,
    "output": True,
    "verbose": False,
}
SHORTS = {"l", "o", "v", "m"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--size", "4G"], ["--size=4G"]),
        (["--size=4G"], ["--size=4G"]),
        (["-size", "4G"], ["--size=4G"]),
        (["-size=4G"], ["--size=4G"]),
        (["--siz", "4G"], ["--size=4G"]),
        (["--run", "x"], ["--run=x"]),  # an exact name beats prefixes
        (["--run-c", "x"], ["--run-command=x"]),
        (["--list"], ["--list"]),
        (["-l"], ["-l"]),
        (["-o", "x"], ["-o", "x"]),
        (["-ox"], ["-ox"]),
        (["-v"], ["-v"]),
        (["name", "--size", "1G", "other"], ["name", "--size=1G", "other"]),
        (["--", "--size"], ["--", "--size"]),
        (["--run-command", "--size"], ["--run-command=--size"]),  # a value may look like an option
        (["--run-command", "-x"], ["--run-command=-x"]),
        (["--run-command", "--"], ["--run-command=--"]),
        (["--size"], ["--size"]),  # without its value: click says so
        (["--unknown"], ["--unknown"]),
        (["-"], ["-"]),
    ],
)
def test_options_are_spelled_out(given: list[str], expected: list[str]) -> None:
    assert spell_out(given, OPTIONS, SHORTS) == expected


@pytest.mark.parametrize("word", ["--lis", "--s", "-s", "--r"])
def test_ambiguous_prefixes_name_the_choices(word: str) -> None:
    with pytest.raises(UsageError, match="ambiguous") as caught:
        spell_out([word], OPTIONS, SHORTS)
    assert caught.value.hint
    assert "--" in caught.value.hint


def test_what_was_unambiguous_in_a_release_stays_so() -> None:
    options = {"run-command": True, "run-script": True, "no-sync": False, "no-selinux": False, "no-x": False}
    first = {"run-command", "no-sync"}
    second = first | {"no-selinux"}
    assert spell_out(["--run-", "x"], options, "", (), [first, second]) == ["--run-command=x"]
    assert spell_out(["--no-s"], options, "", (), [first, second]) == ["--no-sync"]
    assert spell_out(["--no-se"], options, "", (), [first, second]) == ["--no-selinux"]
    assert spell_out(["--no-x"], options, "", (), [first, second]) == ["--no-x"]
    for word, known in (("--run-", [second - {"run-command"}]), ("--no-s", [second])):
        with pytest.raises(UsageError, match="ambiguous"):
            spell_out([word], options, "", (), known)
    with pytest.raises(UsageError, match="ambiguous"):  # there it was, although we know only one of them
        spell_out(["--no"], {"no-sync": False, "no-x": False}, "", (), [second])


@given(st.lists(st.text(max_size=8)))
def test_anything_is_rewritten_or_refused(words: list[str]) -> None:
    try:
        result = spell_out(words, OPTIONS, SHORTS)
    except UsageError:
        return
    assert spell_out(result, OPTIONS, SHORTS) == result


def test_a_value_that_may_be_left_out_is_never_the_next_word() -> None:
    options = {"machine-readable": True, "size": True}
    for word, shown in (("--machine-readable", ""), ("-machine", ""), ("--machine-readable=fd:3", "fd:3")):
        got = spell_out([word, "debian-12"], options, "", {"machine-readable"})
        assert got == [f"--machine-readable={shown}", "debian-12"]
