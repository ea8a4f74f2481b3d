"""Keys of encrypted disks, as ``--key`` gives them (libguestfs's syntax, ``virt-builder.md`` 0.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.disk.devicenames import same_device
from imgbuilder.errors import UsageError
from imgindex.regular import open_given

ALL = "all"
_LARGEST = 1 << 20
_SYNTAX = "write --key ID:file:FILE or --key ID:key:TEXT; ID is a device such as /dev/sda2, a UUID, or all"


@dataclass(frozen=True)
class DiskKey:
    """A key, and what it opens.

    Attributes:
        identity: A device, the UUID of a LUKS container, or ``all``.
        secret: The passphrase; it never shows when the object is printed.
    """

    identity: str
    secret: str = field(repr=False)

    def fits(self, device: str, uuid: str) -> bool:
        """Tell whether it is meant for a container.

        Args:
            device: Its device in the appliance, such as ``/dev/sda2`` or ``/dev/GROUP/VOLUME``; names of
                another kind mean the same disk and partition, or volume.
            uuid: Its UUID.
        """
        if self.identity in {ALL, device}:
            return True
        if self.identity.startswith("/dev/"):
            return same_device(self.identity, device)
        return self.identity.replace("-", "").lower() == uuid.replace("-", "").lower()


def parse_key(text: str) -> DiskKey:
    """Read a key selector; a key file is read at once, so that what is wrong with it shows early.

    Args:
        text: ``ID:key:TEXT``, or ``ID:file:FILE``, whose first line is the key. Both may have colons.

    Raises:
        UsageError: It is none, or its file cannot be read. The message never quotes a key.
    """
    identity, _, rest = text.partition(":")
    kind, colon, value = rest.partition(":")
    if identity and kind == "clevis" and not colon:
        raise UsageError("keys from a network (clevis) are not supported", hint=_SYNTAX)
    if not identity or kind not in {"key", "file"} or not value:
        raise UsageError("a --key is not understood", hint=_SYNTAX)
    secret = value if kind == "key" else _first_line(Path(value))
    if not secret or "\0" in secret:
        where = f"the file {value}" if kind == "file" else f"--key {identity}:key:"
        raise UsageError(f"{where} holds no key that can be used", hint="its first line is the key")
    return DiskKey(identity, secret)


def _first_line(path: Path) -> str:
    try:
        with open_given(path) as file:
            line = file.readline(_LARGEST)
        return line.rstrip(b"\n").decode()
    except OSError as error:
        raise UsageError(f"the key file {path} cannot be read: {error.strerror}", hint=_SYNTAX) from error
    except ValueError as error:
        raise UsageError(f"the key file {path} holds no text", hint="a key is one line of UTF-8") from error
