"""Hostile guests, and our commands on them, for one process per guest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.customize import aptsettings, sysprep
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import read_facts
from imgbuilder.customize.failure import keep_log
from imgbuilder.customize.firstboot import read_firstboot
from imgbuilder.customize.run import customize
from imgbuilder.customize.syspreptasks import TASKS
from imgbuilder.errors import PybuilderError
from imgbuilder.events import ignore
from imgbuilder.guests.ports import CommandResult
from imgrepo.contents.packages import list_packages
from imgrepo.images.facts import examine
from imgrepo.images.scan import scan
from imgrepo.review.leftovers import look_inside
from tests.fakes.appliance import FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.debianguest import KEY, PASSWD, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation
from tests.unit.imgrepo.repository import ELF_X86_64, image

HUGE = 8 << 30
SPARSE = 16 << 40
BIG = 1 << 20
"""Bytes of a text that is long, and still read."""
DIGITS = "9" * 5000
ACCOUNT_FILES = ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow")
RELEASE = "/usr/lib/os-release"
STATUS = "/var/lib/dpkg/status"
LOG = "/tmp/builder.log"
ARCHIVES = f"{aptsettings.FOLDER}/archives"
KEPT, KEPT_BYTES = "bash_1_all.deb", b"the bytes of the archive's signed lists"
"""A package in the host's folder of ``--package-cache``."""
POISON = "poison_1_all.deb"
"""A package of the archive that only the guest has, with other bytes."""


def _sparse(*paths: str, size: int = HUGE) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for path in paths:
            guest.add_sparse(path, size)

    return harm


def _text(path: str, content: str | bytes) -> Callable[[FakeGuest], None]:
    return lambda guest: guest.add(path, content)


def _folders(*paths: str) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for path in paths:
            guest.remove(path)
            guest.add_dir(path)

    return harm


def _loops(*paths: str) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for path in paths:
            guest.add_link(path, path)

    return harm


def _pipes(*paths: str) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for path in paths:
            guest.add_fifo(path)

    return harm


def _crowds(*paths: str) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for path in paths:
            guest.add_crowd(path)

    return harm


def _names(folder: str, count: int) -> Callable[[FakeGuest], None]:
    def harm(guest: FakeGuest) -> None:
        for number in range(count):
            guest.add(f"{folder}/{number:06}.conf")

    return harm


def _says(output: str, status: int = 0) -> Callable[[FakeGuest], None]:
    return lambda guest: guest.on_sh("", CommandResult(status, output))


