"""Records and logs of the hosts of a fleet, in a folder next to the fleet's file.

A record has the key of its host: a digest of all that the image is made of. A host whose key is the same was
built from the same and is not built again. Local files and the values of secrets are in the key by an HMAC
whose secret stays in the folder, so that a record cannot be used to try passwords.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgbuilder.customize.argforms import Kind
from imgbuilder.customize.ops.buildoptions import Secret
from imgbuilder.customize.secrecy import parse_source
from imgbuilder.errors import WorkspaceError
from imgbuilder.fleet.hosts import Fleet, Host
from imgbuilder.host import locks
from imgbuilder.outputs.store import Remote
from imgbuilder.recipe.variables import split_selector
from imgindex import __version__
from imgindex.files import make_folder, open_file, read_json, write_file, write_json

ORDERS = "pybuilder-"
"""Names of files for the nodes of a cluster begin with a dot and this."""
_VERSION = 1
_LARGEST = 64 * 1024
_CHUNK = 1 << 20


class Standing(enum.Enum):
    """The state of a host's image."""

    NEW = "not built"
    BUILT = "built"
    FAILED = "failed"
    MISSING = "missing"
    """It was built, and its file is gone."""
    CHANGED = "changed"
    """The fleet, the recipe, a file or a secret is not as it was when the image was built."""
    OUTDATED = "template is newer"

    @property
    def due(self) -> bool:
        """True if the next build makes the image."""
        return self in (Standing.NEW, Standing.FAILED, Standing.MISSING)

    @property
    def stale(self) -> bool:
        """True if the image would be different if it were built now."""
        return self in (Standing.CHANGED, Standing.OUTDATED)


@dataclass(frozen=True)
class Record:
    """The end of the last build of a host.

    Attributes:
        host: Its name.
        key: The digest of all that it was made of.
        template: The digest of its template.
        output: The image.
        built: Whether there is an image.
        seconds: The time that the build took.
        finished: When it ended, in UTC.
        message: The error, if the build failed.
        hint: The hint of the error.
        node: The node of a cluster that built it, or an empty text.
    """

    host: str
    key: str
    template: str
    output: str
    built: bool = False
    seconds: float = 0.0
    finished: str = ""
    message: str = ""
    hint: str = ""
    node: str = ""


