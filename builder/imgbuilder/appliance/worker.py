"""The only program that loads libguestfs: a worker process that serves one handle.

It is started by ``imgbuilder.appliance.connection`` with the distribution's own
Python, which need not be the one that runs pybuilder; therefore this file uses
the standard library only, imports nothing of ours, and stays readable by old
interpreters (3.9 and later).

Why a process of its own: while ``launch()`` and other calls block in C, Python
runs no signal handler (``reliability.md`` F16). The parent keeps signals and
time limits, and ends this process with its hypervisor when it has to.

Protocol, on the inherited socket whose number is the only argument: frames of
a 32-bit big-endian length and that many bytes of JSON. Bytes travel as
``{"base64": ...}``. Requests are ``{"method": NAME, "args": [...], "kwargs":
{...}}``; each gets exactly one ``{"result": ...}`` or ``{"error": TEXT,
"errno": NAME}``. Between them come ``{"log": TEXT}`` and ``{"progress":
[done, total]}``. End of file on the socket ends the worker.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import socket
import struct
import sys
from typing import Any

_HEADER = struct.Struct(">I")


def _encode(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        return {"dict": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return base64.b64decode(value["base64"])
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def _errno_name(message: str) -> str:
    """Find the system error in libguestfs's words: the binding has no other way to it."""
    for number, name in errno.errorcode.items():
        if message.endswith(": " + os.strerror(number)):
            return name
    return ""


class Channel:
    """Frames on the socket to the parent."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: dict[str, Any]) -> None:
        """Send one frame; guest bytes that are no UTF-8 become replacement characters."""
        body = json.dumps(message).encode("utf-8", "replace")
        self._socket.sendall(_HEADER.pack(len(body)) + body)

    def receive(self) -> dict[str, Any] | None:
        """Return the next frame, or None when the parent has gone."""
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
        # Unlike the others these come without a line end.
        words = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
        channel.send({"log": f"libguestfs: trace: {words}\n"})

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
        kwargs = {name: _decode(value) for name, value in request["kwargs"].items()}
        try:
            result = getattr(handle, request["method"])(*_decode(request["args"]), **kwargs)
        except (RuntimeError, TypeError, ValueError, AttributeError, OSError) as error:
            channel.send({"error": str(error), "errno": _errno_name(str(error))})
        else:
            channel.send({"result": _encode(result)})
    handle.close()


if __name__ == "__main__":
    try:
        _serve(Channel(int(sys.argv[1])))
    except BrokenPipeError:
        sys.exit(1)  # the parent has gone; nobody is left to tell
