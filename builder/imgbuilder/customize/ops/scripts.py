"""Operations that run the user's programs: in the guest, at its first boot, or (``--edit``) on this host."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import argforms, values, windowsboot
from imgbuilder.customize.commands import NO_NETWORK_HINT, guest_folder, run_in_guest
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.facts import EVERYWHERE
from imgbuilder.customize.firstboot import install_firstboot
from imgbuilder.customize.needs import Need
from imgbuilder.customize.operation import Operation, require_file
from imgbuilder.customize.packagemanagers import install_script
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError, ToolError, UsageError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host import process

_BOM = b"\xef\xbb\xbf"
_LONGEST = 256
"""Bytes of the first line that Linux looks at (BINPRM_BUF_SIZE)."""


def local_script(path: Path) -> Path:
    r"""Accept a local script or program whose first line can work in a guest.

    A byte order mark before ``#!`` hides it, and a Windows line end makes the kernel look for an interpreter
    called ``sh\r``.
    """
    values.local_file(path)
    line = _first_line(path)
    if line.startswith(_BOM + b"#!"):
        raise UsageError(
            f"{path} begins with a byte order mark before its #! line", hint="save it as UTF-8 without BOM"
        )
    if line.startswith(b"#!") and line.endswith(b"\r"):
        raise UsageError(f"{path} has Windows line ends (CRLF)", hint=f"convert it: sed -i 's/\\r$//' {path}")
    return path


def interpreter(path: Path) -> str | None:
    """Return the interpreter in the first line of a local script, or None."""
    line = _first_line(path)
    words = line.removeprefix(b"#!").decode(errors="replace").split() if line.startswith(b"#!") else []
    return words[0] if words else None


def _first_line(path: Path) -> bytes:
    return values.read_local(path, _LONGEST).partition(b"\n")[0]


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

_EDITOR = """\
binmode STDIN; binmode STDOUT;
our $lineno = 0;
while (defined ($_ = <STDIN>)) { $lineno++; eval $ENV{virt_edit_expr}; die $@ if $@; print STDOUT $_; }
close STDOUT or die "cannot write: $!";
exit 17;
"""
_EDITED = 17
"""Status after the last line; an expression that ends perl early by ``exit`` gives a different one."""

_LARGEST_EDITED = 32 << 20
_EDIT_LIMIT = 60.0
"""Seconds after which an expression is assumed to loop for ever."""


@operation(
    "run", progress="Running: {script}", form=argforms.single(argforms.local("SCRIPT")), runs_in_guest=True
)
@dataclass(frozen=True)
class Run(Operation):
    """Run a local script or program in the guest.

    SCRIPT is copied into the guest, run there as root and removed. It may be a program, or a script in any
    language of the guest: its #! line names the interpreter, by default the guest's /bin/sh. Its output goes
    to the log file in the guest; the end of it is shown if the script fails.

    Attributes:
        script: The local file.
    """

    script: Path = field(metadata={"rule": local_script})

    def apply(self, guest: Guest, context: GuestContext) -> None:
        program = interpreter(self.script)
        if program is not None and not guest.exists(program):
            raise OperationError(
                f"--run {self.script}: its interpreter {program} is not in the guest",
                hint="install it with --install before this option, or correct the script's first line",
            )
        with guest_folder(guest, "/tmp", "/var/tmp", "/root") as folder:  # noqa: S108 - in the guest
            name = self.script.name if _PLAIN_NAME.fullmatch(self.script.name) else "script"
            path = f"{folder}/{name}"
            guest.upload(self.script, path)
            guest.chmod(0o755, path)
            run_in_guest(
                guest, context, shlex.quote(path), display=f"--run {self.script}", hint=_run_hint(context)
            )


@operation("run-command", progress="Running: {command}", form=argforms.single("CMD+ARGS"), runs_in_guest=True)
@dataclass(frozen=True)
class RunCommand(Operation):
    """Run a command in the guest.

    The guest's /bin/sh runs it as root. Its output goes to the log file in the guest; the end of it is shown
    if the command fails. Several lines stop at the first line that fails, as with "set -e"; in a single line
    the exit status of the last command counts.

    Attributes:
        command: Input for the shell; may have several lines.
    """

    command: str = field(metadata=values.NOT_EMPTY)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        display = f"--run-command {shlex.quote(values.first_line(self.command))}"
        # One line keeps virt-builder's meaning: "grep -q x f; true" succeeds there.
        script = f"set -e\n{self.command}" if "\n" in self.command.strip() else self.command
        run_in_guest(guest, context, script, display=display, hint=_run_hint(context))


@operation("edit", progress="Editing: {path}", form=argforms.pair("FILE", "EXPR"), systems=EVERYWHERE)
@dataclass(frozen=True)
class Edit(Operation):
    """Edit a file of the guest with a Perl expression.

    EXPR is evaluated once per line of the file, by the perl of this host and with your rights: $_ is the line
    with its newline, $lineno its number. The new value of $_ is written, after anything that EXPR prints; an
    empty value removes the line. The file must exist and keeps its owner, permissions and labels. If EXPR
    fails, the file is not changed.

    Attributes:
        path: The file in the guest.
        expression: The expression.
    """

    path: str = field(metadata=values.GUEST_PATH)
    expression: str = field(metadata=values.RAW_TEXT)

    def check_host(self) -> None:
        process.require_program("perl")

    def apply(self, guest: Guest, context: GuestContext) -> None:
        require_file(guest, self.path, self)
        content = guest.read(self.path, limit=_LARGEST_EDITED)
        # In the environment other users cannot read the expression. Modules that the user's PERL5OPT loads,
        # such as strict, would change its meaning.
        environment = {"virt_edit_expr": self.expression, "PERL5OPT": ""}
        try:
            result = process.run(
                ["perl", "-e", _EDITOR], stdin=content, env=environment, timeout=_EDIT_LIMIT, check=False
            )
            if result.status != _EDITED:
                raise process.failure("perl", result)
        except (ToolError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise OperationError(
                f"--edit {self.path}: the expression failed and the file was not changed: {reason}"
            ) from error
        if result.stdout != content:
            guest.replace(self.path, result.stdout)


def _run_hint(context: GuestContext) -> str | None:
    return None if context.network else f"if it needs the network: {NO_NETWORK_HINT}"


@operation(
    "firstboot",
    progress="Installing firstboot script: {script}",
    form=argforms.single(argforms.local("SCRIPT")),
    needs=(Need.FIRST_BOOT,),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class Firstboot(Operation):
    r"""Install a local script that runs at the guest's first boot.

    It runs once, as root, late in the boot and after the network is started. Several scripts run in the order
    in which they are given; if one fails, the next runs all the same. Output and exit status go to
    /root/virt-sysprep-firstboot.log in the guest and to its console; exit codes and times are also in
    /var/lib/pybuilder/firstboot-status. pybuilder(1) can show both from outside. systemd, OpenRC, System V
    init or runit starts it; a guest with a different init system is refused. The guest may have a different
    architecture from this host's.

    In Windows, SCRIPT is a batch file, which a service runs as LocalSystem; see --windows-runner. Output and
    exit codes go to C:\Program Files\Guestfs\Firstboot\log.txt. Windows restarts after each script, unless
    that ends with 250; one that ends with 249 runs again at the next boot.

    Attributes:
        script: The local file.
    """

    script: Path = field(metadata={"rule": local_script})

    def check_guest(self, context: GuestContext) -> None:
        if context.windows is None:
            return
        windowsboot.find_runner(context.windows_runner)
        if interpreter(self.script) is not None or self.script.suffix.lower() == ".ps1":
            raise OperationError(
                f"--firstboot: {self.script} is not a batch file, which Windows could run",
                hint="for PowerShell: --upload it, and --firstboot-command "
                "'powershell -ExecutionPolicy ByPass -File C:\\...'",
            )

    def apply(self, guest: Guest, context: GuestContext) -> None:
        content = values.read_local(self.script)
        if context.windows is not None:
            windowsboot.install_script(guest, context, str(self.script), content)
            return
        program = interpreter(self.script)
        if program is not None and not guest.exists(program):
            warn(
                context.on_event,
                f"--firstboot {self.script}: its interpreter {program} is not in the guest and must be "
                "installed before it boots",
            )
        install_firstboot(guest, context.facts, str(self.script), content)


@operation(
    "firstboot-command",
    progress="Installing firstboot command: {command}",
    form=argforms.single("CMD+ARGS"),
    needs=(Need.FIRST_BOOT,),
    systems=EVERYWHERE,
)
@dataclass(frozen=True)
class FirstbootCommand(Operation):
    """Run a command at the guest's first boot.

    The guest's /bin/sh runs it, or in Windows cmd.exe; see --firstboot.

    Attributes:
        command: Input for the shell; may have several lines.
    """

    command: str = field(metadata=values.NOT_EMPTY)

    def check_guest(self, context: GuestContext) -> None:
        if context.windows is not None:
            windowsboot.find_runner(context.windows_runner)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        if context.windows is not None:
            windowsboot.install_script(guest, context, self.command, f"{self.command}\n".encode())
            return
        install_firstboot(guest, context.facts, self.command, f"{self.command}\n".encode())


@operation(
    "firstboot-install",
    progress="Installing firstboot packages: {packages}",
    form=argforms.items("PKG,PKG..."),
    needs=(Need.PACKAGES, Need.FIRST_BOOT),
)
@dataclass(frozen=True)
class FirstbootInstall(Operation):
    """Install packages at the guest's first boot.

    They are fetched over the guest's network when it boots, not during the build; see --firstboot and
    --install.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def check_guest(self, context: GuestContext) -> None:
        install_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        script = "#!/bin/sh\n" + install_script(context.facts, self.packages, at_boot=True)
        install_firstboot(guest, context.facts, f"install {' '.join(self.packages)}", script.encode())
