"""Starts an appliance: chooses the accelerator, resumes or boots it, and explains a failed start."""

from __future__ import annotations

import hashlib
import os
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from imgbuilder.appliance.accelerator import (
    KvmVerdict,
    announce,
    chosen_accelerator,
    emulation_forced,
    hypervisor_name,
    remember_broken,
)
from imgbuilder.appliance.binding import Binding, find_binding
from imgbuilder.appliance.connection import LONG, Connection, is_utf8
from imgbuilder.appliance.guestcommands import GuestCommands
from imgbuilder.appliance.instant.resume import PROGRAM, Instant, Job
from imgbuilder.appliance.instant.store import InstantMode, StateStore, instant_mode, state_folder
from imgbuilder.appliance.options import ApplianceOptions, Attachment
from imgbuilder.appliance.storage import ScsiAddress, Storage, hide_script, read_places, show_script
from imgbuilder.appliance.windows import WindowsCalls
from imgbuilder.errors import (
    ApplianceError,
    ApplianceSilentError,
    GuestCallError,
    GuestError,
    UsageError,
)
from imgbuilder.events import Reporter, debug, ignore
from imgbuilder.host import imagelocks, paths, privatefolder, process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import private_folder, scratch_folder

_KVM_LIMIT = 30.0
"""Seconds of silence after which an appliance under KVM counts as hung."""
_EMULATION_LIMIT = 600.0
"""The same under emulation, where a slow host's kernel is silent for long."""
_SHOWN_LINES = 15
"""Lines of the appliance's console that the error of a failed start quotes."""

_SECTOR = 512
"""Bytes per sector of nearly all disks; libguestfs's default."""


@contextmanager
def open_appliance(
    disks: Sequence[Attachment], options: ApplianceOptions | None = None, on_event: Reporter = ignore
) -> Iterator[LibguestfsAppliance]:
    """Start an appliance with disks; it always ends with the block.

    Data is safe on the disks only after ``shutdown()`` has returned without an error.

    Args:
        disks: The disks in order; the first is ``/dev/sda``. Attached disks are hidden until
            ``show_attached()``.
        options: Options of the appliance.
        on_event: Called with notices and debug lines.

    Raises:
        ApplianceError: It cannot be started, or died; the hint says what to try.
        DiskError: A running machine or another program uses one of the disks.
    """
    options = options or ApplianceOptions()
    for disk in disks:
        assert disk.format is not None, "libguestfs must not probe it"
        imagelocks.refuse_if_locked(disk.path, changing=not disk.readonly)
        for path in disk.backing:
            imagelocks.refuse_if_locked(path, changing=False)
    binding = find_binding()
    verdict = chosen_accelerator(paths.state_dir(), on_event)
    with private_folder() as runtime, scratch_folder() as scratch:
        folders = _Folders(runtime, scratch)
        try:
            connection = _start(binding, folders, disks, options, verdict, on_event)
        except ApplianceError as error:
            if not verdict.usable or emulation_forced():
                raise
            verdict = remember_broken(paths.state_dir(), error.message)
            announce(verdict, on_event)
            connection = _start(binding, folders, disks, options, verdict, on_event)
        try:
            attached = [place for place, disk in enumerate(disks) if disk.attached]
            appliance = LibguestfsAppliance(connection, scratch, attached)
            appliance.hide_attached()
            yield appliance
        finally:
            with uninterrupted():
                connection.close()


class _Folders(NamedTuple):
    """Private folders of one appliance.

    Attributes:
        runtime: A folder with a short path, for sockets and small files.
        scratch: A folder with room, in the user's folder for temporary files.
    """

    runtime: Path
    scratch: Path

    @property
    def programs(self) -> Path | None:
        """The folder in which a script can be run; None if both are mounted noexec."""
        return next((path for path in self if not os.statvfs(path).f_flag & os.ST_NOEXEC), None)


def _start(
    binding: Binding,
    folders: _Folders,
    disks: Sequence[Attachment],
    options: ApplianceOptions,
    verdict: KvmVerdict,
    on_event: Reporter,
) -> Connection:
    resumed = _resume(binding, folders, disks, options, verdict, on_event)
    if resumed is not None:
        return resumed
    return _launch(binding.interpreter, folders, disks, options, verdict, on_event)