@dataclass(frozen=True)
class FleetState:
    """The folder of a fleet's records."""

    folder: Path
    _digests: dict[Path, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, fleet: Fleet) -> FleetState:
        """Return the state of a fleet; its folder may be missing."""
        return cls(fleet.path.with_suffix(".state"))

    @contextlib.contextmanager
    def building(self, *, shared: bool) -> Iterator[None]:
        """Make the folder, and keep other builds of the fleet away; builds of parts share it."""
        try:
            make_folder(self.folder)
            self._salt()
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._error(error) from error
        try:
            held = locks.try_shared(descriptor) if shared else locks.try_exclusive(descriptor)
            if not held:
                raise WorkspaceError(
                    f"this fleet is being built by another process ({self.folder})",
                    hint="wait for it; parts can be built at the same time: --only 1/2",
                )
            if not shared:
                for left in self.folder.glob(f".{ORDERS}*"):  # by a coordinator that was killed
                    left.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def log(self, host: str) -> Path:
        """Return the log of a host's last build."""
        return self.folder / f"{host}.log"

    def record(self, host: str) -> Record | None:
        """Return the record of a host; None if it is missing or damaged, so that the host is built again."""
        try:
            fields = read_json(self.folder / f"{host}.json", version=_VERSION, limit=_LARGEST)
            return Record(**{name: fields[name] for name in Record.__dataclass_fields__ if name in fields})
        except (OSError, ValueError, TypeError):
            return None

    def write(self, record: Record) -> None:
        """Write the record of a host, in place of an earlier one."""
        fields = {**vars(record), "version": _VERSION}
        try:
            # A record lost by a power failure costs one build; waiting for the disk would delay all others.
            write_json(self.folder / f"{record.host}.json", fields, version=None, durable=False)
        except OSError as error:
            raise self._error(error) from error

    def standing(
        self, host: Host, record: Record | None, key: str, template: str, *, there: bool
    ) -> Standing:
        """Return the state of a host's image, given the key and the template of a build now.

        Args:
            host: The host.
            record: Its last build.
            key: The digest of all that a build would be made of now.
            template: The digest of its template now.
            there: Whether there is something at the place of the image.
        """
        if record is None:
            return Standing.NEW
        if not record.built:
            return Standing.FAILED
        if not there or record.output != host.goes_to:
            return Standing.MISSING
        if record.key == key:
            return Standing.BUILT
        return Standing.OUTDATED if record.template != template else Standing.CHANGED

    def key(self, host: Host, template: str) -> str:
        """Return the digest of all that an image is made of: equal keys mean equal images."""
        parts: list[object] = [__version__, template, host.text, self.inputs(host)]
        if host.remote is not None and host.remote.domain is not None:
            parts.append(vars(host.remote.domain))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def inputs(self, host: Host) -> dict[str, str]:
        """Return digests of what a host's recipe reads here: local files by path, secrets by source."""
        found = {str(path): self.digest(path) for path in _local_files(host)}
        for written in host.recipe.operations:
            if written.spec.cls is Secret:
                source = str(written.values[1])
                found[source] = self.secret_digest(source)
        return found

    def secret_digest(self, source: str) -> str:
        """Return a digest of a secret's value; without the folder's salt, it says nothing about the value."""
        value = parse_source(source).encode(errors="surrogateescape")
        return hmac.digest(self._salt(), value, "sha256").hex()

    def _salt(self) -> bytes:
        path = self.folder / ".salt"
        try:
            if not path.exists():
                if not self.folder.is_dir():
                    return b""  # nothing was built so far, and nothing has to be compared
                with contextlib.suppress(FileExistsError):
                    write_file(path, secrets.token_bytes(32))
            with open_file(path, os.O_NOFOLLOW) as file:
                return file.read(64)
        except OSError as error:
            raise self._error(error) from error

    def digest(self, path: Path) -> str:
        """Return the digest of a local file or a tree, read once."""
        if path not in self._digests:
            digest = hmac.new(self._salt(), digestmod="sha256")
            for name in _below(path):
                digest.update(f"{name.relative_to(path)}\0{name.lstat().st_mode}\0".encode(errors="replace"))
                if name.is_file():
                    with open_file(name) as file:
                        while chunk := file.read(_CHUNK):
                            digest.update(chunk)
            self._digests[path] = digest.hexdigest()
        return self._digests[path]

    def owns(self, host: str, remote: Remote) -> bool:
        """Return whether what is at the place of a host's image was put there for this fleet."""
        try:
            claimed = read_json(self._claim(host), version=_VERSION, limit=_LARGEST)
        except (OSError, ValueError):
            return False
        return bool(claimed.get("place") == _place(remote))

    def claim(self, host: str, remote: Remote) -> None:
        """Remember that what is at the place of a host's image is this fleet's, before it is put there."""
        try:
            write_json(self._claim(host), {"place": _place(remote)}, version=_VERSION, durable=True)
        except OSError as error:
            raise self._error(error) from error

    def _claim(self, host: str) -> Path:
        return self.folder / f"{host}.place"

    def _error(self, error: OSError) -> WorkspaceError:
        return WorkspaceError(
            f"the records of the fleet cannot be used: {error.filename or self.folder}: {error.strerror}",
            hint="they are next to the fleet's file; check the permissions and the free space there",
        )


def _place(remote: Remote) -> list[str]:
    return [remote.kind, remote.server, remote.holder, remote.name]


def _below(path: Path) -> Sequence[Path]:
    return [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]


def _local_files(host: Host) -> Iterator[Path]:
    """Yield the local files that a host's recipe names; secrets count by their values."""
    for written in host.recipe.operations:
        if written.spec.cls is Secret:
            continue
        for part, raw in zip(written.spec.form.parts, written.values, strict=True):
            if part.kind is Kind.PATH and isinstance(raw, str) and raw:
                yield Path(raw)
            elif part.kind is Kind.SELECTOR and isinstance(raw, str) and split_selector(raw)[0]:
                yield Path(split_selector(raw)[1])
    settings: dict[str, Any] = dict(host.recipe.settings)
    for row in settings.get("attach", ()):
        yield Path(row["file"])
    for key in settings.get("keys", ()):
        yield Path(split_selector(key)[1])
