"""Looks for leftovers in an image, read-only in an appliance: a machine's identity, and secrets.

The guest may be hostile: what is read and listed is limited, and what cannot be
read is a finding as well (``docs/threat-model.md`` T14).
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
import socket
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.customize import sysprep
from imgbuilder.errors import ApplianceError, GuestCallError, GuestError
from imgbuilder.events import Reporter, Step, debug
from imgbuilder.guests.ports import Appliance, Guest
from imgbuilder.guests.roots import NO_FILES, has_os_release, mounted_read_only
from imgbuilder.host.text import printable
from imgrepo.contents.mounting import mount_by_inspection, mount_root, read_text
from imgrepo.images.facts import give_back
from imgrepo.images.scan import SourceImage
from imgrepo.images.waste import size_of
from imgrepo.library.records import Inside, Leftover, Seen
from imgrepo.review.passwords import HOME, homes, judge_passwords, read_passwords
from imgrepo.services import OpenAppliance

_PLACES = ("/etc", "/home", "/root", "/srv", "/usr", "/var")
_LARGEST = 1 << 20
"""Bytes of a file that are looked at; its start, in most."""
_MOST_FILES = 500
"""Files of one kind that are looked at."""
_MOST_BYTES = 64 << 20
"""Bytes that are read of one guest, and counted for opening files: a hostile one can have any number."""
_OPENING = 4096
_MOST_PATHS = 10
"""Paths that are recorded of a kind."""
_LONGEST = 200
_MOST_HOMES = 100
_UNSET = {b"", b"uninitialized"}
"""Values of machine-id(5) in an image for several machines."""
_TASKS = (
    Leftover.SSH_HOST_KEY, Leftover.DHCP_LEASE, Leftover.NETWORK_RULE, Leftover.RANDOM_SEED,
    Leftover.PACKAGE_CACHE, Leftover.TEMPORARY_FILE, Leftover.CLOUD_INIT,
)  # fmt: skip
"""Leftovers that ``--sysprep`` finds by the names of files alone."""
_WASTE = (Leftover.PACKAGE_CACHE, Leftover.TEMPORARY_FILE)
"""Leftovers of which it matters how large they are."""
_ANY_MACHINE = {"", "localhost", "localhost.localdomain", "debian", "ubuntu", "fedora", "alpine"}
_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----|PuTTY-User-Key-File-")
_KEY_START = 4096
_MADE_KEY = "ssl-cert-snakeoil.key"
"""Debian's package ssl-cert generates it."""


class _SecretFile(NamedTuple):
    """A file that holds secrets if a pattern, or with None anything, is found in it.

    Its path may be a pattern; a relative one is below home folders.
    """

    path: str
    pattern: re.Pattern[bytes] | None = None


_CREDENTIALS = (
    _SecretFile(".netrc", re.compile(rb"\bpassword\b")),
    _SecretFile(".git-credentials"),
    _SecretFile(".pgpass"),
    _SecretFile(".my.cnf", re.compile(rb"^[ \t]*password", re.MULTILINE)),
    _SecretFile(".npmrc", re.compile(rb"_authToken|_password|_auth\s*=")),
    _SecretFile(".pypirc", re.compile(rb"^[ \t]*password", re.MULTILINE)),
    _SecretFile(".vault-token"),
    _SecretFile(".s3cfg", re.compile(rb"^[ \t]*secret_key", re.MULTILINE)),
    _SecretFile(".aws/credentials", re.compile(rb"aws_secret_access_key|aws_session_token")),
    _SecretFile(".azure/accessTokens.json"),
    _SecretFile(".azure/msal_token_cache.*"),
    _SecretFile(".config/gcloud/credentials.db"),
    _SecretFile(".config/gcloud/application_default_credentials.json"),
    _SecretFile(".config/gh/hosts.yml", re.compile(rb"oauth_token")),
    _SecretFile(
        ".config/rclone/rclone.conf", re.compile(rb"^[ \t]*(?:pass|token|secret_access_key)", re.MULTILINE)
    ),
    _SecretFile(".docker/config.json", re.compile(rb'"(?:auth|identitytoken)"\s*:\s*"[^"]')),
    _SecretFile(".kube/config", re.compile(rb"\b(?:token|password|client-key-data)\s*:")),
    _SecretFile(".gnupg/private-keys-v1.d/*.key"),
    _SecretFile(".gnupg/secring.gpg"),
)
_NETWORKS = (
    _SecretFile(
        "/etc/wpa_supplicant/*.conf", re.compile(rb"^[ \t]*(?:psk|password|wep_key\d)\s*=", re.MULTILINE)
    ),
    _SecretFile(
        "/etc/NetworkManager/system-connections/*",
        re.compile(rb"^[ \t]*(?:psk|password|wep-key\d|leap-password)\s*=", re.MULTILINE),
    ),
    _SecretFile("/etc/netplan/*.yaml", re.compile(rb"^[ \t]*password\s*:", re.MULTILINE)),
    _SecretFile("/etc/wireguard/*.conf", re.compile(rb"^[ \t]*(?:Private|Preshared)Key\s*=", re.MULTILINE)),
)
_HISTORY = ".*_history"
_MEMORIES = (".lesshst", ".viminfo", ".wget-hsts")


