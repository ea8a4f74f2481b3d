"""Output on a terminal and elsewhere; a stream fails as what it is."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import re
import struct
import termios
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.events import Progress, ProgressEnd, Step, debug, info, warn
from imgbuilder.terminal.reporter import ConsoleReporter, OutputLostError, text_output


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def reporter(*, terminal: bool = False, **options: bool) -> tuple[ConsoleReporter, io.StringIO, io.StringIO]:
    out, err = (Terminal(), Terminal()) if terminal else (io.StringIO(), io.StringIO())
    return ConsoleReporter("prog", started=time.monotonic(), out=out, err=err, **options), out, err


def test_steps_look_like_virt_builders() -> None:
    show, out, err = reporter()
    show(Step("Downloading: x"))
    assert re.fullmatch(r"\[   0\.\d\] Downloading: x\n", out.getvalue())
    assert err.getvalue() == ""


def test_notices_go_where_they_belong() -> None:
    show, out, err = reporter()
    info(show, "for you")
    warn(show, "careful")
    debug(show, "details")
    assert out.getvalue() == "prog: for you\n"
    assert err.getvalue() == "prog: warning: careful\n"


def test_quiet_and_verbose() -> None:
    show, out, err = reporter(quiet=True, verbose=True)
    show(Step("x"))
    show(Progress("x", 1, 2))
    info(show, "still said")
    debug(show, "details")
    assert out.getvalue() == "prog: still said\n"
    assert err.getvalue() == "prog: debug: details\n"


def test_errors_have_a_next_step() -> None:
    show, out, err = reporter()
    show.error("it failed", "try this")
    assert err.getvalue() == "prog: error: it failed\n  try this\n"
    assert out.getvalue() == ""


def test_long_transfers_say_a_line_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    show, out, err = reporter()
    now = time.monotonic()
    for second in range(25):
        monkeypatch.setattr(time, "monotonic", lambda second=second: now + second)
        show(Progress("template", second * 1024, 25 * 1024))
    show(ProgressEnd())
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("template: 10.0K of 25.0K (40%), 1.0K/s, 0:15 left")
    assert err.getvalue() == ""


class Clock:
    """Stands for ``time.monotonic``, also in tqdm's place for its own time."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        patch.setattr(time, "monotonic", lambda: self.now)


def test_a_bar_on_a_terminal_is_taken_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show, out, err = reporter(terminal=True)
    show(Progress("template", 512, 1024))
    clock.now += 1
    show(Progress("template", 600, 1024))
    show(Step("meanwhile"))
    show(ProgressEnd())
    assert "template" in err.getvalue()
    assert "\x1b[0;32mmeanwhile\x1b[0m" in out.getvalue()
    assert err.getvalue().rstrip(" \r").endswith(("\r", "")), "no bar is left"
    show.close()


def test_what_takes_under_half_a_second_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    show, out, err = reporter(terminal=True)
    for label in ("index", "template", "template"):
        for done in (1, 512, 1024):
            show(Progress(label, done, 1024))
            clock.now += 0.2
        show(ProgressEnd())
    assert (out.getvalue(), err.getvalue()) == ("", "")


def test_a_dumb_terminal_has_lines_instead_of_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    show, out, err = reporter(terminal=True)
    for second in range(12):
        show(Progress("template", second * 1024, 25 * 1024))
        clock.now += 1
    assert err.getvalue() == ""
    assert out.getvalue().endswith("template: 10.0K of 25.0K (40%), 1.0K/s, 0:15 left\n")


