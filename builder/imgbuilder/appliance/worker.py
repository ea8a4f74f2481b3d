"""The only program that loads libguestfs: a worker process that serves one handle.

``imgbuilder.appliance.connection`` starts it with the distribution's Python,
which may differ from the one that runs pybuilder. So this file imports the
standard library only, and works with old interpreters (3.9 and later).

It is a separate process because Python runs no signal handler while
``launch()`` and other calls block in C (docs/threat-model.md, F16). The parent
handles signals and time limits, and can end this process and its hypervisor.

``hostside.worker`` speaks the same protocol.

Protocol, on the inherited socket whose number is the only argument: frames of
two 32-bit big-endian lengths, and that many bytes of JSON and behind it of raw
data. Bytes travel as raw data, and ``{"bytes": LENGTH}`` in the JSON stands for
the next ones. Requests are ``{"method": NAME, "args": [...], "kwargs":
{...}, "most": BYTES}``; each gets exactly one ``{"result": ...}`` or ``{"error":
TEXT, "errno": NAME}``. A file that a call writes on this host is limited to
``most`` bytes, and an answer to ``_LARGEST_FRAME``. Before an answer there may
be ``{"log": TEXT}`` and ``{"progress": [done, total]}``. End of file on the
socket ends the worker.
"""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import socket
import struct
import sys
from typing import Any

HEADER = struct.Struct(">II")
LARGEST_FRAME = 24 * 1024 * 1024
"""Most bytes of one answer. libguestfs itself allows 4 MiB per message."""

_DESCRIPTORS = 1024


def pack(message: dict[str, Any]) -> bytes:
    """Return the frame of a message; its values are those of JSON, bytes, and dictionaries with any keys."""
    raw: list[bytes] = []
    body = json.dumps({key: _encode(value, raw) for key, value in message.items()}).encode("ascii")
    return b"".join([HEADER.pack(len(body), sum(map(len, raw))), body, *raw])


def unpack(body: bytes, raw: bytes) -> dict[str, Any]:
    """Return the message of a frame.

    Raises:
        ValueError: It is not a message.
    """
    source = io.BytesIO(raw)
    try:
        message = {str(key): _decode(value, source) for key, value in json.loads(body).items()}
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("the frame is not a message") from error
    if source.read(1):
        raise ValueError("the frame has surplus bytes")
    return message


def _encode(value: Any, raw: list[bytes]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, bytes):
        raw.append(value)
        return {"bytes": len(value)}
    if isinstance(value, dict):
        return {"dict": [[_encode(key, raw), _encode(item, raw)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_encode(item, raw) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _decode(value: Any, source: io.BytesIO) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        if "bytes" not in value:
            return {_decode(key, source): _decode(item, source) for key, item in value["dict"]}
        size = value["bytes"]
        if not isinstance(size, int) or not 0 <= size <= LARGEST_FRAME:
            raise ValueError("a number of bytes that cannot be")
        piece = source.read(size)
        if len(piece) != size:
            raise ValueError("the frame is too short")
        return piece
    if isinstance(value, list):
        return [_decode(item, source) for item in value]
    return value


def _errno_name(message: str) -> str:
    """Find the system error in libguestfs's message; the binding does not offer it otherwise."""
    for number, name in errno.errorcode.items():
        if message.endswith(": " + os.strerror(number)):
            return name
    return ""


class Channel:
    """Frames on the socket to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: dict[str, Any]) -> None:
        """Send one frame."""
        frame = pack(message)
        if len(frame) > LARGEST_FRAME:
            raise ValueError(f"the answer has {len(frame)} bytes, more than the limit of {LARGEST_FRAME}")
        self._socket.sendall(frame)

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, or None if the parent has ended."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        body_size, raw_size = HEADER.unpack(header)
        body = self._exactly(body_size)
        raw = self._exactly(raw_size)
        return None if body is None or raw is None else unpack(body, raw)

    def _exactly(self, size: int) -> bytes | None:
        pieces = []
        while size:
            piece = self._socket.recv(min(size, 1 << 20))
            if not piece:
                return None
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def _limit_files(most: int | None) -> None:
    """Limit the size of files that this process writes; None removes the limit.

    For a larger file libguestfs reports an error: the interpreter ignores the signal SIGXFSZ.
    """
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    wanted = hard if most is None or (hard != resource.RLIM_INFINITY and most > hard) else most
    resource.setrlimit(resource.RLIMIT_FSIZE, (wanted, hard))


def _limit_descriptors() -> None:
    """Leave few descriptors: libguestfs closes each that is possible, in each program that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft > _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, hard))


def _serve(channel: Channel) -> None:
    _limit_descriptors()
    try:
        import guestfs
    except ImportError as error:
        channel.send({"error": f"no libguestfs binding in {sys.executable}: {error}", "errno": "ENOENT"})
        return
    handle = guestfs.GuestFS(python_return_dict=True, close_on_exit=False)

    def on_message(_event: int, _handle: int, text: Any, _array: Any) -> None:  # noqa: ANN401
        channel.send({"log": text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)})

    def on_trace(_event: int, _handle: int, text: Any, _array: Any) -> None:  # noqa: ANN401
        # Unlike the others, these messages have no line end.
        message = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        channel.send({"log": f"libguestfs: trace: {message}\n"})

    def on_progress(_event: int, _handle: int, _text: Any, array: Any) -> None:  # noqa: ANN401
        channel.send({"progress": [array[2], array[3]]})

    handle.set_event_callback(
        on_message, guestfs.EVENT_APPLIANCE | guestfs.EVENT_LIBRARY | guestfs.EVENT_WARNING
    )
    handle.set_event_callback(on_trace, guestfs.EVENT_TRACE)
    handle.set_event_callback(on_progress, guestfs.EVENT_PROGRESS)
    channel.send({"result": "ready"})
    while True:
        request = channel.receive()
        if request is None:
            break
        try:
            _limit_files(request["most"])
            result = getattr(handle, request["method"])(*request["args"], **request["kwargs"])
            channel.send({"result": result})
        except BrokenPipeError:
            raise  # the parent has ended
        except Exception as error:  # noqa: BLE001 - a guest must not be able to end the worker
            text = str(error) or type(error).__name__
            channel.send({"error": text, "errno": _errno_name(text)})
    handle.close()


if __name__ == "__main__":
    try:
        _serve(Channel(int(sys.argv[1])))
    except BrokenPipeError:
        sys.exit(1)  # the parent has ended, so there is no process to report to