class LeftoverSearch:
    """Looks for leftovers in a mounted guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._paths: dict[Leftover, dict[str, None]] = {}
        self._sizes: dict[Leftover, int] = {}
        self._left = _MOST_BYTES

    def seen(self) -> tuple[Seen, ...]:
        """Return all leftovers, in the order of their kinds."""
        return tuple(
            Seen(trace, tuple(paths[:_MOST_PATHS]), len(paths), self._sizes.get(trace, 0))
            for trace, paths in ((trace, sorted(self._paths.get(trace, ()))) for trace in Leftover)
            if paths
        )

    def text(self, path: str) -> str:
        """Return a text file of the guest; empty when it is missing."""
        try:
            return read_text(self._guest, path, _LARGEST) if self._guest.exists(path) else ""
        except ApplianceError:
            raise
        except GuestError:
            self._add(Leftover.UNREADABLE, [path])
            return ""

    def glob(self, pattern: str, on_failure: Leftover) -> list[str]:
        """Return the paths that match a pattern; too many to list are a finding."""
        try:
            return self._guest.glob(pattern)
        except GuestCallError:
            self._add(on_failure, [pattern])
            return []

    def look_for_identity(self) -> None:
        """Look for what identifies one machine."""
        for trace in _TASKS:
            try:
                paths = [found.path for found in sysprep.find(self._guest, (trace.value,))]
                self._add(trace, paths)
                if trace in _WASTE:
                    self._sizes[trace] = size_of(self._guest, paths)
            except GuestCallError:
                self._add(Leftover.UNREADABLE_IDENTITY, [trace.value])
        for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
            content = self._start(path, 64, Leftover.UNREADABLE_IDENTITY)
            if content is not None and content.strip() not in _UNSET:
                self._add(Leftover.MACHINE_ID, [path])
        name = self._start("/etc/hostname", 256, Leftover.UNREADABLE_IDENTITY)
        hostname = (name or b"").decode("utf-8", "replace").strip()
        if (
            hostname not in _ANY_MACHINE
            and hostname.partition(".")[0] == socket.gethostname().partition(".")[0]
        ):
            self._add(Leftover.HOSTNAME, [f"/etc/hostname ({hostname})"])
        self._look_at_logs()

    def _look_at_logs(self) -> None:
        try:
            logs = self._guest.files_below("/var/log") if self._guest.is_dir("/var/log") else []
        except GuestCallError:
            return  # they are only noted
        self._add(Leftover.LOG, (path for path in logs[:_MOST_FILES] if self._size(path)))

    def look_at_homes(self, known: Iterable[str]) -> None:
        """Look at home folders: the known ones and those in ``/home``."""
        found = [path.rstrip("/") for path in self.glob("/home/*", Leftover.UNREADABLE)]
        for number, home in enumerate(dict.fromkeys((*known, *found))):
            if number < _MOST_HOMES and HOME.fullmatch(home):
                self._look_at_home(home)
            else:  # it would be a pattern itself, or there is no end of them
                self._add(Leftover.UNREADABLE, [home])

    def _look_at_home(self, home: str) -> None:
        hidden = {
            posixpath.basename(path.rstrip("/")) for path in self.glob(f"{home}/.*", Leftover.UNREADABLE)
        }
        for name in sorted(hidden):
            path = f"{home}/{name}"
            if fnmatch.fnmatchcase(name, _HISTORY) and self._size(path):
                self._add(Leftover.SHELL_HISTORY, [path])
            elif name in _MEMORIES and self._size(path):
                self._add(Leftover.TOOL_MEMORY, [path])
        for file in _CREDENTIALS:
            if file.path.split("/")[0] in hidden:
                self._look_for(file._replace(path=f"{home}/{file.path}"), Leftover.CREDENTIALS)
        if ".ssh" in hidden:
            self._look_at_ssh(f"{home}/.ssh")

    def _look_at_ssh(self, folder: str) -> None:
        for path in self._some(f"{folder}/*"):
            if posixpath.basename(path) in {"authorized_keys", "authorized_keys2"}:
                content = self._start(path, _LARGEST, Leftover.UNREADABLE) or b""
                if any(line.strip() and not line.lstrip().startswith(b"#") for line in content.split(b"\n")):
                    self._add(Leftover.AUTHORIZED_KEY, [path])
            else:
                self._look_for_key(path)

    def look_at_system(self) -> None:
        """Look at files of the system."""
        for pattern in ("/etc/ssl/private/*", "/etc/pki/tls/private/*", "/root/*.pem", "/root/*.key"):
            for path in self._some(pattern):
                self._look_for_key(path)
        for file in _NETWORKS:
            self._look_for(file, Leftover.NETWORK_PASSWORD)

    def _look_for_key(self, path: str) -> None:
        start = self._start(path, _KEY_START, Leftover.UNREADABLE)
        if start is not None and _KEY.search(start):
            made = posixpath.basename(path) == _MADE_KEY
            self._add(Leftover.MADE_KEY if made else Leftover.PRIVATE_KEY, [path])

    def _look_for(self, file: _SecretFile, trace: Leftover) -> None:
        for path in self._some(file.path) if "*" in file.path else [file.path]:
            content = self._start(path, _LARGEST, Leftover.UNREADABLE)
            if content and (file.pattern is None or file.pattern.search(content)):
                self._add(trace, [path])
            elif content and self._size(path) > len(content):
                self._add(Leftover.UNREADABLE, [path])  # the rest is not read

    def _some(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern; more than are looked at are a finding."""
        found = self.glob(pattern, Leftover.UNREADABLE)
        if len(found) > _MOST_FILES:
            self._add(Leftover.UNREADABLE, [pattern])
        return found[:_MOST_FILES]

    def _size(self, path: str) -> int:
        """Return the size of a file; 0 if it is not a regular file."""
        try:
            facts = self._guest.stat(path)
        except GuestCallError:  # a link that leads nowhere
            return 0
        return facts.size if stat.S_ISREG(facts.mode) else 0

    def _start(self, path: str, size: int, on_failure: Leftover) -> bytes | None:
        """Return the first bytes of a file; None when there is no such file, or it cannot be read."""
        if self._left <= 0:
            self._add(on_failure, [path])
            return None
        self._left -= _OPENING
        if not self._size(path):
            return None
        try:
            content = self._guest.start_of(path, size)
        except GuestCallError:
            self._add(on_failure, [path])
            return None
        self._left -= len(content)
        return content

    def _add(self, trace: Leftover, paths: Iterable[str]) -> None:
        self._paths.setdefault(trace, {}).update(dict.fromkeys(map(_shown, paths)))