def _filled(line: str, size: int = BIG) -> str:
    return line * (size // len(line))


def _list_packages(guest: FakeGuest, *names: str) -> None:
    """Let the guest's apt list packages, all with the digest of ``KEPT_BYTES``."""
    digest = hashlib.sha256(KEPT_BYTES).hexdigest()
    listed = "".join(f"'http://a/{name}' {name} {len(KEPT_BYTES)} SHA256:{digest}\n" for name in names)

    def listing(_script: str) -> CommandResult:
        guest.write(f"{aptsettings.FOLDER}/wanted", listed.encode())
        return CommandResult(0, "")

    guest.on_sh("--print-uris", listing)


def _package_traps(guest: FakeGuest) -> None:
    """Fill apt's folder of packages with what must not get to the host."""
    guest.add_sparse(f"{ARCHIVES}/huge_1_all.deb", HUGE)
    guest.add_fifo(f"{ARCHIVES}/pipe_1_all.deb")
    guest.add_link(f"{ARCHIVES}/loop_1_all.deb", f"{ARCHIVES}/loop_1_all.deb")
    guest.add_dir(f"{ARCHIVES}/folder_1_all.deb")
    for name in ("..%2fevil.deb", ".hidden.deb", "evil;name.deb", "\x1b[2J.deb", f"{'a' * 250}.deb", "lock"):
        guest.add(f"{ARCHIVES}/{name}", b"evil")
    guest.add(f"{ARCHIVES}/{POISON}", b"evil")

    def install(_script: str) -> CommandResult:
        guest.write(f"{ARCHIVES}/{KEPT}", b"evil")
        return CommandResult(0, "")

    guest.on_sh("install -- ", install)
    _list_packages(guest, KEPT, POISON, "../evil.deb", f"{ARCHIVES}/evil.deb")


_PACKAGE = "Package: p{0}\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n"

FRIENDLY = "a friendly guest"
GUESTS: dict[str, Callable[[FakeGuest], None]] = {
    "huge account files": _sparse(*ACCOUNT_FILES),
    "long account files": _text("/etc/passwd", PASSWD + _filled("a:x:1:1::/:/bin/sh\n")),
    "a passwd of colons": _text("/etc/passwd", b":" * BIG),
    "a passwd of empty lines": _text("/etc/passwd", b"\n" * BIG),
    "numbers of 5000 digits": _text("/etc/passwd", f"root:x:{DIGITS}:{DIGITS}::/root:/bin/sh\n"),
    "negative numbers": _text("/etc/passwd", "root:x:-1:-1::/root:/bin/sh\n"),
    "numbers beyond 32 bits": _text("/etc/passwd", f"root:x:{1 << 40}:{1 << 70}::/root:/bin/sh\n"),
    "numbers of other scripts": _text("/etc/passwd", "root:x:\u0663:\u00b2::/root:/bin/sh\n"),
    "days of 5000 digits": _text("/etc/shadow", f"root:*:{DIGITS}:{DIGITS}:{DIGITS}:7::{DIGITS}:\n"),
    "costly passwords": _text("/etc/shadow", "root:$6$rounds=999999999$salt$x:1:0:99999:7:::\n"),
    "a huge os-release": _sparse(RELEASE),
    "a long os-release": _text(RELEASE, "ID=debian\nNAME=" + "a" * 60_000 + "\nVERSION_ID=" + DIGITS[:4000]),
    "an os-release of quotes": _text(RELEASE, _filled("ID='\n", 60_000)),
    "a huge fstab": _sparse("/etc/fstab"),
    "a long fstab": _text("/etc/fstab", _filled(f"UUID={DIGITS[:40]} /a ext4 defaults 0 {DIGITS[:40]}\n")),
    "huge settings": _sparse("/etc/hosts", "/etc/hostname", "/etc/sudoers", "/etc/selinux/config"),
    "a hostname that controls": _text("/etc/hostname", b"\x1b]0;x\x07\x00\xff\n" * 1000),
    "folders for files": _folders("/etc/machine-id", "/etc/hostname", *ACCOUNT_FILES),
    "pipes for files": _pipes("/etc/machine-id", "/etc/hosts", RELEASE, *ACCOUNT_FILES, STATUS, LOG),
    "links in circles": _loops("/etc/hosts", "/root", "/var/log", "/etc/passwd", "/etc/ssh", "/home"),
    "folders without end": _crowds(
        "/home", "/root/.ssh", "/var/log", "/etc/ssh", "/etc/apt", "/var/lib/dpkg", ARCHIVES
    ),
    "thousands of settings": _names("/etc/apt/apt.conf.d", 5_000),
    "thousands of homes": _names("/home", 5_000),
    "a huge log": _sparse(LOG, "/var/log/pybuilder-firstboot.log", size=SPARSE),
    "a huge package database": _sparse(STATUS),
    "a package database of 100 MB of one line": _sparse(STATUS, size=100 << 20),
    "packages without end": _text(STATUS, "".join(map(_PACKAGE.format, range(200_000)))),
    "a package of one field": _text(STATUS, "Package: a\nVersion: " + "1" * BIG + "\n"),
    "traps among apt's packages": _package_traps,
    "a shell that says too much": _says("\x1b[2J\x00\ufffd" * 16_000),
    "a shell that fails": _says("0 0 0\n" * 10_000, status=255),
    "a shell of numbers": _says(DIGITS * 12),
}

OPERATIONS = [
    ("append-line", "/etc/hosts:one"), ("chmod", "0600:/etc/hosts"), ("chown", "root:root:/etc/hosts"),
    ("delete", "/var/log/*"), ("edit", "/etc/hosts:s/a/b/"), ("firstboot-command", "true"),
    ("firstboot-install", "bash"), ("hostname", "new"), ("install", "bash"), ("link", "/etc/hosts:/etc/one"),
    ("mkdir", "/srv/new"), ("password", "ann:password:secret"), ("root-password", "password:secret"),
    ("run-command", "false"), ("ssh-inject", f"ann:string:{KEY}"), ("ssh-inject", f"root:string:{KEY}"),
    ("static-ip", "192.0.2.1/24"), ("sysprep", "all"), ("timezone", "Europe/Berlin"),
    ("touch", "/etc/new"), ("truncate", "/etc/hosts"),
    ("uninstall", "bash"), ("update", ""), ("user", "bob"), ("write", "/etc/new:text"),
    ("selinux-relabel", ""), ("mirror", "http://mirror.example.org"),
]  # fmt: skip
"""Command lines of a build; each on a fresh copy of the guest."""


def hostile(name: str) -> FakeGuest:
    """Return a guest of the table, or a friendly one."""
    guest = debian_guest()
    guest.add("/usr/bin/sh", ELF_X86_64, mode=0o755)
    guest.add("/etc/systemd/system/multi-user.target.wants/systemd-networkd.service")
    guest.add(STATUS, _PACKAGE.format(1))
    guest.add(LOG, "said\n")
    guest.add("/etc/group", "root:x:0:\nann:x:1001:\n")
    _list_packages(guest, KEPT)
    if name != FRIENDLY:
        GUESTS[name](guest)
    return guest


def _build(guest: FakeGuest, *written: tuple[str, str]) -> None:
    def rescue(failed: FakeGuest, context: GuestContext, _error: PybuilderError) -> None:
        keep_log(failed, context.log_file, "hostile")

    context = GuestContext(read_facts(guest), "x86_64")
    operations = [parse_operation(keyword, text) for keyword, text in written]
    customize(guest, operations, context, ignore, rescue)  # type: ignore[arg-type]


def _build_with_package_cache(guest: FakeGuest, folder: Path) -> None:
    """Build with a folder of packages, and check that the guest changed nothing in it."""
    folder.mkdir()
    (folder / KEPT).write_bytes(KEPT_BYTES)
    try:
        _build(guest, ("install", "bash"), ("package-cache", str(folder)))
    finally:
        kept = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert kept == {KEPT: KEPT_BYTES}, f"the guest got {sorted(kept)} to the host"


def commands(name: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Return our commands on a guest of the table, by their names."""
    appliances = FakeAppliances({"a.img": FakeDisk({1: FakeFilesystem(guest=hostile(name))})})
    images, _skipped = scan(image(folder / "a.img").parent)
    options = ApplianceOptions()
    found: dict[str, Callable[[], object]] = {
        "--check": lambda: sysprep.find(hostile(name), tuple(TASKS)),
        "keep a log": lambda: keep_log(hostile(name), LOG, "hostile"),
        "first boot": lambda: read_firstboot(hostile(name)),
        "publish": lambda: _raised(examine(images, appliances, options, ignore)["a.img"]),
        "entry check": lambda: look_inside(images[0], "", appliances, options, ignore),
        "--package-cache": lambda: _build_with_package_cache(hostile(name), Path.home() / "packages"),
        "sbom": lambda: list_packages(images[0], appliances, options, ignore),
    }
    for keyword, text in OPERATIONS:
        found[f"--{keyword} {text[:30]}"] = lambda written=(keyword, text): _build(  # type: ignore[misc]
            hostile(name), written
        )
    return found


def _raised(result: object) -> object:
    if isinstance(result, PybuilderError):
        raise result
    return result


def run(name: str, folder: Path, places: dict[str, str], results: Connection) -> None:
    """Run all commands on a guest in this process; send their results and the most memory that was used."""
    os.environ.update(places)
    ended = {}
    for what, command in commands(name, folder).items():
        ended[what] = "done"
        try:
            command()
        except PybuilderError as error:
            ended[what] = f"refused: {error.message[:300]}"
        except Exception as error:  # noqa: BLE001 - these are what is looked for
            ended[what] = f"CRASHED: {error!r:.300}"
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    results.send((ended, int(status.split("VmHWM:")[1].split()[0]) << 10))
