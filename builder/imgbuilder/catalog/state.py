"""The record of each signed source, the newest index that was accepted (rule V9), and facts about images.

One record per address lies in the state folder, not in the cache, so that
deleting the cache does not forget it (``docs/threat-model.md`` T4). A record is
written only after an index was accepted, whole or not at all, and never replaced
by an older one. A record that cannot be read is an error and not a first use
(S37): an attacker must not gain by damaging it.

Next to the record lies the index itself, as it was signed, for times when the
source cannot be reached. It is verified again like a downloaded one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from imgbuilder.errors import ConflictingIndexError, SourceStateError
from imgbuilder.events import Reporter, debug, ignore
from imgbuilder.fetch.transfer import PRODUCTS_LIMIT
from imgbuilder.fetch.urls import Address, local_path
from imgbuilder.host.locks import lock_open_file
from imgindex.accept import Accepted, show
from imgindex.fields import DISK_FORMATS, MAX_DISK_SIZE
from imgindex.files import make_folder, open_file, read_json, write_file, write_json
from imgindex.model import UNKNOWN_SIZE, Entry, Index

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


_VERSION = 1
_LARGEST = 16 << 10
_LARGEST_FACTS = 4096
_INDEX = ".asc"
_UNSIGNED = ".unsigned"
"""Suffix of an index without signature: a different one, so that it never passes for an accepted index."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHA512 = re.compile(r"[0-9a-f]{128}")
_SIGNER = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_UNREACHABLE = "unreachable"
"""File with the servers that gave no answer, and when."""
_LOST_FOR = timedelta(minutes=5)
"""Time for which such a server is asked after the others."""
_RENEWAL = timedelta(days=1)
"""Age of ``accepted_at`` at which it is written again; listings need not write each time."""