@pytest.mark.parametrize("columns", [40, 60, 80, 132, 200])
@pytest.mark.parametrize("total", [5 << 30, None])
def test_a_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, total: int | None) -> None:
    """It shows how far it is, and takes one line, whatever the name and the width."""
    clock = Clock(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    main, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    label = "Unpacking a-template-with-a-very-long-name-of-a-careful-publisher"
    with open(terminal, "w", encoding="utf-8") as err:
        show = ConsoleReporter("prog", out=io.StringIO(), err=err)
        for gigabyte in (0, 1, 2):
            show(Progress(label, gigabyte << 30, total))
            clock.now += 5
            time.sleep(0.15)  # tqdm draws only ten times a second
        err.flush()
        shown = os.read(main, 1 << 16).decode()
        show.close()
        err.flush()
    os.close(main)
    drawn = [text for text in shown.split("\r") if text.strip()]
    assert drawn
    assert max(map(len, drawn)) <= columns
    assert "Unpacking" in drawn[-1]
    assert ("40%" in drawn[-1]) if total else ("2.00G" in drawn[-1])


def test_the_same_information_is_shown_once() -> None:
    """Such as the reason for emulation, at each start of an appliance."""
    show, out, err = reporter()
    for _ in range(2):
        info(show, "KVM does not work")
        warn(show, "careful")
    assert out.getvalue() == "prog: KVM does not work\n"
    assert err.getvalue() == "prog: warning: careful\n" * 2


def test_colours_when_asked_and_not_where_they_are_unwelcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show, _out, err = reporter()
    show.colour = True
    show.error("no", None)
    assert err.getvalue() == "prog: error: \x1b[1;31mno\x1b[0m\n"
    for name, value, coloured in (("TERM", "xterm", True), ("TERM", "dumb", False), ("NO_COLOR", "1", False)):
        monkeypatch.setenv(name, value)
        show, _out, err = reporter(terminal=True)
        show.error("no", None)
        assert ("\x1b" in err.getvalue()) == coloured


def test_wrapping_at_column_76_breaks_no_word() -> None:
    show, out, err = reporter()
    show.wrap = True
    path = "/long/" * 20
    show.error(f"{'word ' * 20}{path}", None)
    first, *_, last = err.getvalue().splitlines()
    assert first == f"prog: error: {'word ' * 12}word"[:76].rsplit(" word", 1)[0] + " word"
    assert len(first) <= 76
    assert last == path
    show(Step("word " * 20))
    assert len(out.getvalue().splitlines()) == 1, "virt-builder does not wrap these"


class _Latin:
    encoding = "latin-1"


@given(text=st.text(st.characters(codec=None, exclude_characters="\n\r")))
def test_what_an_encoding_lacks_stays_right_in_json(text: str) -> None:
    read, write = os.pipe()
    with text_output(write, "x", like=_Latin()) as stream:  # type: ignore[arg-type]  # all that is looked at
        stream.write(json.dumps(text, ensure_ascii=False))
    os.close(write)
    with open(read, encoding="latin-1") as file:
        assert json.loads(file.read()) == text


def test_an_error_names_the_stream() -> None:
    with open("/dev/full", "w") as full:
        stream = text_output(full.fileno(), "the report")
        with pytest.raises(OutputLostError, match=r"^the report: No space left on device$") as caught:
            stream.write("x\n")
    assert caught.value.errno == errno.ENOSPC
    assert not isinstance(caught.value, Exception)


def test_what_is_not_needed_is_dropped() -> None:
    with open("/dev/full", "w") as full:
        text_output(full.fileno(), "x", needed=False).write("x\n")


def test_a_descriptor_that_does_not_wait(tmp_path: Path) -> None:
    """As ssh and others leave the terminal that they share with us."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETFL, fcntl.fcntl(write, fcntl.F_GETFL) | os.O_NONBLOCK)
    pieces: list[bytes] = []

    def drain() -> None:
        while piece := os.read(read, 1 << 16):
            pieces.append(piece)

    reader = threading.Thread(target=drain)
    threading.Timer(0.2, reader.start).start()
    text_output(write, "x").write("y" * 300_000 + "\n")
    os.close(write)
    reader.join(30)
    assert len(b"".join(pieces)) == 300_001
