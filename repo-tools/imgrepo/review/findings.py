"""What is looked for in a mounted guest, and where: a machine's identity, and somebody's secrets.

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
from typing import NamedTuple

from imgbuilder.customize import sysprep
from imgbuilder.errors import ApplianceError, GuestCallError, GuestError
from imgbuilder.guests.ports import Guest
from imgbuilder.host.text import printable
from imgrepo.contents.mounting import read_text
from imgrepo.review.checkrecord import Seen, Trace
from imgrepo.review.passwords import HOME

_LARGEST = 1 << 20
"""Bytes of a file that are looked at; its start, in most."""
_MOST_FILES = 500
"""Files of one kind that are looked at."""
_MOST_BYTES = 64 << 20
"""Bytes that are read of one guest, and counted for opening files: a hostile one can have any number."""
_OPENING = 4096
_MOST_PATHS = 10
"""Paths that are written down of a kind."""
_LONGEST = 200
_MOST_HOMES = 100
_UNSET = {b"", b"uninitialized"}
"""What machine-id(5) has in an image for several machines."""
_TASKS = (
    Trace.SSH_HOST_KEY, Trace.DHCP_LEASE, Trace.NETWORK_RULE, Trace.RANDOM_SEED, Trace.PACKAGE_CACHE,
    Trace.TEMPORARY_FILE, Trace.CLOUD_INIT,
)  # fmt: skip
"""What ``--sysprep`` looks for by the names of files alone."""
_ANY_MACHINE = {"", "localhost", "localhost.localdomain", "debian", "ubuntu", "fedora", "alpine"}
_KEY = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY-----|PuTTY-User-Key-File-")
_KEY_START = 4096
_MADE_KEY = "ssl-cert-snakeoil.key"
"""Debian's ssl-cert makes it when it is installed."""


class _Wanted(NamedTuple):
    """A file that holds somebody's secrets if a pattern is found in it.

    Attributes:
        path: Its path, or a pattern of paths; relative ones are below the folders of people.
        pattern: What is looked for; None for anything.
    """

    path: str
    pattern: re.Pattern[bytes] | None = None


_CREDENTIALS = (
    _Wanted(".netrc", re.compile(rb"\bpassword\b")),
    _Wanted(".git-credentials"),
    _Wanted(".pgpass"),
    _Wanted(".my.cnf", re.compile(rb"^[ \t]*password", re.MULTILINE)),
    _Wanted(".npmrc", re.compile(rb"_authToken|_password|_auth\s*=")),
    _Wanted(".pypirc", re.compile(rb"^[ \t]*password", re.MULTILINE)),
    _Wanted(".vault-token"),
    _Wanted(".s3cfg", re.compile(rb"^[ \t]*secret_key", re.MULTILINE)),
    _Wanted(".aws/credentials", re.compile(rb"aws_secret_access_key|aws_session_token")),
    _Wanted(".azure/accessTokens.json"),
    _Wanted(".azure/msal_token_cache.*"),
    _Wanted(".config/gcloud/credentials.db"),
    _Wanted(".config/gcloud/application_default_credentials.json"),
    _Wanted(".config/gh/hosts.yml", re.compile(rb"oauth_token")),
    _Wanted(
        ".config/rclone/rclone.conf", re.compile(rb"^[ \t]*(?:pass|token|secret_access_key)", re.MULTILINE)
    ),
    _Wanted(".docker/config.json", re.compile(rb'"(?:auth|identitytoken)"\s*:\s*"[^"]')),
    _Wanted(".kube/config", re.compile(rb"\b(?:token|password|client-key-data)\s*:")),
    _Wanted(".gnupg/private-keys-v1.d/*.key"),
    _Wanted(".gnupg/secring.gpg"),
)
_NETWORKS = (
    _Wanted(
        "/etc/wpa_supplicant/*.conf", re.compile(rb"^[ \t]*(?:psk|password|wep_key\d)\s*=", re.MULTILINE)
    ),
    _Wanted(
        "/etc/NetworkManager/system-connections/*",
        re.compile(rb"^[ \t]*(?:psk|password|wep-key\d|leap-password)\s*=", re.MULTILINE),
    ),
    _Wanted("/etc/netplan/*.yaml", re.compile(rb"^[ \t]*password\s*:", re.MULTILINE)),
    _Wanted("/etc/wireguard/*.conf", re.compile(rb"^[ \t]*(?:PrivateKey|PresharedKey)\s*=", re.MULTILINE)),
)
_HISTORY = ".*_history"
_MEMORIES = (".lesshst", ".viminfo", ".wget-hsts")