class SourceStates(NamedTuple):
    """The records of all sources."""

    folder: Path
    writable: bool = True
    """False if nothing can be written there: existing records count, and none is added."""

    def read(self, uri: str) -> Accepted | None:
        """Return the record of a source; None when it was never accepted."""
        path = self._path(uri, ".json")
        try:
            return _parse(read_json(path, version=_VERSION, limit=_LARGEST), uri)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise SourceStateError(
                f"{Address(uri)}: the record of this source belongs to another user: {path}",
                hint="make it yours again: "
                f"sudo chown -R {os.geteuid()} {shlex.quote(str(self.folder.parent))}",
            ) from error
        except OSError as error:
            raise _unreadable(uri, path, error.strerror or str(error)) from error
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise _unreadable(uri, path, "it is damaged") from error

    def newest(self, uris: Sequence[str]) -> Accepted | None:
        """Return the newest record of an index with several addresses."""
        found = [record for uri in uris if (record := self.read(uri)) is not None]
        return max(found, key=lambda record: record.signed_at, default=None)

    def below(self, uri: str) -> tuple[str, ...]:
        """Return the addresses with a record below an address; unreadable records are skipped."""
        base, found = identity(uri), []
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(OSError, ValueError):
                known = read_json(path, version=_VERSION, limit=_LARGEST).get("uri")
                if isinstance(known, str) and known.startswith(base):
                    found.append(known)
        return tuple(found)

    def last_index(self, uris: Sequence[str]) -> bytes | None:
        """Return the signed index that was last accepted, to be verified again; None when there is none."""
        newest = self.newest(uris)
        for uri in uris:
            # Without the copy there is only no fallback, and an unreachable source is reported anyway.
            with contextlib.suppress(OSError), open_file(self._path(uri, _INDEX), os.O_NOFOLLOW) as file:
                if self.read(uri) == newest:
                    return file.read(PRODUCTS_LIMIT + 1)
        return None

    def remember(self, uri: str, accepted: Accepted, data: bytes, on_event: Reporter = ignore) -> None:
        """Record an index that was accepted, unless another process has recorded a newer one meanwhile."""
        if not _is_news(accepted, self.read(uri)) or not self.writable:
            return
        path = self._path(uri, ".json")
        try:
            make_folder(self.folder)
            with self._locked(uri, on_event):
                last = self.read(uri)
                if last is not None and _conflict(accepted, last):
                    raise ConflictingIndexError(
                        f"{Address(uri)}: two different indexes signed at "
                        f"{show(accepted.signed_at)} came at the same time",
                        hint="try again; if the error stays, tell the publisher",
                    )
                if _is_news(accepted, last):
                    # In this order: an index that is newer than its record is accepted, an older one is not.
                    write_file(self._path(uri, _INDEX), data)
                    write_json(path, _fields(uri, accepted), version=_VERSION, durable=True)
        except OSError as error:
            raise SourceStateError(
                f"{Address(uri)}: cannot remember the accepted index in {path}: {error.strerror}",
                hint="make that folder writable, or set XDG_STATE_HOME to a different one",
            ) from error

    def keep_unsigned(self, uri: str, data: bytes, on_event: Reporter = ignore) -> None:
        """Keep an unsigned index for times when its source cannot be reached.

        It is only a convenience, so that a full or read-only disk is not an error.
        """
        with contextlib.suppress(OSError):
            if self.last_unsigned(uri) != data:
                make_folder(self.folder)
                with self._locked(uri, on_event):
                    write_file(self._path(uri, _UNSIGNED), data)

    def last_unsigned(self, uri: str) -> bytes | None:
        """Return the index that ``keep_unsigned`` kept; None when it is missing or cannot be read."""
        try:
            with open_file(self._path(uri, _UNSIGNED), os.O_NOFOLLOW) as file:
                return file.read(PRODUCTS_LIMIT + 1)
        except OSError:
            return None

    def forget(self, uri: str, on_event: Reporter = ignore) -> bool:
        """Remove the record of a source, readable or not."""
        path = self._path(uri, ".json")
        try:
            if not os.path.lexists(path) and not os.path.lexists(self._path(uri, _UNSIGNED)):
                return False
            with self._locked(uri, on_event):
                for suffix in (".json", _INDEX, _UNSIGNED):
                    self._path(uri, suffix).unlink(missing_ok=True)
        except OSError as error:
            raise SourceStateError(f"cannot remove {path}: {error.strerror}") from error
        return True

    def unreachable(self, now: datetime) -> dict[str, float]:
        """Return the servers that gave no answer in the last minutes, and when; none if that is unknown."""
        try:
            known = read_json(self.folder / _UNREACHABLE, version=_VERSION, limit=_LARGEST)["servers"]
        except (OSError, ValueError, KeyError):
            return {}
        recent = range(int((now - _LOST_FOR).timestamp()), int(now.timestamp()) + 1)
        items = known.items() if isinstance(known, dict) else ()
        return {server: at for server, at in items if isinstance(at, int | float) and int(at) in recent}

    def note_server(self, server: str, now: datetime, *, reached: bool) -> None:
        """Remember that a server gave no answer, or no longer; only the order of asking depends on it."""
        lost = self.unreachable(now)
        if (reached and server not in lost) or not self.writable:
            return
        lost.pop(server, None)
        if not reached:
            lost[server] = now.timestamp()
        with contextlib.suppress(OSError):
            make_folder(self.folder)
            write_json(self.folder / _UNREACHABLE, {"servers": lost}, version=_VERSION, durable=False)

    def _path(self, uri: str, suffix: str) -> Path:
        return self.folder / (
            hashlib.sha256(identity(uri).encode("utf-8", "surrogateescape")).hexdigest() + suffix
        )

    @contextlib.contextmanager
    def _locked(self, uri: str, on_event: Reporter) -> Iterator[None]:
        """Keep other processes from writing the same record; the lock file stays."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        path = self._path(uri, ".lock")
        try:
            descriptor = os.open(path, flags, 0o600)
        except PermissionError:  # left by root in this user's folder: only root can hold it
            path.unlink()
            descriptor = os.open(path, flags, 0o600)
        try:
            purpose = f"reads {Address(uri)}"
            lock_open_file(descriptor, shared=False, purpose=purpose, on_event=on_event)
            yield
        finally:
            os.close(descriptor)


def identity(uri: str) -> str:
    """Return the identity of a source: its address without user name and password, in one form for a path."""
    path = local_path(uri)
    if path is not None:
        return f"file://{os.path.abspath(path)}"  # noqa: PTH100 - links are followed when it is read
    address = Address(uri)
    parts, whole = urlsplit(address), urlsplit(address.reveal())
    # The hidden part of the query may be the only difference between two sources.
    secret = "" if parts.query == whole.query else hashlib.sha256(whole.query.encode()).hexdigest()[:16]
    return urlunsplit((parts.scheme.lower(), parts.netloc.lower(), parts.path, parts.query, secret))


def forget_command(uri: str) -> str:
    """Return the command that forgets a source."""
    return f"pybuilder source forget '{Address(uri)}'"


def _is_news(accepted: Accepted, last: Accepted | None) -> bool:
    if last is None or accepted.signed_at > last.signed_at or _conflict(accepted, last):
        return True
    return accepted.signed_at == last.signed_at and accepted.accepted_at - last.accepted_at > _RENEWAL


def _conflict(accepted: Accepted, last: Accepted) -> bool:
    return accepted.signed_at == last.signed_at and accepted.digest != last.digest


def _fields(uri: str, accepted: Accepted) -> dict[str, str | None]:
    return {
        "uri": identity(uri),
        "signed_at": accepted.signed_at.isoformat(),
        "digest": accepted.digest,
        "signer": accepted.signer,
        "expires_at": None if accepted.expires_at is None else accepted.expires_at.isoformat(),
        "accepted_at": accepted.accepted_at.isoformat(),
    }


def _parse(fields: dict[str, Any], uri: str) -> Accepted:
    """Read a record; ValueError, TypeError or KeyError unless it is as we write it."""
    if fields["uri"] != identity(uri):
        raise ValueError("of a different source")
    if not _DIGEST.fullmatch(fields["digest"]) or not _SIGNER.fullmatch(fields["signer"]):
        raise ValueError("malformed digest or signer")
    expires = fields["expires_at"]
    return Accepted(
        _time(fields["signed_at"]),
        fields["digest"],
        fields["signer"],
        None if expires is None else _time(expires),
        _time(fields["accepted_at"]),
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.utcoffset() is None:
        raise ValueError("a time without a zone")
    return time.astimezone(UTC)


def _unreadable(uri: str, path: Path, problem: str) -> SourceStateError:
    return SourceStateError(
        f"{Address(uri)}: the record of this source cannot be read: {path}: {problem}",
        hint=f"restore the file, or forget the source and with it the protection against an older index: "
        f"{forget_command(uri)}",
    )


class KnownImages(NamedTuple):
    """Facts about images that their source does not give: SHA-512, format and virtual size.

    Simplestreams sources mostly name images by SHA-256. The cache names them by SHA-512, which is computed
    while an image is downloaded and its SHA-256 checked. All three describe those bytes for ever, and so are
    remembered by the SHA-256, which the source's signature covers; or by the SHA-512, where it has only that.
    """

    folder: Path

    def completed(self, index: Index) -> Index:
        """Return an index with all known facts about its images."""
        return replace(index, entries=tuple(self._completed(entry) for entry in index.entries))

    def remember(self, entry: Entry, on_event: Reporter = ignore) -> None:
        """Record the facts of an image that was downloaded and verified."""
        key = _key(entry)
        if key is None or entry.sha512 is None or entry.size == UNKNOWN_SIZE:
            return
        if self._facts(key) == (entry.sha512, entry.format, entry.size):
            return
        fields = {"sha512": entry.sha512, "format": entry.format, "size": entry.size}
        try:
            make_folder(self.folder)
            write_json(self._path(key), fields, version=_VERSION, durable=True)
        except OSError as error:
            debug(on_event, f"cannot remember an image in {self.folder}: {error.strerror}")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _facts(self, key: str) -> tuple[str, str, int] | None:
        # A broken record counts as a missing one.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return _parse_facts(read_json(self._path(key), version=_VERSION, limit=_LARGEST_FACTS))
        return None

    def _completed(self, entry: Entry) -> Entry:
        key = _key(entry)
        if key is None:
            return entry
        facts = self._facts(key)
        if facts is None or entry.sha512 not in (None, facts[0]):
            return entry
        sha512, image_format, size = facts
        return replace(entry, sha512=sha512, format=image_format, size=size)


def _key(entry: Entry) -> str | None:
    return entry.sha256 or entry.sha512


def _parse_facts(fields: dict[str, Any]) -> tuple[str, str, int] | None:
    sha512, image_format, size = fields["sha512"], fields["format"], fields["size"]
    good = (
        _SHA512.fullmatch(sha512)
        and image_format in DISK_FORMATS
        and type(size) is int
        and 0 < size <= MAX_DISK_SIZE
    )
    return (sha512, image_format, size) if good else None
