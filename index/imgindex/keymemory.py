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
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from imgindex.files import make_folder
from imgindex.jsonfile import read_json, write_json
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
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            path = self._path(data)
            if abs(time.time() - path.lstat().st_mtime) < _LIFETIME:
                return _parse(read_json(path, version=_VERSION, limit=_LARGEST, private=True))
        return None

    def keep(self, data: bytes, keyring: bytes, keys: list[ListedKey]) -> None:
        """Remember keyring and keys of a key file, unless a secret key is among them.

        A folder that cannot be written is no error: the next run asks gpg again.
        """
        if any(key.secret for key in keys):
            return
        record = {
            "keyring": base64.b64encode(keyring).decode(),
            "keys": [{**asdict(key), "self_digests": sorted(key.self_digests)} for key in keys],
        }
        with contextlib.suppress(OSError):
            make_folder(self.folder)
            write_json(self._path(data), record, version=_VERSION, durable=False)

    def _path(self, data: bytes) -> Path:
        return self.folder / f"{hashlib.sha256(data).hexdigest()}.json"


def _parse(record: dict[str, Any]) -> tuple[bytes, list[ListedKey]]:
    keys = [ListedKey(**{**fields, "self_digests": set(fields["self_digests"])}) for fields in record["keys"]]
    for key in keys:
        texts = (key.fingerprint, key.primary_fingerprint, key.capabilities, key.validity, *key.self_digests)
        if not all(isinstance(text, str) for text in texts) or type(key.secret) is not bool:
            raise TypeError("not a key")
        if type(key.kind) is not int or type(key.bits) is not int or type(key.expires or 0) is not int:
            raise TypeError("not a key")
    return base64.b64decode(record["keyring"], validate=True), keys
