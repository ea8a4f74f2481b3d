"""Checks of everything that a build needs on this machine, with the exact remedy for each problem."""

from __future__ import annotations

import enum
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.appliance.accelerator import forget, hypervisor_name, kvm_verdict, readable_kernels
from imgbuilder.appliance.binding import find_binding
from imgbuilder.appliance.hostside.connection import try_host
from imgbuilder.appliance.hostside.programs import missing_on_host, require_host
from imgbuilder.appliance.instant.store import VARIABLE, InstantMode, StateStore, instant_mode, state_folder
from imgbuilder.errors import ApplianceError, PybuilderError, ToolError, UnfitError
from imgbuilder.events import Reporter, Step
from imgbuilder.host import paths, process
from imgbuilder.host.packages import install_command
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.services import ApplianceOpener
from imgbuilder.sizes import human_size

_LOW_SPACE = 4 * 1024**3
"""Bytes: an unpacked template and an image of it want a few GiB."""
_USUAL_HOST = "deb.debian.org"
_VERSION = re.compile(r"\d+(?:\.\d+)+")
_PROGRAMS = (
    # name, argument that shows the version, what it is for
    ("qemu-img", "--version", "disk images"),
    ("qemu-io", "--version", "growing qcow2 images"),
    ("sfdisk", "--version", "partition tables"),
    ("gpg", "--version", "importing keys"),
    ("gpgv", "--version", "checking signatures"),
    ("xz", "--version", "unpacking templates"),
    ("zstd", "--version", "unpacking templates"),
    ("setpriv", "--version", "ending the appliance together with pybuilder"),
)
_USEFUL = (
    ("fusermount3", "--version", "linked images without an appliance"),
    ("perl", "-v", "--edit"),
)
_FOR_TEMPLATES = (
    ("mmdebstrap", "--version", "pybuilder-repo make-template"),
    ("newuidmap", "--version", "pybuilder-repo make-template without root"),
)
_ARCHIVE_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class Health(enum.Enum):
    """The result of a check."""

    GOOD = "ok"
    WORSE = "warning"
    """A build works, but slower or not in every case."""
    BAD = "PROBLEM"
    """A build does not work."""


@dataclass(frozen=True)
class Finding:
    """The finding of one check."""

    health: Health
    subject: str
    fact: str
    remedy: str = ""
    needs: str = ""
    """Name in ``packages.txt`` of a missing program or library; ``installation`` has the remedy."""

    def __str__(self) -> str:
        """Write the finding in one line."""
        line = f"{self.health.value:>7}  {self.subject}: {self.fact}"
        return f"{line}; {self.remedy}" if self.remedy else line


def examine(
    source_uris: Sequence[str], cache: Path | None, open_appliance: ApplianceOpener, on_event: Reporter
) -> Iterator[Finding]:
    """Check everything that a build needs; the appliance itself comes last, as it takes longest."""
    binding = _guarded("libguestfs binding", _binding, needs="guestfs")
    yield binding
    kernel = _kernel()
    yield kernel
    hypervisor = _program(hypervisor_name(), "--version", "running the appliance")
    yield hypervisor
    if hypervisor.health is Health.GOOD:
        forget(paths.state_dir())  # a user who runs the doctor wants KVM to be tried again
        yield _kvm(on_event)
    for name, argument, purpose in _PROGRAMS:
        yield _program(name, argument, purpose)
    for name, argument, purpose in _USEFUL:
        yield _program(name, argument, purpose, missing=Health.WORSE)
    yield _hostside()
    if find_spec("imgrepo") and find_spec("pydantic"):  # a client has neither the one nor the other
        yield from _publisher()
    yield _configuration()
    yield from _folders(cache)
    yield _guarded("saved appliances", lambda: _saved(cache))
    if Health.BAD in {binding.health, kernel.health, hypervisor.health}:
        yield Finding(Health.BAD, "appliance", "skipped", "fix the problems above first")
        return
    on_event(Step("Starting the appliance, which takes up to a minute under emulation"))
    yield from _appliance(source_uris, open_appliance, on_event)


def installation(findings: Sequence[Finding]) -> str:
    """Return the command that installs everything that was found missing; nothing when nothing is."""
    needs = [finding.needs for finding in findings if finding.needs]
    return install_command(*needs) if needs else ""


def _guarded(subject: str, check: Callable[[], Finding], needs: str = "") -> Finding:
    try:
        return check()
    except PybuilderError as error:
        return Finding(Health.BAD, subject, error.message, "" if needs else error.hint or "", needs)


def _binding() -> Finding:
    found = find_binding()
    return Finding(
        Health.GOOD,
        "libguestfs binding",
        f"libguestfs {found.version}, loaded by {found.interpreter} from {found.module}",
    )


def _kernel() -> Finding:
    subject = "kernel for the appliance"
    fixed = os.environ.get("LIBGUESTFS_PATH")
    if fixed:
        return Finding(Health.GOOD, subject, f"a fixed appliance in {fixed}")
    readable = readable_kernels()
    if readable:
        return Finding(Health.GOOD, subject, f"{readable[0]} is readable")
    hidden = sorted(Path("/boot").glob("vmlinuz-*"))
    if hidden:
        return Finding(
            Health.BAD,
            subject,
            f"{hidden[-1]} is not readable by this user",
            f"run: sudo chmod 0644 {hidden[-1]}",
        )
    return Finding(
        Health.BAD,
        subject,
        "a kernel is missing in /boot",
        needs="kernel",
    )


