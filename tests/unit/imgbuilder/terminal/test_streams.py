from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.terminal.streams import OutputLostError, text_output


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