def _shown(path: str) -> str:
    text = printable(path)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def look_inside(
    image: SourceImage,
    hints: str,
    open_appliance: OpenAppliance,
    options: ApplianceOptions,
    on_event: Reporter,
    *,
    copy: Path | None = None,
) -> Inside:
    """Look for a machine's identity and for secrets; ``hints`` is left empty in the result.

    The header of the image was checked before. With ``copy``, that is looked into instead, and trimmed in the
    same launch, as ``publish`` does.
    """
    on_event(Step(f"Looking into {image.name}"))
    attachment = Attachment((copy or image.path).absolute(), image.format.value, readonly=copy is None)
    with open_appliance([attachment], options, on_event) as appliance:
        try:
            found = _look(appliance, image, hints, on_event)
        except ApplianceError:
            raise
        except GuestError as error:
            found = Inside(system=False, reason=printable(error.message))
        if copy is not None:
            _trim(appliance, image, on_event)
    return found


def _look(appliance: Appliance, image: SourceImage, hints: str, on_event: Reporter) -> Inside:
    if not mount_root(appliance, image, _PLACES, on_event):
        mount_by_inspection(appliance, image, _PLACES, on_event)
    if not (has_os_release(appliance) or appliance.is_file("/etc/passwd")):
        raise GuestError(f"{image.name} holds an unknown kind of system")
    found = LeftoverSearch(appliance)
    found.look_for_identity()
    passwd, shadow = (found.text(path) for path in ("/etc/passwd", "/etc/shadow"))
    found.look_at_homes(homes(passwd))
    found.look_at_system()
    accounts = judge_passwords(read_passwords(passwd, shadow), hints)
    return Inside(system=True, seen=found.seen(), accounts=accounts)


def _trim(appliance: Appliance, image: SourceImage, on_event: Reporter) -> None:
    """Trim all filesystems; where that fails, the copy is only larger."""
    appliance.unmount_all()
    for device, kind in sorted(appliance.filesystems().items()):
        if kind in NO_FILES:
            continue
        try:
            with mounted_read_only(appliance, device):
                give_back(appliance, image, device, on_event)
        except GuestCallError as error:
            debug(on_event, f"{image.name}: {device} is not trimmed: {error.message}")
