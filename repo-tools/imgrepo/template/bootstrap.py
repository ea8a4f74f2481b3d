"""Installs a distribution's packages into a tar archive, by mmdebstrap.

No root is needed: mmdebstrap becomes root in a user namespace. The archive's
signatures are always checked against the keyring of the recipe.
"""

from __future__ import annotations

import collections
import contextlib
import enum
import os
import pwd
import shlex
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from imgbuilder.customize.buildnetwork import host_proxies
from imgbuilder.errors import ToolError, UsageError
from imgbuilder.events import Reporter, debug
from imgbuilder.fetch.urls import Address, without_secrets
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.packages import install_hint
from imgbuilder.host.paths import temporary_dir
from imgbuilder.host.privatefolder import scratch_folder
from imgbuilder.host.process import Popen
from imgrepo.template.disk import Layout
from imgrepo.template.recipes import (
    DEBIAN,
    PLAIN_LOCALE,
    Arch,
    Kernel,
    Mirrors,
    TemplateRecipe,
    build_sources,
    check_combination,
    check_locale,
    check_packages,
    finish_script,
    guest_files,
    packages_of,
    write_overlay,
)

_GRACE = 30.0
"""Seconds for mmdebstrap to remove its own files after a signal."""

_CHROOT_SPACE = 1536 << 20
"""Bytes that the installed system, its packages and their lists take while they are installed."""

_NUMBERS = 65536
"""Number of uids that a guest uses."""

_RANGES = (Path("/etc/subuid"), Path("/etc/subgid"))

_SCRIPT = "/var/tmp/pybuilder-script"  # noqa: S108 - in a system without other users
"""Path of the publisher's own program in the new system."""

_LINES_KEPT = 15
"""Lines of mmdebstrap's messages that an error quotes."""


class Mode(enum.Enum):
    """The way that mmdebstrap gets the rights for installing packages, see mmdebstrap(1)."""

    AUTO = "auto"
    UNSHARE = "unshare"
    FAKECHROOT = "fakechroot"
    ROOT = "root"


@dataclass(frozen=True)
class BootstrapRequest:
    """The system to install.

    Attributes:
        keyring: Keys that may sign the archive; None for those of the recipe.
        epoch: The time of new files in seconds since 1970 (``SOURCE_DATE_EPOCH``), so that the same packages
            give the same archive; None for now.
        valid_until: Whether to refuse an archive whose lists have expired, as apt does.
    """

    recipe: TemplateRecipe
    kernel: Kernel = Kernel.CLOUD
    include: tuple[str, ...] = ()
    build_from: Mirrors = DEBIAN
    guest_uses: Mirrors = DEBIAN
    keyring: Path | None = None
    mode: Mode = Mode.AUTO
    arch: Arch = Arch.AMD64
    layout: Layout = field(default_factory=Layout)
    locale: str = PLAIN_LOCALE
    script: Path | None = None
    epoch: int | None = None
    valid_until: bool = True

    def __post_init__(self) -> None:
        check_packages(self.include)
        for mirror in (self.guest_uses.mirror, self.guest_uses.security):
            if Address(mirror).has_secret:
                raise UsageError(
                    f"the password of the mirror {mirror} would be readable in the template",
                    hint="leave --keep-mirror out",
                )
        check_locale(self.locale)
        check_combination(self.recipe, self.arch, self.layout)
        if self.script is not None and not self.script.is_file():
            raise UsageError(f"the script {self.script} does not exist")

    @property
    def packages(self) -> tuple[str, ...]:
        """All packages to install."""
        more = () if self.locale == PLAIN_LOCALE else ("locales",)
        return packages_of(
            self.recipe, self.kernel, (*self.include, *more), arch=self.arch, layout=self.layout
        )


def check_bootstrap(request: BootstrapRequest) -> tuple[Mode, Path]:
    """Check, before anything is downloaded, that the request can work on this machine.

    Return the mode to use, never ``AUTO``, and the keyring's absolute path.
    """
    process.require_program("mmdebstrap")
    if request.arch.value != _own_arch():
        # mmdebstrap needs it to see whether this machine can run the architecture.
        process.require_program("arch-test")
    return _usable_mode(request.mode), _usable_keyring(request)


def bootstrap(request: BootstrapRequest, archive: Path, scratch: Path, on_event: Reporter) -> None:
    """Install a system and write it as a tar archive."""
    mode, keyring = check_bootstrap(request)
    overlay = scratch / "overlay.tar"
    write_overlay(guest_files(request.recipe, request.guest_uses, request.locale), overlay, request.epoch)
    with _chroot_space(mode) as space, open(archive, "xb") as output:
        argv = bootstrap_arguments(request, mode=mode, overlay=overlay)
        debug(on_event, f"running: {shlex.join(argv)}")
        lines: collections.deque[str] = collections.deque(maxlen=_LINES_KEPT)
        sources = build_sources(request.recipe, request.build_from, keyring)
        with _running(argv, sources, output, space, request.epoch) as (running, messages):
            for line in messages:
                lines.append(without_secrets(line.rstrip()))
                debug(on_event, f"mmdebstrap: {lines[-1]}")
            status = running.wait()
        if status != 0:
            raise ToolError(
                f"mmdebstrap failed with status {status}: " + "\n".join(lines),
                hint="run again with --verbose to see all its messages",
            )


