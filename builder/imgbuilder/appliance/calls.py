"""The base of the parts of the appliance's handle: the worker, a scratch folder, and guest paths.

libguestfs resolves most paths inside the guest, but not all: ``cp_a``, ``mv``,
``ln_s``, ``rm_rf`` and ``tar_in`` build a path of the appliance, where an
absolute link in the guest leads out of the guest and data is lost without an
error. So their arguments are resolved inside the guest first, by ``realpath``,
and a destination must not be a link.
"""

from __future__ import annotations

import posixpath
import uuid
from pathlib import Path
from typing import Any

from imgbuilder.appliance.connection import Connection

LISTING = 4 * 1024 * 1024
"""Most bytes of a file on this host that a call may write: libguestfs fetches lists of names in files."""
LONG = 3600.0
"""Seconds without progress for calls that move or check whole filesystems."""


def is_utf8(path: Path) -> bool:
    """Return whether a path of this host is UTF-8; libguestfs's binding accepts no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class Calls:
    """Requests to a launched appliance.

    Args:
        connection: The worker that holds the launched handle.
        scratch: Private local folder for temporary files.
    """

    def __init__(self, connection: Connection, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch

    def _call(self, method: str, *args: Any, most: int = LISTING, **kwargs: Any) -> Any:  # noqa: ANN401 - as the binding returns it
        return self._connection.call(method, *args, most=most, **kwargs)

    def _local(self, path: Path) -> str:
        """Return a path of a local file that the binding accepts: the path itself, or a link to it."""
        if is_utf8(path):
            return str(path)
        link = self._scratch / f"link-{uuid.uuid4().hex}"  # removed with the folder
        link.symlink_to(path.absolute())
        return str(link)

    # Paths

    def _resolve(self, path: str) -> str:
        """Resolve an existing path completely."""
        return str(self._call("realpath", path))

    def _resolve_parent(self, path: str) -> str:
        """Resolve all but the last part, so that the path can name a link."""
        parent, name = posixpath.split(posixpath.normpath(path))
        if not name:
            return "/"
        return posixpath.join(self._resolve(parent), name)

    def is_dir(self, path: str) -> bool:
        return bool(self._call("is_dir", path, followsymlinks=True))

    def supports(self, *features: str) -> bool:
        return bool(self._call("feature_available", list(features)))