def _resume(
    binding: Binding,
    folders: _Folders,
    disks: Sequence[Attachment],
    options: ApplianceOptions,
    verdict: KvmVerdict,
    on_event: Reporter,
) -> Connection | None:
    """Resume the appliance from its saved state; None if it has to be booted."""
    mode = instant_mode()
    program = _hypervisor_program()
    if not options.instant or mode is InstantMode.NEVER or program is None:
        return None
    if folders.programs is None:
        debug(on_event, f"the appliance is booted: {folders.runtime} and {folders.scratch} are noexec")
        return None
    if verdict.usable and mode is not InstantMode.ALWAYS:
        return None
    try:
        store = StateStore(state_folder(options.cache))
    except UsageError as error:
        debug(on_event, f"the appliance is booted: {error.message}")
        return None

    def launch(wanted: Sequence[Attachment], job: Job) -> Connection:
        return _launch(binding.interpreter, folders, wanted, options, verdict, on_event, job=job)

    return Instant(store, folders.runtime, program, binding.version, launch, on_event).open(disks)


def _hypervisor_program() -> str | None:
    return process.find_program(os.environ.get("LIBGUESTFS_HV") or hypervisor_name())


def _hypervisor(folders: _Folders, interpreter: Path, worker: int, job: Job | None) -> Path | None:
    """Write a wrapper that lets the kernel end the hypervisor with the worker (docs/threat-model.md, F16).

    The worker itself starts the machine. A query of the capabilities may have a shell between.

    It also claims the folder of root's sockets (``imgbuilder.host.privatefolder``).

    With a job, the command that starts the machine goes to the program that may resume it instead. All other
    commands only query the hypervisor's capabilities.

    Returns:
        The wrapper; None where no wrapper can run: libguestfs then starts the hypervisor itself.
    """
    program = _hypervisor_program()
    if program is None or process.find_program("setpriv") is None or folders.programs is None:
        return None
    wrapper = folders.programs / "hypervisor"
    *starter, _parent = process.bound_to(worker)
    machine = '" $* " in *" -kernel "*)'
    text = (
        f"#!/bin/sh\n{_list_socket_dirs(folders.runtime)}"
        # Padded, because libguestfs knows the wrapper by its size.
        f"parent=$PPID; case {machine} parent={worker:<10} ;; esac\n"
        f'set -- {shlex.join(starter)} "$parent" {shlex.quote(program)} "$@"\n'
    )
    if job is not None:
        words = shlex.join(map(str, [interpreter, *PROGRAM, job.file]))
        text += f'case {machine} exec {words} "$@";; esac\n'
    wrapper.write_text(f'{text}exec "$@"\n')
    wrapper.chmod(0o700)
    _keep_answers(wrapper, program)
    return wrapper


def _list_socket_dirs(runtime: Path) -> str:
    """Return shell code that lists the folder of the sockets in the hypervisor's arguments."""
    listed = shlex.quote(str(runtime / privatefolder.LIST))
    return (
        f"for word; do case $word in *path={privatefolder.SHORT}/libguestfs??????/guestfsd.sock*)\n"
        "word=${word#*path=}\n"
        f"printf '%s\\n' \"${{word%%/guestfsd.sock*}}\" >>{listed};;\n"
        "esac; done\n"
    )


def _keep_answers(wrapper: Path, program: str) -> None:
    """Set the wrapper's time by the hypervisor, so that libguestfs reuses its cache of capabilities.

    libguestfs names the cache's files by the size and the time of the program, and never removes them.
    """
    facts = Path(program).stat()
    key = f"{program} {facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_ino}"
    moment = int(hashlib.sha256(key.encode()).hexdigest()[:7], 16) + 1_000_000_000
    os.utime(wrapper, (moment, moment))


def _launch(
    interpreter: Path,
    folders: _Folders,
    disks: Sequence[Attachment],
    options: ApplianceOptions,
    verdict: KvmVerdict,
    on_event: Reporter,
    *,
    job: Job | None = None,
) -> Connection:
    check_build_folder(os.environ)
    connection = Connection(interpreter, folders.runtime, on_event)
    try:
        hypervisor = _hypervisor(folders, interpreter, connection.worker, job)
        if hypervisor is not None:
            connection.call("set_hv", str(hypervisor))
        connection.call("set_backend", "direct")
        if not verdict.usable:
            connection.call("set_backend_setting", "force_tcg", "1")
        if options.memsize is not None:
            connection.call("set_memsize", options.memsize)
        if options.smp is not None:
            connection.call("set_smp", options.smp)
        connection.call("set_network", options.network)
        connection.call("set_verbose", options.verbose)
        connection.call("set_trace", options.trace)
        # By default qemu silently halts the machine when the host's disk is full.
        connection.call("config", "-global", "scsi-hd.werror=report")
        for number, disk in enumerate(disks):
            # One fsync at the end makes the output durable, so the hypervisor need not flush.
            caching: dict[str, Any] = (
                {} if disk.readonly else {"cachemode": "unsafe", "discard": "besteffort"}
            )
            if disk.sector_size != _SECTOR:
                caching["blocksize"] = disk.sector_size
            name = _plain_name(disk.path, folders.runtime / f"disk{number}")
            connection.call(
                "add_drive_opts", str(name), format=str(disk.format), readonly=disk.readonly, **caching
            )
        limit = options.launch_timeout or (_KVM_LIMIT if verdict.usable else _EMULATION_LIMIT)
        connection.call("launch", limit=limit, console=True)
        connection.watch_hypervisor()
    except (GuestCallError, ApplianceError) as error:
        with uninterrupted():
            failure = _launch_failure(error, connection.console_tail())
            connection.close()
        raise failure from error
    except BaseException:
        with uninterrupted():
            connection.close()
        raise
    return connection


