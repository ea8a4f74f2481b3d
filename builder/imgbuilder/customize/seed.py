"""What must differ in every build: the random seed and the machine ID (``virt-builder.md`` 8.1, 8.8; Z22)."""

from __future__ import annotations

import secrets
import uuid

from imgbuilder.customize.facts import Family, GuestFacts
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.guests.ports import Guest

_SEED_FILES = (
    "/var/lib/random-seed",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/misc/random-seed",
    "/etc/random-seed",
)
_SYSTEMD_SEED = "/var/lib/systemd/random-seed"
_FAMILY_SEED = {
    Family.FEDORA: "/var/lib/random-seed",
    Family.RHEL: "/var/lib/random-seed",
    Family.DEBIAN: "/var/lib/urandom/random-seed",
    Family.SUSE: "/var/lib/misc/random-seed",
}
_SMALLEST = 512
_LARGEST = 8192

_MACHINE_ID = "/etc/machine-id"
_EMPTY_IDS = (b"", b"uninitialized\n")
"""The second is systemd's own word for "make one at first boot", machine-id(5)."""


def set_random_seed(guest: Guest, facts: GuestFacts, on_event: Reporter) -> None:
    """Give the guest fresh randomness.

    Every seed file that exists is refilled with as many bytes as it had, within limits. A guest with
    systemd gets systemd's file even when the template has none; so does an older one its family's file.

    Raises:
        GuestCallError: A file could not be written.
    """
    on_event(Step("Setting a random seed"))
    done = False
    for path in _SEED_FILES:
        if guest.is_file(path):
            size = max(_SMALLEST, min(_LARGEST, guest.stat(path).size))
            guest.write(path, secrets.token_bytes(size))
            done = True
    if not guest.exists(_SYSTEMD_SEED):
        done |= _create(guest, _SYSTEMD_SEED)
    if not done and facts.family in _FAMILY_SEED:
        done = _create(guest, _FAMILY_SEED[facts.family])
    if not done:
        warn(on_event, "the random seed could not be set: the guest has no place for one that we know")


def set_machine_id(guest: Guest, on_event: Reporter) -> None:
    """Fill an empty ``/etc/machine-id``; a missing one, a link or one with a content stays as it is.

    Raises:
        GuestCallError: The file could not be written.
    """
    if guest.is_symlink(_MACHINE_ID) or not guest.is_file(_MACHINE_ID):
        return
    if guest.stat(_MACHINE_ID).size <= len(_EMPTY_IDS[1]) and guest.read(_MACHINE_ID) in _EMPTY_IDS:
        on_event(Step(f"Setting the machine ID in {_MACHINE_ID}"))
        guest.write(_MACHINE_ID, f"{uuid.uuid4().hex}\n".encode())


def _create(guest: Guest, path: str) -> bool:
    directory = path.rpartition("/")[0]
    if not guest.is_dir(directory) or guest.is_symlink(path) or guest.exists(path):
        return False
    guest.write(path, secrets.token_bytes(_SMALLEST))
    guest.chown(0, 0, path)
    guest.chmod(0o600, path)
    return True