def _kvm(on_event: Reporter) -> Finding:
    verdict = kvm_verdict(paths.state_dir(), on_event)
    if verdict.usable:
        return Finding(Health.GOOD, "KVM", verdict.reason)
    fact = verdict.reason + (f" ({verdict.detail})" if verdict.detail else "")
    if verdict.forbidden:
        remedy = "run: sudo adduser $USER kvm, and log in again"
    else:
        remedy = "builds work under emulation, but slower; in a virtual machine, its host must nest them"
    return Finding(Health.WORSE, "KVM", fact, remedy)


def _program(name: str, argument: str, purpose: str, *, missing: Health = Health.BAD) -> Finding:
    if process.find_program(name) is None:
        return Finding(missing, name, f"not installed; it is needed for {purpose}", needs=name)
    try:
        answer = process.run([name, argument], check=False, timeout=30)
    except PybuilderError as error:
        return Finding(missing, name, f"{error.message}; it is needed for {purpose}", error.hint or "")
    text = answer.stdout.decode(errors="replace") or answer.stderr
    version = _VERSION.search(text)
    return Finding(Health.GOOD, name, f"version {version.group()}" if version else "installed")


def _hostside() -> Finding:
    subject = "builds without an appliance"
    try:
        found = require_host()
    except ToolError as error:
        needs = missing_on_host()
        hint = "" if needs else error.hint or ""
        return Finding(Health.WORSE, subject, f"not possible: {error.message}", hint, needs)
    try:
        try_host()
    except UnfitError as error:
        hint = "let the container or service that runs this program allow seccomp and Landlock"
        return Finding(Health.WORSE, subject, f"not possible: {error}", hint)
    return Finding(
        Health.GOOD, subject, f"possible, confined by seccomp {found.seccomp} and Landlock {found.landlock}"
    )


def _publisher() -> Iterator[Finding]:
    for name, argument, purpose in _FOR_TEMPLATES:
        if name == "newuidmap" and os.geteuid() == 0:
            continue
        yield _program(name, argument, purpose, missing=Health.WORSE)
    name = "debian-archive-keyring"
    if _ARCHIVE_KEYS.exists():
        yield Finding(Health.GOOD, name, f"{_ARCHIVE_KEYS} exists")
    else:
        purpose = "pybuilder-repo make-template"
        yield Finding(Health.WORSE, name, f"not installed; it is needed for {purpose}", needs=name)


def _configuration() -> Finding:
    found = [str(path) for path in paths.configuration_files() if path.exists()]
    return Finding(Health.GOOD, "configuration", ", ".join(found) or "no pybuilder.toml, the defaults count")


def _folders(cache: Path | None) -> Iterator[Finding]:
    if cache is None:
        yield Finding(Health.WORSE, "cache", "none is used", "every build downloads its template")
    else:
        yield _folder("cache", cache, "choose another: --cache DIR")
    large = Path(os.environ.get("LIBGUESTFS_CACHEDIR") or os.environ.get("TMPDIR") or "/var/tmp")  # noqa: S108
    yield _folder("folder of the appliance", large, "choose another: LIBGUESTFS_CACHEDIR=DIR")
    yield _folder(
        "temporary folder", Path(tempfile.gettempdir()), "choose another: TMPDIR=DIR", enough=64 * 1024**2
    )
    yield _folder("current folder", Path.cwd(), "choose another for the image: --output FILE")


def _folder(subject: str, folder: Path, remedy: str, *, enough: int = _LOW_SPACE) -> Finding:
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(Health.BAD, subject, f"{folder} is not writable", remedy)
    if folder.exists() and folder.stat().st_mode & 0o002 and not folder.stat().st_mode & 0o1000:
        return Finding(
            Health.WORSE, subject, f"{folder} can be changed by every user", f"run: chmod o-w {folder}"
        )
    facts = os.statvfs(existing)
    free = facts.f_bavail * facts.f_frsize
    if free < enough:
        return Finding(
            Health.WORSE,
            subject,
            f"{folder} has only {human_size(free)} free",
            f"free some space, or {remedy}",
        )
    return Finding(Health.GOOD, subject, f"{folder} is writable, {human_size(free)} free")


def _saved(cache: Path | None) -> Finding:
    subject = "saved appliances"
    if instant_mode() is InstantMode.NEVER:
        return Finding(Health.WORSE, subject, f"switched off by {VARIABLE}", f"unset {VARIABLE}")
    if cache is None:
        return Finding(Health.GOOD, subject, "none without a cache")
    found = StateStore(state_folder(cache)).describe()
    return Finding(Health.GOOD, subject, "; ".join(found) or "none yet; the next build saves one")


def _appliance(
    source_uris: Sequence[str], open_appliance: ApplianceOpener, on_event: Reporter
) -> Iterator[Finding]:
    hosts = [urlsplit(uri).hostname for uri in source_uris if uri.startswith(("http://", "https://"))]
    names = list(dict.fromkeys([*(host for host in hosts if host), _USUAL_HOST]))
    with private_folder() as folder:
        disk = Path(folder, "disk")
        with disk.open("wb") as file:
            file.truncate(16 * 1024**2)
        try:
            with open_appliance(
                [Attachment(disk, "raw")], ApplianceOptions(network=True, instant=False), on_event
            ) as appliance:
                yield Finding(Health.GOOD, "appliance", "it starts")
                lost = [name for name in names if not appliance.resolves(name)]
                appliance.shutdown()
        except ApplianceError as error:
            yield Finding(
                Health.BAD, "appliance", error.message, "run libguestfs-test-tool for its own diagnosis"
            )
            return
    if lost:
        yield Finding(
            Health.WORSE,
            "network inside the appliance",
            f"it cannot look up {', '.join(lost)}",
            "see whether the host can (getent hosts NAME); proxies are passed on from http_proxy",
        )
    else:
        yield Finding(Health.GOOD, "network inside the appliance", f"it can look up {', '.join(names)}")