def _plain_name(path: Path, link: Path) -> Path:
    """Return the path, or a link to it where libguestfs refuses the path: with a colon, or not UTF-8."""
    absolute = path.absolute()
    if ":" not in str(absolute) and is_utf8(absolute):
        return absolute
    link.symlink_to(absolute)
    return link


def _launch_failure(error: GuestError, console: str) -> ApplianceError:
    """Return the error of a failed start, with the last console lines and advice."""
    lines = [line for line in console.split("\n") if line.strip()][-_SHOWN_LINES:]
    message = f"the appliance could not be started: {error.message}"
    if lines:
        message += "\nits last output:\n" + "\n".join(f"  {line}" for line in lines)
    advice = "run: pybuilder doctor; if that finds nothing, add -v -x, or run: libguestfs-test-tool"
    if isinstance(error, ApplianceSilentError):
        advice = f"on a slow machine, wait longer: --launch-timeout SECONDS; otherwise {advice}"
    return ApplianceError(message, hint=advice)


_LIMIT = 300.0
"""Seconds without an answer while disks are hidden or shown: the appliance scans for all volumes."""


class LibguestfsAppliance(GuestCommands, Storage, WindowsCalls):
    """A launched appliance. Made by ``open_appliance``."""

    def __init__(self, connection: Connection, scratch: Path, attached: Sequence[int] = ()) -> None:
        super().__init__(connection, scratch)
        self._attached = tuple(attached)
        self._hidden: list[ScsiAddress] = []

    def hide_attached(self) -> None:
        if self._attached and not self._hidden:
            text = self._arrange(hide_script(self._attached))
            self._hidden = read_places(text, len(self._attached))

    def show_attached(self) -> None:
        if self._hidden:
            self._arrange(show_script(self._hidden))
            self._hidden = []

    def _arrange(self, script: str) -> str:
        try:
            return str(self._call("debug", "sh", [script], limit=_LIMIT))
        except ApplianceError:
            raise
        except GuestError as error:
            raise GuestError(
                f"attached disks cannot be hidden: {error.message}",
                hint="nothing was changed; try without --attach",
            ) from error

    def shutdown(self) -> None:
        self._call("umount_all", limit=LONG)  # data in memory is written now, or lost
        lost = self.lost_writes()
        if lost is not None:
            raise GuestError(
                f"not everything that the guest wrote reached the image: {lost}",
                hint="check the host's disk that holds the image",
            )
        self._call("shutdown", limit=LONG)


VARIABLE = "LIBGUESTFS_CACHEDIR"


def check_build_folder(environ: Mapping[str, str]) -> None:
    """Refuse a folder for libguestfs's appliance that it cannot or must not use.

    libguestfs itself ignores a wrong LIBGUESTFS_CACHEDIR silently and uses the default; for another user's
    appliance it only reports that it is "not owned".
    """
    chosen = environ.get(VARIABLE)
    if not chosen or environ.get("LIBGUESTFS_PATH"):  # the latter is a ready appliance
        return
    folder = Path(chosen)
    hint = f"choose another folder: {VARIABLE}=DIR, or unset it to use /var/tmp"
    if not folder.is_dir():
        raise ApplianceError(f"{VARIABLE} is {folder}, which is not a folder", hint=hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ApplianceError(f"{VARIABLE} is {folder}, which is not writable", hint=hint)
    built = folder / f".guestfs-{os.geteuid()}"
    try:
        facts = built.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise ApplianceError(
            f"{built}, where the appliance is kept, belongs to another user (uid {facts.st_uid})",
            hint=f"do not trust it; {hint}",
        )
