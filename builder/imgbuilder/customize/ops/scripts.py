"""Operations that run the user's programs: in the guest, at its first boot, or (``--edit``) on this host."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize import argforms, values
from imgbuilder.customize.commands import NO_NETWORK_HINT, private_folder, run_in_guest
from imgbuilder.customize.context import GuestContext
from imgbuilder.customize.firstboot import install_firstboot
from imgbuilder.customize.operation import OperationBase, require_file
from imgbuilder.customize.ops import packages
from imgbuilder.customize.registry import operation
from imgbuilder.errors import OperationError, ToolError, UsageError
from imgbuilder.events import warn
from imgbuilder.guests.ports import Guest
from imgbuilder.host import process
from imgindex.files import open_file

# Looking at a script's first line before it is run (Z11).


_BOM = b"\xef\xbb\xbf"
_LONGEST = 256
"""Bytes of the first line that Linux looks at (BINPRM_BUF_SIZE)."""


def local_script(path: Path) -> Path:
    r"""Accept a local script or program.

    Raises:
        UsageError: It cannot be read, or its first line could not work in any guest: Windows line ends
            in ``#!...``, which make the kernel look for an interpreter called ``sh\r``, or a byte order
            mark before it.
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
    """Return the interpreter that a local script names, or None when it names none."""
    line = _first_line(path)
    words = line.removeprefix(b"#!").decode(errors="replace").split() if line.startswith(b"#!") else []
    return words[0] if words else None


