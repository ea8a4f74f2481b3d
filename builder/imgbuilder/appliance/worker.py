"""The only program that loads libguestfs: a worker process that serves one handle.

``imgbuilder.appliance.connection`` starts it with the distribution's Python,
which may differ from the one that runs pybuilder. So this file imports the
standard library only, and works with old interpreters (3.9 and later).

It is a separate process because Python runs no signal handler while
``launch()`` and other calls block in C (docs/threat-model.md, F16). The parent
handles signals and time limits, and can end this process and its hypervisor.

``hostside.worker`` speaks the same protocol.

Protocol, on the inherited socket whose number is the only argument: frames of
a 32-bit big-endian length and that many bytes of JSON. Bytes travel as
``{"base64": ...}``. Requests are ``{"method": NAME, "args": [...], "kwargs":
{...}, "most": BYTES}``; each gets exactly one ``{"result": ...}`` or ``{"error":
TEXT, "errno": NAME}``. A file that a call writes on this host is limited to
``most`` bytes, and an answer to ``_LARGEST_FRAME``. Before an answer there may
be ``{"log": TEXT}`` and ``{"progress": [done, total]}``. End of file on the
socket ends the worker.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import resource
import socket
import struct
import sys
from typing import Any

_HEADER = struct.Struct(">I")
_LARGEST_FRAME = 24 * 1024 * 1024
"""Most bytes of one answer, also in the parent. libguestfs itself allows 4 MiB per message."""


def encode(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Turn an argument or a result into JSON data."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def decode(value: Any) -> Any:  # noqa: ANN401
    """Undo ``encode``."""
    if isinstance(value, dict):
        if "base64" in value:
            return base64.b64decode(value["base64"])
        return {decode(key): decode(item) for key, item in value["dict"]}
    if isinstance(value, list):
        return [decode(item) for item in value]
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
        """Send one frame; guest bytes that are not UTF-8 become replacement characters."""
        body = json.dumps(message).encode("utf-8", "replace")
        if len(body) > _LARGEST_FRAME:
            raise ValueError(f"the answer has {len(body)} bytes, more than the limit of {_LARGEST_FRAME}")
        self._socket.sendall(_HEADER.pack(len(body)))
        self._socket.sendall(body)

    def receive(self) -> dict[str, Any] | None:
        """Return the next frame, or None if the parent has ended."""
        header = self._exactly(_HEADER.size)
        if header is None:
            return None
        body = self._exactly(_HEADER.unpack(header)[0])
        if body is None:
            return None
        message: dict[str, Any] = json.loads(body)
        return message

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


def _serve(channel: Channel) -> None:
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
            kwargs = {name: decode(value) for name, value in request["kwargs"].items()}
            _limit_files(request["most"])
            result = getattr(handle, request["method"])(*decode(request["args"]), **kwargs)
            channel.send({"result": encode(result)})
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