class Findings:
    """Collects what is seen in a mounted guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._paths: dict[Trace, dict[str, None]] = {}
        self._left = _MOST_BYTES

    def seen(self) -> tuple[Seen, ...]:
        """Return all that was seen, in the order of the kinds."""
        return tuple(
            Seen(trace, tuple(paths[:_MOST_PATHS]), len(paths))
            for trace, paths in ((trace, sorted(self._paths.get(trace, ()))) for trace in Trace)
            if paths
        )

    def text(self, path: str) -> str:
        """Return a text of the guest; nothing when it is not there."""
        try:
            return read_text(self._guest, path, _LARGEST) if self._guest.exists(path) else ""
        except ApplianceError:
            raise
        except GuestError:
            self._add(Trace.UNREADABLE, [path])
            return ""

    def glob(self, pattern: str, on_failure: Trace) -> list[str]:
        """Return the paths that match a pattern; more than can be listed are a finding."""
        try:
            return self._guest.glob(pattern)
        except GuestCallError:
            self._add(on_failure, [pattern])
            return []

    def look_for_identity(self) -> None:
        """Look for what identifies one machine."""
        for trace in _TASKS:
            try:
                self._add(trace, [found.path for found in sysprep.find(self._guest, (trace.value,))])
            except GuestCallError:
                self._add(Trace.UNREADABLE_IDENTITY, [trace.value])
        for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
            content = self._start(path, 64, Trace.UNREADABLE_IDENTITY)
            if content is not None and content.strip() not in _UNSET:
                self._add(Trace.MACHINE_ID, [path])
        name = self._start("/etc/hostname", 256, Trace.UNREADABLE_IDENTITY)
        told = (name or b"").decode("utf-8", "replace").strip()
        if told not in _ANY_MACHINE and told.partition(".")[0] == socket.gethostname().partition(".")[0]:
            self._add(Trace.HOSTNAME, [f"/etc/hostname ({told})"])
        self._look_at_logs()

    def _look_at_logs(self) -> None:
        try:
            logs = self._guest.files_below("/var/log") if self._guest.is_dir("/var/log") else []
        except GuestCallError:
            return  # they are only noted
        self._add(Trace.LOG, (path for path in logs[:_MOST_FILES] if self._size(path)))

    def look_at_homes(self, known: Iterable[str]) -> None:
        """Look at the folders of people, those that are known and those in ``/home``."""
        found = [path.rstrip("/") for path in self.glob("/home/*", Trace.UNREADABLE)]
        for number, home in enumerate(dict.fromkeys((*known, *found))):
            if number < _MOST_HOMES and HOME.fullmatch(home):
                self._look_at_home(home)
            else:  # it would be a pattern itself, or there is no end of them
                self._add(Trace.UNREADABLE, [home])

    def _look_at_home(self, home: str) -> None:
        hidden = {posixpath.basename(path.rstrip("/")) for path in self.glob(f"{home}/.*", Trace.UNREADABLE)}
        for name in sorted(hidden):
            path = f"{home}/{name}"
            if fnmatch.fnmatchcase(name, _HISTORY) and self._size(path):
                self._add(Trace.SHELL_HISTORY, [path])
            elif name in _MEMORIES and self._size(path):
                self._add(Trace.TOOL_MEMORY, [path])
        for wanted in _CREDENTIALS:
            if wanted.path.split("/")[0] in hidden:
                self._look_for(wanted._replace(path=f"{home}/{wanted.path}"), Trace.CREDENTIALS)
        if ".ssh" in hidden:
            self._look_at_ssh(f"{home}/.ssh")

    def _look_at_ssh(self, folder: str) -> None:
        for path in self._some(f"{folder}/*"):
            if posixpath.basename(path) in {"authorized_keys", "authorized_keys2"}:
                content = self._start(path, _LARGEST, Trace.UNREADABLE) or b""
                if any(line.strip() and not line.lstrip().startswith(b"#") for line in content.split(b"\n")):
                    self._add(Trace.AUTHORIZED_KEY, [path])
            else:
                self._look_for_key(path)

    def look_at_system(self) -> None:
        """Look at what is nobody's own."""
        for pattern in ("/etc/ssl/private/*", "/etc/pki/tls/private/*", "/root/*.pem", "/root/*.key"):
            for path in self._some(pattern):
                self._look_for_key(path)
        for wanted in _NETWORKS:
            self._look_for(wanted, Trace.NETWORK_PASSWORD)

    def _look_for_key(self, path: str) -> None:
        start = self._start(path, _KEY_START, Trace.UNREADABLE)
        if start is not None and _KEY.search(start):
            made = posixpath.basename(path) == _MADE_KEY
            self._add(Trace.MADE_KEY if made else Trace.PRIVATE_KEY, [path])

    def _look_for(self, wanted: _Wanted, trace: Trace) -> None:
        for path in self._some(wanted.path) if "*" in wanted.path else [wanted.path]:
            content = self._start(path, _LARGEST, Trace.UNREADABLE)
            if content and (wanted.pattern is None or wanted.pattern.search(content)):
                self._add(trace, [path])
            elif content and self._size(path) > len(content):
                self._add(Trace.UNREADABLE, [path])  # what is behind the start, nobody knows

    def _some(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern; that there are more than are looked at is a finding."""
        found = self.glob(pattern, Trace.UNREADABLE)
        if len(found) > _MOST_FILES:
            self._add(Trace.UNREADABLE, [pattern])
        return found[:_MOST_FILES]

    def _size(self, path: str) -> int:
        """Return the size of a file; 0 of what is none."""
        try:
            facts = self._guest.stat(path)
        except GuestCallError:  # a link that leads nowhere
            return 0
        return facts.size if stat.S_ISREG(facts.mode) else 0

    def _start(self, path: str, size: int, on_failure: Trace) -> bytes | None:
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

    def _add(self, trace: Trace, paths: Iterable[str]) -> None:
        self._paths.setdefault(trace, {}).update(dict.fromkeys(map(_shown, paths)))


def _shown(path: str) -> str:
    text = printable(path)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
