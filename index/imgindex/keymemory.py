"""What gpg found in a key file, remembered: for a short list, asking gpg takes longer than all the rest.

A record is named by the SHA-256 of the file's bytes, so that a changed file is
looked at anew, and so is any file after a month, since a newer gpg may find
more in it. Nothing in a record depends on the time: whether a key has expired
is gpgv's to say, each time. The records lie beside those of accepted indexes,
in a folder that only its user may write: whoever can write there can as well
name another key in the configuration.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from imgindex.folders import make_folder
from imgindex.keylist import ListedKey

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = 1
_LARGEST = 4_000_000
"""Bytes; a key file has 1 MB at most."""
_LIFETIME = 30 * 86400
"""Seconds."""


class KeyMemory(NamedTuple):
    """The records.

    Attributes:
        folder: Where they are; made when the first one is written.
    """

    folder: Path

    def recall(self, data: bytes) -> tuple[bytes, list[ListedKey]] | None:
        """Return keyring and keys of a key file; None when they are not known.

        Args:
            data: The key file.
        """
        # Whatever is wrong with a record, gpg can be asked again.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            descriptor = os.open(self._path(data), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                fresh = abs(time.time() - status.st_mtime) < _LIFETIME
                if fresh and status.st_uid == os.geteuid() and not status.st_mode & 0o022:
                    return _read(json.loads(file.read(_LARGEST)))
        return None

    def keep(self, data: bytes, keyring: bytes, keys: list[ListedKey]) -> None:
        """Remember keyring and keys of a key file, unless a secret key is among them.

        A folder that cannot be written is no error: the next run asks gpg again.
        """
        if any(key.secret for key in keys):
            return
        record = {
            "version": _VERSION,
            "keyring": base64.b64encode(keyring).decode(),
            "keys": [{**asdict(key), "self_digests": sorted(key.self_digests)} for key in keys],
        }
        import tempfile  # late: it is needed once per key file

        with contextlib.suppress(OSError):
            make_folder(self.folder)
            descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
            try:
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    json.dump(record, file)
                os.replace(name, self._path(data))  # noqa: PTH105 - what mkstemp gives is no Path
            except BaseException:
                os.unlink(name)  # noqa: PTH108
                raise

    def _path(self, data: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(data).hexdigest()}.json"


def _read(record: dict[str, Any]) -> tuple[bytes, list[ListedKey]]:
    if record["version"] != _VERSION:
        raise ValueError(record["version"])
    keys = [ListedKey(**{**fields, "self_digests": set(fields["self_digests"])}) for fields in record["keys"]]
    for key in keys:
        texts = (key.fingerprint, key.primary_fingerprint, key.capabilities, key.validity, *key.self_digests)
        if not all(isinstance(text, str) for text in texts) or type(key.secret) is not bool:
            raise TypeError("not a key")
        if type(key.kind) is not int or type(key.bits) is not int or type(key.expires or 0) is not int:
            raise TypeError("not a key")
    return base64.b64decode(record["keyring"], validate=True), keys
