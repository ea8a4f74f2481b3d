"""A worker that the image has taken over: whatever it answers, nothing but ``UnfitError`` comes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance.hostside import connection
from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.appliance.options import Attachment
from imgbuilder.appliance.worker import HEADER, pack
from imgbuilder.errors import GuestCallError, UnfitError

_TAKEN_OVER = """\
import json, socket, struct, sys
parent = socket.socket(fileno=int(sys.argv[3]))
def send(body, raw=b""):
    parent.sendall(struct.pack(">II", len(body), len(raw)) + body + raw)
def receive(size):
    data = b""
    while len(data) < size:
        data += parent.recv(size - len(data)) or sys.exit()
    return data
send(b'{{"result": "ready"}}')
while True:
    size, raw_size = struct.unpack(">II", receive(8))
    request = json.loads(receive(size))
    receive(raw_size)
    if request["method"] in ("open", "close"):
        send(b'{{"result": null}}')
        continue
    if {answer!r} is not None:
        send(*{answer!r})
    {then}
"""


@pytest.fixture
def opened(image: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Run a request with a worker that gives one answer to everything, and then runs some code."""

    def run(
        answer: bytes | tuple[bytes, bytes] | None,
        request: Callable[[LibguestfsAppliance], object],
        then: str = "pass",
    ) -> object:
        if isinstance(answer, bytes):
            answer = (answer, b"")
        monkeypatch.setattr(connection, "_START", _TAKEN_OVER.format(answer=answer, then=then))
        with open_hostside(Attachment(image, "raw")) as appliance:
            appliance.mount("/dev/sda", "/")
            return request(appliance)

    return run


def _result(value: object) -> tuple[bytes, bytes]:
    """Return the text and the raw bytes of an answer."""
    frame = pack({"result": value})
    end = HEADER.size + HEADER.unpack_from(frame)[0]
    return frame[HEADER.size : end], frame[end:]


_FACTS = {"st_ino": 1, "st_mode": 0o100644, "st_nlink": 1, "st_uid": 0, "st_gid": 0, "st_size": 1}
_REQUESTS: dict[str, Callable[[LibguestfsAppliance], object]] = {
    "exists": lambda guest: guest.exists("/f"),
    "stat": lambda guest: guest.stat("/f"),
    "ls": lambda guest: guest.ls("/"),
    "glob": lambda guest: guest.glob("/*"),
    "realpath": lambda guest: guest.realpath("/f"),
    "readlink": lambda guest: guest.readlink("/f"),
    "read": lambda guest: guest.read("/f"),
    "files_below": lambda guest: guest.files_below("/"),
    "write": lambda guest: guest.write("/f", b""),
    "chmod": lambda guest: guest.chmod(0o644, "/f"),
    "filesystem_use": lambda guest: guest.filesystem_use(),
}


_BROKEN: list[bytes | tuple[bytes, bytes]] = [
    b"",
    b"null",
    b"[]",
    b"7",
    b"{}",
    b"not JSON",
    b"[" * 20_000,
    b'{"result": {"dict": 3}}',
    b'{"result": {"dict": [[[], 3]]}}',
    b'{"result": {"bytes": 5}}',
    b'{"result": {"bytes": -1}}',
    b'{"result": {"bytes": 1e9}}',
    b'{"result": {"bytes": "!"}}',
    b'{"result": {}}',
    (b'{"result": {"bytes": 2}}', b"x"),
    (b'{"result": {"bytes": 1}}', b"xy"),
    (b'{"result": null}', b"x"),
    b'{"error": {}, "errno": []}',
    b'{"error": "x", "errno": "EPERM"}',
    b'{"error": "x", "errno": "no such name"}',
]
"""Answers to no request at all: read before it is known what was asked."""
_UNTRUE = [
    _result({"st_mode": 5}),
    _result({**_FACTS, "st_size": 1 << 70}),
    _result({**_FACTS, "st_size": True}),
    _result({**_FACTS, "st_size": "1"}),
    _result([1024, 5, 6]),
    _result(["", "/"]),
    _result(["a/b"]),
    _result(["..", 5]),
    _result("relative"),
    _result("/not/../plain"),
    _result("/with\0nul"),
    _result("/\ud800"),
    _result(["\ud800"]),
    _result(3.5),
]


def test_answers_that_cannot_be_read(opened: Any) -> None:
    for answer in _BROKEN:
        with pytest.raises(UnfitError):
            opened(answer, _REQUESTS["stat"])


@pytest.mark.parametrize("answer", _UNTRUE, ids=range(len(_UNTRUE)))
def test_answers_that_cannot_be_true(opened: Any, answer: tuple[bytes, bytes]) -> None:
    def ask(guest: LibguestfsAppliance) -> None:
        for name, request in _REQUESTS.items():
            if name == "readlink" and answer in (_result("relative"), _result("/not/../plain")):
                continue  # a link may have any target
            with pytest.raises(UnfitError, match="cannot be true"):
                request(guest)

    opened(answer, ask)


def test_content_longer_than_asked_for(opened: Any) -> None:
    def ask(guest: LibguestfsAppliance) -> object:
        return guest._call("pread", "/f", 10, 0)

    assert opened(_result(b"x" * 10), ask) == b"x" * 10
    with pytest.raises(UnfitError):
        opened(_result(b"x" * 11), ask)


def test_errors_of_the_guest_are_errors(opened: Any) -> None:
    with pytest.raises(GuestCallError, match="no such file"):
        opened(b'{"error": "no such file", "errno": "ENOENT"}', _REQUESTS["stat"])


def test_errors_can_be_printed(opened: Any) -> None:
    with pytest.raises(GuestCallError) as failure:
        opened(b'{"error": "broken \\ud800", "errno": "ENOENT"}', _REQUESTS["stat"])
    assert failure.value.message == "broken ?"


def test_a_worker_that_ends(opened: Any, monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    monkeypatch.setattr(connection, "_START", "import os; os._exit(3)")
    with pytest.raises(UnfitError), open_hostside(Attachment(image, "raw")):
        pass


def test_a_worker_that_is_silent(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_LIMIT", 0.5)
    with pytest.raises(UnfitError):
        opened(b'{"log": 5}', _REQUESTS["stat"])


def test_the_size_of_the_image_is_compared(image: Path) -> None:
    size = image.stat().st_size
    with pytest.raises(UnfitError), open_hostside(Attachment(image, "raw")):
        os.truncate(image, size + 512)
    os.truncate(image, size)


@pytest.mark.parametrize("message", [b'{"progress": [1, 2]}', b'{"log": "x"}'])
def test_a_worker_cannot_keep_the_build_waiting(opened: Any, message: bytes) -> None:
    with pytest.raises(UnfitError, match="not understood"):
        opened(message, _REQUESTS["stat"], f"while True: send({message!r})")


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0\0", b"\xff" * 8, b"\0" * 4 + b"\xff" * 4, b"\0\0\0\x09\0\0\0\0{}", b"\0\0\0\x02\0\0\0\x01{}"],
)
def test_frames_that_are_cut_or_too_long(opened: Any, raw: bytes) -> None:
    with pytest.raises(UnfitError, match=r"ended unexpectedly|in one answer"):
        opened(None, _REQUESTS["stat"], f"parent.sendall({raw!r}); sys.exit()")