def _first_line(path: Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(_LONGEST).partition(b"\n")[0]
    except OSError as error:
        raise UsageError(f"the local file {path} cannot be read: {error.strerror}") from error


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

_EDITOR = """\
binmode STDIN; binmode STDOUT;
our $lineno = 0;
while (defined ($_ = <STDIN>)) { $lineno++; eval $ENV{virt_edit_expr}; die $@ if $@; print STDOUT $_; }
close STDOUT or die "cannot write: $!";
exit 17;
"""
_EDITED = 17
"""Status after the last line; an expression that ends perl early, by ``exit``, gives another."""

_LARGEST_EDITED = 32 << 20
_EDIT_LIMIT = 60.0
"""Seconds after which an expression is taken to loop for ever (Z19)."""


@operation("run", form=argforms.single(argforms.local("SCRIPT")), runs_in_guest=True)
@dataclass(frozen=True)
class Run(OperationBase):
    """Run a local script or program in the guest.

    SCRIPT is copied into the guest, run there as root, and removed. Its #! line decides what runs it, so
    that any language of the guest, and programs, work; without one it is the guest's /bin/sh. What it
    prints goes to the log file in the guest, and its end is shown when it fails.

    Attributes:
        script: The local file.
    """

    script: Path = field(metadata={"rule": local_script})

    def describe(self) -> str:
        """Return the progress text."""
        return f"Running: {self.script}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Copy, run and remove the script."""
        program = interpreter(self.script)
        if program is not None and not guest.exists(program):
            raise OperationError(
                f"--run {self.script}: its interpreter {program} is not in the guest",
                hint="install it with --install before this option, or correct the first line of the script",
            )
        with private_folder(guest, "/tmp", "/var/tmp", "/root") as folder:  # noqa: S108 - in the guest
            name = self.script.name if _PLAIN_NAME.fullmatch(self.script.name) else "script"
            path = f"{folder}/{name}"
            guest.upload(self.script, path)
            guest.chmod(0o755, path)
            run_in_guest(
                guest, context, shlex.quote(path), display=f"--run {self.script}", hint=_run_hint(context)
            )


@operation("run-command", form=argforms.single("CMD+ARGS"), runs_in_guest=True)
@dataclass(frozen=True)
class RunCommand(OperationBase):
    """Run a command in the guest.

    The text is run by the guest's /bin/sh as root. What it prints goes to the log file in the guest, and
    its end is shown when it fails. A text of several lines stops at the first line that fails, as with
    "set -e"; in a text of one line, the last command's exit status counts.

    Attributes:
        command: Text for the shell; may have several lines.
    """

    command: str = field(metadata=values.NOT_EMPTY)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Running: {values.first_line(self.command)}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Run the command."""
        display = f"--run-command {shlex.quote(values.first_line(self.command))}"
        # One line keeps virt-builder's meaning: "grep -q x f; true" succeeds there.
        script = f"set -e\n{self.command}" if "\n" in self.command.strip() else self.command
        run_in_guest(guest, context, script, display=display, hint=_run_hint(context))


@operation("edit", form=argforms.pair("FILE", "EXPR"))
@dataclass(frozen=True)
class Edit(OperationBase):
    """Edit a file of the guest with a Perl expression.

    EXPR is evaluated once per line of the file, by the perl of this host and with your rights: $_ is the
    line with its newline, and $lineno its number. What $_ then holds is written; an empty one removes the
    line, and what EXPR prints comes before it. The file must exist, and keeps its owner, permissions and
    labels. When EXPR fails, the file stays as it was.

    Attributes:
        path: The file in the guest.
        expression: The expression.
    """

    path: str = field(metadata=values.GUEST_PATH)
    expression: str = field(metadata=values.RAW_TEXT)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Editing: {self.path}"

    def check_host(self) -> None:
        """Check that this host has perl."""
        process.require_program("perl")

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Edit the file."""
        require_file(guest, self.path, self)
        content = guest.read(self.path, limit=_LARGEST_EDITED)
        # The expression goes by the environment, where other users cannot read it; modules that the user's
        # PERL5OPT loads, such as strict, would change what it means.
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


@operation("firstboot", form=argforms.single(argforms.local("SCRIPT")))
@dataclass(frozen=True)
class Firstboot(OperationBase):
    """Install a local script that runs at the guest's first boot.

    It runs once, as root, late in the boot and when the network is up; several run in the order in which
    they are given, and one that fails does not stop the next. What it prints, and its exit status, go to
    /root/virt-sysprep-firstboot.log in the guest and to its console; exit codes and times are also in
    /var/lib/pybuilder/firstboot-status, and pybuilder(1) can show both from outside. The guest need not be
    of this host's architecture.

    Attributes:
        script: The local file.
    """

    script: Path = field(metadata={"rule": local_script})

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot script: {self.script}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install the script."""
        try:
            with open_file(self.script) as file:
                content = file.read()
        except OSError as error:
            raise UsageError(f"--firstboot: {self.script} cannot be read: {error.strerror}") from error
        program = interpreter(self.script)
        if program is not None and not guest.exists(program):
            warn(
                context.on_event,
                f"--firstboot {self.script}: its interpreter {program} is not in the guest, and is needed "
                "when it boots",
            )
        install_firstboot(guest, context, str(self.script), content)


@operation("firstboot-command", form=argforms.single("CMD+ARGS"))
@dataclass(frozen=True)
class FirstbootCommand(OperationBase):
    """Run a command at the guest's first boot.

    The text is run by the guest's /bin/sh; see --firstboot.

    Attributes:
        command: Text for the shell; may have several lines.
    """

    command: str = field(metadata=values.NOT_EMPTY)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot command: {values.first_line(self.command)}"

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install the command as a script."""
        install_firstboot(guest, context, self.command, f"{self.command}\n".encode())


@operation("firstboot-install", form=argforms.items("PKG,PKG..."))
@dataclass(frozen=True)
class FirstbootInstall(OperationBase):
    """Install packages at the guest's first boot.

    They come over the guest's own network, and not during the build; see --firstboot and --install.

    Attributes:
        packages: Names of packages.
    """

    packages: tuple[str, ...] = field(metadata=values.PACKAGES)

    def describe(self) -> str:
        """Return the progress text."""
        return f"Installing firstboot packages: {' '.join(self.packages)}"

    def check_guest(self, context: GuestContext) -> None:
        """Check that the package manager is known and takes the names."""
        packages.install_script(context.facts, self.packages)

    def apply(self, guest: Guest, context: GuestContext) -> None:
        """Install a script with the package manager's command."""
        script = "#!/bin/sh\n" + packages.install_script(context.facts, self.packages, at_boot=True)
        install_firstboot(guest, context, f"install {' '.join(self.packages)}", script.encode())
