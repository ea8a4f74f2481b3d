"""The scripts that run in an appliance when it is saved or resumed, and their valid output."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance.instant import save
from imgbuilder.appliance.instant.save import Answer, check_draws, check_sizes, read_answer, reseed_interval
from imgbuilder.errors import ApplianceError

A, B, C = ("ab" * 32, "cd" * 32, "ef" * 32)


def test_the_greeting_reseeds_first() -> None:
    script = save.greeting_script(1234.5)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert script.index("0x5207") < script.index("sysread") < script.index("date -s @1234.500")
    assert script.splitlines()[:1] == ["set -e"]
    assert script.splitlines()[1].startswith(save.PERL), "nothing else runs before"


@pytest.mark.parametrize("script", [save.renew_script(), save.record_script()])
def test_scripts_are_perl(script: str) -> None:
    program = script.partition("'")[2].rstrip("'")
    subprocess.run(["perl", "-c", "-e", program], check=True, capture_output=True)


def test_answer() -> None:
    answer = read_answer(f"draw {A}\ndraw {B}\nuptime 12.25\nsize 2048\n")
    assert answer == Answer((A, B), (1 << 20,), (12.25,))


@given(st.text(max_size=300))
def test_any_answer_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ApplianceError):
        read_answer(text)


@pytest.mark.parametrize("text", [f"draw {A}0", "draw ", "size -1", "size " + "9" * 20, "uptime nan"])
def test_wrong_answers_are_refused(text: str) -> None:
    with pytest.raises(ApplianceError):
        read_answer(text)


@pytest.mark.parametrize(
    ("draws", "message"),
    [((A, C), "repeats"), ((B, C), "repeats"), ((C, B), "repeats"), ((C, C), "no random"),
     ((C,), "no random"), ((), "no random")],
)  # fmt: skip
def test_draws_that_are_not_fresh_are_refused(draws: tuple[str, ...], message: str) -> None:
    with pytest.raises(ApplianceError, match=message):
        check_draws(Answer(draws, (), ()), frozenset({A, B}))


def test_fresh_draws_pass() -> None:
    check_draws(Answer((B, C), (), ()), frozenset({A}))


@pytest.mark.parametrize(
    ("seen", "expected", "fits"),
    [
        ((512,), (512,), True),
        ((512, 1024), (1024, 512), True),
        ((512, 1024), (None, 512), True),
        ((512,), (1024,), False),
        ((512,), (512, 512), False),
        ((512, 512), (512,), False),
        ((512, 1024), (512, 512), False),
        ((), (None,), False),
    ],
)
def test_sizes(seen: tuple[int, ...], expected: tuple[int | None, ...], fits: bool) -> None:
    if fits:
        check_sizes(Answer((), seen, ()), expected)
    else:
        with pytest.raises(ApplianceError, match="disk"):
            check_sizes(Answer((), seen, ()), expected)


@pytest.mark.parametrize(("uptime", "seconds"), [(0.5, 1), (15, 7), (21.9, 10), (119, 59), (121, 60)])
def test_interval_of_the_kernel(uptime: float, seconds: float) -> None:
    assert reseed_interval(uptime) == seconds
