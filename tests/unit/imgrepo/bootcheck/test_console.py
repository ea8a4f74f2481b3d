"""The console's judge: real consoles, and any bytes in any pieces."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.errors import RepositoryError
from imgrepo.bootcheck import console
from imgrepo.bootcheck.console import (
    LONGEST_LINE,
    BootMarker,
    BootState,
    Lines,
    Log,
    Watcher,
    concern_in,
    failure_in,
)
from tests.unit.imgrepo.bootcheck import consoles


def watched(data: bytes, marker: str = "login:") -> Watcher:
    watcher = Watcher(BootMarker(marker, where="[boot] marker"))
    watcher.feed(data)
    watcher.pause()
    return watcher


def test_a_login_prompt_without_an_end_is_seen() -> None:
    watcher = watched(consoles.DEBIAN)
    assert watcher.judgement.state is BootState.BOOTED
    assert watcher.last_line == "debian-12 login:"
    assert watcher.concerns == ()
    watcher.end()
    assert "[  OK  ] Started serial-getty@ttyS0\u2026rvice." in watcher.log.text().splitlines()
    assert watcher.log.tail(1) == ("debian-12 login:",)


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (consoles.PANIC, "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)"),
        (consoles.NOTHING, "the firmware found nothing to boot"),
        (consoles.RESCUE, "GRUB does not find its files (rescue mode)"),
        (consoles.GRUB_SHELL, "GRUB found no menu and waits for commands"),
        (consoles.INITRAMFS, "the system's root was not found (shell of the initramfs)"),
        (consoles.EMERGENCY, "the system started in emergency mode"),
        (consoles.UEFI, "the firmware found nothing to boot"),
        (consoles.UEFI_SHELL, "the firmware found nothing to boot, and started its shell"),
        (consoles.LOOP, "it starts again and again"),
        (consoles.SPLIT_BY_PLACES, "GRUB does not find its files (rescue mode)"),
    ],
)
def test_a_failure_is_seen_at_once_with_its_reason(console: bytes, reason: str) -> None:
    judgement = watched(console).judgement
    assert (judgement.state, judgement.reason) == (BootState.FAILED, reason)


def test_a_marker_of_its_own_counts_instead_of_a_login() -> None:
    assert watched(consoles.DEBIAN, r"^kiosk \d+ is ready$").judgement.state is BootState.BOOTING
    assert watched(b"kiosk 7 is ready\n", r"^kiosk \d+ is ready$").judgement.state is BootState.BOOTED


def test_the_first_verdict_stays() -> None:
    watcher = watched(consoles.DEBIAN)
    watcher.feed(b"\n" + consoles.PANIC)
    assert watcher.judgement.state is BootState.BOOTED
    assert any("Call Trace" in line for line in watcher.concerns)


def test_a_few_restarts_are_allowed() -> None:
    assert (
        watched(consoles.LOOP[: len(consoles.LOOP) // 6 * 3] + b"x login: ").judgement.state
        is BootState.BOOTED
    )


@settings(deadline=None)
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from(
                [consoles.DEBIAN, consoles.PANIC, consoles.RESCUE, consoles.SPLIT_BY_PLACES, b"\n", b"\r",
                 b"\x1b[", b"x" * LONGEST_LINE, b"\x1b[3;4H", b"login:", b"Oops: "]
            ),
        ),
        max_size=12,
    ).map(b"".join),
    cuts=st.lists(st.integers(0, 20_000), max_size=12),
)  # fmt: skip
def test_how_it_is_cut_into_pieces_makes_no_difference(data: bytes, cuts: list[int]) -> None:
    whole = watched(data)
    pieces = Watcher(BootMarker("login:", where="test"))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for begin, end in itertools.pairwise(places):
        pieces.feed(data[begin:end])
    pieces.pause()
    assert pieces.judgement == whole.judgement
    assert pieces.concerns == whole.concerns
    for watcher in (pieces, whole):
        watcher.end()
    assert pieces.log.text() == whole.log.text()
    assert pieces.log.text().replace("\n", "").isprintable()


def test_endless_lines_and_endless_output_stay_in_bounds() -> None:
    lines, log = Lines(), Log(room=10_000)
    for _ in range(2_000):
        for line in lines.feed(b"y" * 1_000):
            assert len(line) <= LONGEST_LINE
            log.add(line)
    assert len(log.text()) < 20_100
    assert "lines are left out here" in log.text()
    assert log.tail(1) == ("y" * LONGEST_LINE,)
    assert sum(len(line) for line in lines.unfinished()) < LONGEST_LINE


def test_looking_at_an_unfinished_line_changes_nothing() -> None:
    lines = Lines()
    assert lines.feed(b"x\x1b[5;1Hy") == []
    assert lines.unfinished() == lines.unfinished() == ["x", "y"]
    assert lines.feed(b"z\n") == ["x", "yz"]


def test_the_log_keeps_the_beginning_and_the_end() -> None:
    log = Log(room=20)
    for number in range(100):
        log.add(f"line {number:03}")
    assert log.text().splitlines() == [
        "line 000", "line 001", "[... 96 lines are left out here ...]", "line 098", "line 099",
    ]  # fmt: skip


def test_control_sequences_are_not_kept() -> None:
    watcher = watched(b"a\x1b]0;title\x07b\x1b[31mc\x1b[?1049h\x1bPq\x1b\\d\x9b5n\x07\x00e\xe2\x80\xaef\n")
    assert watcher.log.text() == "abcd\ufffd5nef\n"


@pytest.mark.parametrize(
    "line",
    [
        "[   12.1] Oops: 0002 [#1] PREEMPT SMP",
        "[   12.1] BUG: kernel NULL pointer dereference, address: 0000000000000000",
        "[   12.1] blk_update_request: I/O error, dev vda, sector 2048",
        "[   12.1] Call Trace:",
        "[   12.1] Out of memory: Killed process 312 (mysqld)",
        "[   12.1] nginx invoked oom-killer: gfp_mask=0x100cca",
        "[   12.1] EXT4-fs error (device vda1): ext4_lookup:1783",
        "[   12.1] WARNING: CPU: 0 PID: 1 at kernel/smp.c:911",
        "[   12.1] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        "[   12.1] python3[411]: segfault at 0 ip 00007f sp 00007f error 4",
        "[FAILED] Failed to start nginx.service - A high performance web server.",
        "[DEPEND] Dependency failed for data.mount - /data.",
        "[   12.1] systemd[1]: nginx.service: Failed with result 'exit-code'.",
    ],
)
def test_warnings(line: str) -> None:
    assert concern_in(line) == line


@pytest.mark.parametrize(
    "line",
    [
        "[  OK  ] Finished systemd-pstore.service.",
        "[    0.1] mce: CPU supports 10 MCE banks",
        "[    1.1] EXT4-fs (vda2): mounted filesystem with ordered data mode.",
        "[    0.3] DEBUG: nothing",
        "[    2.1] systemd[1]: Starting kmod-static-nodes.service",
    ],
)
def test_other_lines_are_not_warnings(line: str) -> None:
    assert concern_in(line) == ""
    assert failure_in(line) == ""


def test_warnings_are_kept_once_and_limited() -> None:
    watcher = watched(b"".join(b"[ %4d.1] I/O error, dev vda\n" % number for number in range(500)))
    assert len(watcher.concerns) == 1
    watcher.feed(b"".join(b"Oops %d\n" % number for number in range(500)))
    assert len(watcher.concerns) == 50


def test_a_marker_that_backtracks_without_end_is_stopped() -> None:
    watcher = Watcher(BootMarker(r"(a|a)+(a|aa)+$", where="entry.toml: [boot] marker"))
    with pytest.raises(RepositoryError) as caught:
        watcher.feed(b"a" * 4000 + b"b\n")
    assert "entry.toml" in str(caught.value)
    assert "took more than" in str(caught.value)


def test_an_invalid_expression_is_refused() -> None:
    with pytest.raises(RepositoryError, match="not a valid regular expression"):
        BootMarker("(", where="--marker")


def test_many_lines_that_are_each_a_little_slow_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_ALL_SLOW", 0.2)
    marker = BootMarker(r"^(a|a)+$", where="[boot] marker")
    size = 4
    while True:  # find a line that is slow, but not too slow for one
        began = time.thread_time()
        marker.found_in("a" * size + "b")
        if time.thread_time() - began > 2 * console._SLOW:
            break
        size += 1
    watcher = Watcher(marker)
    with pytest.raises(RepositoryError, match="took more than"):
        watcher.feed((b"a" * size + b"b\n") * 200)
