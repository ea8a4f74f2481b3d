"""The confined process that changes the filesystem.

``hostside.connection`` starts it in an isolated interpreter. It gets an open image and a socket, no path of
this host, and it opens nothing. The protocol is that of ``appliance.worker``. Each request begins with the
time, since a build may have a fixed one. An answer with the error number ``UNFIT`` is not the guest's: an
appliance must do the build.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from imgbuilder.appliance.hostside import confine
from imgbuilder.appliance.hostside.filerequests import Requests
from imgbuilder.appliance.hostside.libext2fs import Unfit
from imgbuilder.appliance.worker import Channel

UNFIT = "UNFIT"
_MESSAGES = {
    "chmod": "chmod: {1}: 0{0:o}",
    "chown": "chown: {2}: {0}.{1}",
    "ls": "ls0: opendir: {0}",
    "readlink": "readlink: readlink: {0}",
    "realpath": "realpath: realpath: {0}",
    "rename": "rename: rename: {0}: {1}",
    "touch": "touch: open: {0}",
    "write": "internal_write: open: {0}",
    "write_append": "internal_write_append: open: {0}",
}
"""The beginnings of libguestfs's messages; the others are made of the request and its path."""


def _answer(requests: Requests, request: dict[str, Any]) -> dict[str, Any]:
    method = str(request["method"])
    function: Callable[..., Any] | None = getattr(requests, method, None)
    if function is None or method.startswith("_"):
        return {"error": f"{method}: not known", "errno": UNFIT}
    now, *arguments = request["args"]
    try:
        requests.begin(now)
        return {"result": function(*arguments, **request["kwargs"])}
    except Unfit as error:
        return {"error": f"{method}: {error}", "errno": UNFIT}
    except OSError as error:
        beginning = _MESSAGES.get(method, method + ": {0}").format(*arguments)
        name = errno.errorcode.get(error.errno or 0, "")
        return {"error": f"{beginning}: {error.strerror}", "errno": name}


def main(image: int, number: int) -> None:
    """Serve requests until the parent closes the socket.

    Args:
        image: The descriptor of the image.
        number: The descriptor of the socket.
    """
    channel = Channel(number)
    requests = Requests(image)
    try:
        confined = confine.worker(image, number)
    except confine.ConfinementError as error:
        channel.send({"error": str(error), "errno": UNFIT})
        return
    channel.send({"result": {"seccomp": confined.seccomp, "landlock": confined.landlock}})
    while True:
        request = channel.receive()
        if request is None:
            return
        channel.send(_answer(requests, request))