@contextlib.contextmanager
def _running(
    argv: Sequence[str], sources: Sequence[str], output: IO[bytes], space: Path, epoch: int | None
) -> Iterator[tuple[Popen[bytes], IO[str]]]:
    """Run mmdebstrap; after the block it has ended and cleaned up."""
    # apt needs the proxies, also those whose addresses hold a password.
    env = host_proxies(os.environ) | {"TMPDIR": os.fspath(space)}
    env |= {} if epoch is None else {"SOURCE_DATE_EPOCH": str(epoch)}
    reading, writing = os.pipe()
    running: Popen[bytes] | None = None
    with tempfile.TemporaryFile() as given, open(reading, errors="replace") as messages:
        given.write("\n".join([*sources, ""]).encode())
        given.seek(0)
        try:
            try:
                with uninterrupted():  # a signal must not come between its start and the assignment
                    running = process.start(argv, stdin=given, stdout=output, stderr=writing, env=env)
            finally:
                os.close(writing)
            yield running, messages
        finally:
            if running is not None:
                with uninterrupted():
                    process.end_group(running, grace=_GRACE)


def bootstrap_arguments(request: BootstrapRequest, *, mode: Mode, overlay: Path) -> Sequence[str]:
    """Return the command line that writes the system to standard output as a tar archive.

    mmdebstrap reads the sources of packages from standard input: their addresses may contain a password, and
    all users of this machine see the arguments of a program.
    """
    recipe = request.recipe
    return [
        "mmdebstrap",
        f"--mode={mode.value}",
        "--variant=minbase",
        *([] if request.valid_until else ['--aptopt=Acquire::Check-Valid-Until "false"']),
        f"--architectures={request.arch.value}",
        "--format=tar",
        f"--include={','.join(request.packages)}",
        *_script_hooks(request.script),
        # Special hooks such as tar-in read the archive outside of the namespace, as this user.
        f"--customize-hook=tar-in {shlex.quote(os.fspath(overlay))} /",
        f'--customize-hook=chroot "$1" /bin/sh -euc {shlex.quote(finish_script(request.locale))}',
        recipe.suite,
        "-",
        "-",
    ]


def _own_arch() -> str:
    """Return Debian's name of this machine's architecture, if it is one of ours; otherwise the kernel's."""
    machine = os.uname().machine
    return {"x86_64": Arch.AMD64.value, "i686": Arch.I386.value}.get(machine, machine)


def _script_hooks(script: Path | None) -> list[str]:
    """Return the hooks that run a program in the new system, which still uses this machine's resolver."""
    if script is None:
        return []
    commands = f"chmod 755 {_SCRIPT}; {_SCRIPT}; rm -f {_SCRIPT}"
    return [
        f"--customize-hook=upload {shlex.quote(os.fspath(script.absolute()))} {_SCRIPT}",
        f'--customize-hook=chroot "$1" /bin/sh -euc {shlex.quote(commands)}',
    ]


def _usable_keyring(request: BootstrapRequest) -> Path:
    recipe = request.recipe
    keyring = (request.keyring or recipe.keyring).resolve()
    if not keyring.is_file():
        hint = "give --suite-keyring the file with the archive's public keys"
        if request.keyring is None:
            hint = f"{install_hint('debian-archive-keyring')}; or {hint}"
        raise UsageError(f"the archive's keys are missing: {keyring}", hint=hint)
    if any(character.isspace() or character in "[]#\"'\\" for character in str(keyring)):
        raise UsageError(
            f"apt cannot use a keyring with this name: {str(keyring)!r}",
            hint="copy it to a path without blanks, quotes and brackets",
        )
    return keyring


def _usable_mode(mode: Mode) -> Mode:
    if mode is Mode.AUTO:
        mode = Mode.ROOT if os.geteuid() == 0 else Mode.UNSHARE
    if mode is Mode.UNSHARE and os.geteuid() != 0:
        user = _user_name()
        if process.find_program("newuidmap") is None:
            raise ToolError(
                "installing packages without root needs the program newuidmap, which is missing",
                hint=install_hint("newuidmap"),
            )
        for table in _RANGES:
            if not _has_range(table, user):
                raise ToolError(
                    f"installing packages without root needs a range of user numbers for {user} in {table}",
                    hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
                )
        _check_can_be_entered(temporary_dir().resolve())
    return mode


def _check_can_be_entered(space: Path) -> None:
    """Check that the users of a namespace, who are other users here, can enter a folder."""
    for folder in (space, *space.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            raise ToolError(
                f"packages are installed under other user numbers, so {space} cannot hold temporary files: "
                f"other users may not enter {folder}",
                hint="set TMPDIR to another folder, such as /var/tmp",
            )


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError as error:
        raise ToolError(
            f"installing packages without root needs a user with a name, but number {os.getuid()} "
            "is not in /etc/passwd",
            hint="run it as a user with an entry there, or as root",
        ) from error


def _has_range(table: Path, user: str) -> bool:
    """Check whether subuid(5) or subgid(5) gives a user enough numbers for a system."""
    names = {user, str(os.geteuid())}
    try:
        rows = [line.split(":") for line in table.read_text(errors="replace").split("\n")]
    except FileNotFoundError:
        return False
    counts = [row[2].strip() for row in rows if len(row) == 3 and row[0] in names]
    return any(count.isdecimal() and int(count) >= _NUMBERS for count in counts)


@contextlib.contextmanager
def _chroot_space(mode: Mode) -> Iterator[Path]:
    """Make a folder for mmdebstrap's temporary tree and remove it afterwards.

    In a user namespace the tree belongs to other uids than ours: the folder must let them pass, and only such
    a namespace can remove the files of a killed mmdebstrap.
    """

    def empty(space: Path) -> None:
        if mode is Mode.UNSHARE and any(space.iterdir()):
            process.run(
                ["mmdebstrap", "--unshare-helper", "find", space, "-mindepth", "2", "-delete"], check=False
            )

    with scratch_folder(needed=_CHROOT_SPACE, mode=0o711, before_removal=empty) as space:
        yield space
