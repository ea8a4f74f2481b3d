"""The parent's side of the worker process: calls, time limits, and its end.

``Calls`` is the base of the parts of the appliance's handle. libguestfs resolves most paths inside the guest,
but not all: ``cp_a``, ``mv``, ``ln_s``, ``rm_rf`` and ``tar_in`` build a path of the appliance, where an
absolute link in the guest leads out of the guest and data is lost without an error. So their arguments are
resolved inside the guest first, by ``realpath``, and a destination must not be a link.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import posixpath
import select
import socket
import stat
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from imgbuilder.appliance.worker import HEADER, LARGEST_FRAME, pack, unpack
from imgbuilder.errors import ApplianceError, ApplianceSilentError, GuestCallError, GuestError
from imgbuilder.events import Progress, ProgressEnd, Reporter, debug
from imgbuilder.host import privatefolder, process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.process import Popen

_LONGEST_REFUSAL = 4000
"""Characters of an error that are kept: it may quote the output of a program in the guest."""
_LONGEST_LINE = 4096
_KEPT_LINES = 60
"""Lines of the appliance's console that an error can quote."""
_DEATH_LIMIT = 5.0
"""Seconds to wait for the end of a killed hypervisor; it takes some milliseconds."""
_GONE = (
    "appliance closed the connection",
    "unexpected end of file",
    "call launch before",
    "handle is closed",
    "/hypervisor killed by signal",
    "/hypervisor exited with",
    "/hypervisor stopped by signal",
)

_MOST_STDERR = 1 << 20
"""Bytes that a worker can write to its standard error: one that an image has taken over may write forever."""
_QUOTED_STDERR = 2000

WORKER = Path(__file__).with_name("worker.py")


def _after(limit: float | None) -> float | None:
    return None if limit is None else time.monotonic() + limit


def _bounded_file() -> int:
    """Make a file in memory that cannot grow: what a process writes beyond its size fails."""
    descriptor = os.memfd_create("worker.err", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, _MOST_STDERR)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


class Connection:
    """A worker process that holds one libguestfs handle, or answers as one.

    Args:
        interpreter: The Python that can load libguestfs.
        runtime: Private folder with a short path, for the worker's sockets and temporary files.
        on_event: Called with debug lines and the progress of long transfers.
        program: The interpreter's arguments; the number of the worker's socket is added.
        inherited: Further descriptors for the worker.
    """

    def __init__(
        self,
        interpreter: Path,
        runtime: Path,
        on_event: Reporter,
        *,
        program: Sequence[str | Path] = ("-I", WORKER),
        inherited: Sequence[int] = (),
    ) -> None:
        self._report = on_event
        self._runtime = runtime
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self._partial = ""
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._stderr = _bounded_file()
        self._process: Popen[bytes] | None = None
        self._hypervisor: int | None = None
        self._stopped: BaseException | None = None
        try:
            with uninterrupted():
                self._process = process.start(
                    [*process.bound_to(os.getpid()), interpreter, *program, str(theirs.fileno())],
                    stderr=self._stderr,
                    pass_fds=[theirs.fileno(), *inherited],
                    env={
                        "LIBGUESTFS_TMPDIR": str(runtime),
                        "XDG_RUNTIME_DIR": str(runtime),
                        "LC_ALL": "C.UTF-8",
                        "TERM": "linux",  # a part of the appliance's command line, so of its saved state
                    },
                )
            theirs.close()
            self._answer(limit=60.0, console=False, label=None)
        except GuestCallError as error:
            self.close()
            raise ApplianceError(error.message, hint=error.hint) from error
        except BaseException:
            with uninterrupted():
                theirs.close()
                self.close()
            raise

    def call(
        self,
        method: str,
        *args: Any,
        limit: float | None = 600.0,
        console: bool = False,
        most: int | None = None,
        label: str | None = None,
        **kwargs: Any,
    ) -> Any:  # noqa: ANN401
        """Call a method of the libguestfs handle.

        Args:
            method: Its name in the Python binding.
            args: Its positional arguments.
            limit: Seconds without a sign of life until the appliance counts as hung; None for no limit.
            console: Whether console output counts as a sign of life. It does during a start; later a program
                in the guest may print forever.
            most: Most bytes of a file on this host that the call may write; None for no limit.
            label: Name of the transfer in progress reports; None for no reports.
            kwargs: Its optional arguments.

        Raises:
            GuestCallError: libguestfs refused or failed.
            ApplianceError: The appliance died or did not answer in time, and was ended.
            Interrupted: A signal came before the answer, in this call or an earlier one. The connection is
                closed, because the next call would get the answer of this one.
        """
        if self._stopped is not None:
            raise self._stopped  # an error of the appliance would hide it from the caller's cleanup
        frame = pack({"method": method, "args": args, "kwargs": kwargs, "most": most})
        try:
            try:
                self._socket.settimeout(60.0)
                self._socket.sendall(frame)
            except OSError as error:
                raise self._death() from error
            return self._answer(limit=limit, console=console, label=label)
        except GuestError:
            raise  # the answer was complete, or the connection is closed already
        except BaseException as error:
            self._stopped = error
            with uninterrupted():
                self.close()
            raise

    @property
    def worker(self) -> int:
        """The number of the worker process."""
        assert self._process is not None
        return self._process.pid

    def console_tail(self) -> str:
        """Return the last lines that the appliance's console and libguestfs printed."""
        return "\n".join([*self._lines, self._partial] if self._partial else self._lines)

    def watch_hypervisor(self) -> None:
        """Look up the hypervisor's process, so that ``close`` can wait for its end."""
        number = self.call("get_pid")
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                self._hypervisor = os.pidfd_open(number)

    def close(self) -> None:
        """End the worker and everything that it started."""
        self._socket.close()
        if self._process is not None:
            privatefolder.add_socket_dirs(self._runtime, self._process.pid)
            process.end_group(self._process)
        if self._hypervisor is not None:
            # It ends shortly after the worker, and until then the disks are in use.
            ended = select.poll()
            ended.register(self._hypervisor, select.POLLIN)
            ended.poll(_DEATH_LIMIT * 1000)
            os.close(self._hypervisor)
            self._hypervisor = None
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1

    def _answer(self, *, limit: float | None, console: bool, label: str | None) -> Any:  # noqa: ANN401
        moving = False
        deadline = _after(limit)
        try:
            while True:
                message = self._receive(deadline, limit)
                if "log" in message:
                    self._log(str(message["log"]))
                    deadline = _after(limit) if console else deadline
                elif "progress" in message:
                    deadline = _after(limit)
                    if label is not None:
                        moving = True
                        done, total = message["progress"]
                        self._report(Progress(label, done, total))
                elif "error" in message:
                    raise self._refusal(message)
                elif "result" in message:
                    return message["result"]
                else:
                    raise self._nonsense()
        finally:
            if moving:
                self._report(ProgressEnd())

    def _nonsense(self) -> ApplianceError:
        self.close()
        return ApplianceError("the appliance's worker sent an answer that is not understood")

    def _refusal(self, message: dict[str, Any]) -> GuestCallError | ApplianceError:
        text = str(message["error"]).encode(errors="replace").decode().strip()
        if len(text) > _LONGEST_REFUSAL:
            text = f"{text[: _LONGEST_REFUSAL // 2]} [...] {text[-_LONGEST_REFUSAL // 2 :]}"
        if any(sign in text for sign in _GONE):
            return ApplianceError(f"the appliance ended unexpectedly: {text}")
        return GuestCallError(text, errno_name=str(message.get("errno", "")))

    def _receive(self, deadline: float | None, limit: float | None) -> dict[str, Any]:
        body_size, raw_size = HEADER.unpack(self._exactly(HEADER.size, deadline, limit))
        if body_size + raw_size > LARGEST_FRAME:
            self.close()
            raise ApplianceError(f"the appliance's worker sent {body_size + raw_size} bytes in one answer")
        body = self._exactly(body_size, deadline, limit)
        try:
            return unpack(body, self._exactly(raw_size, deadline, limit))
        except ValueError as error:
            raise self._nonsense() from error

    def _exactly(self, size: int, deadline: float | None, limit: float | None) -> bytes:
        pieces = []
        while size:
            # A limit of 0 would make the socket non-blocking instead of late.
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            try:
                self._socket.settimeout(left)
                piece = self._socket.recv(min(size, 1 << 20))
            except TimeoutError as error:
                self.close()
                raise ApplianceSilentError(
                    f"the appliance gave no sign of life for {limit:.0f} seconds"
                ) from error
            except OSError as error:
                raise self._death() from error
            if not piece:
                raise self._death()
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def _death(self) -> ApplianceError:
        text = ""
        if self._stderr >= 0:
            end = min(os.lseek(self._stderr, 0, os.SEEK_CUR), _MOST_STDERR)  # the worker's position is ours
            shown = os.pread(self._stderr, _QUOTED_STDERR, max(0, end - _QUOTED_STDERR))
            text = shown.decode(errors="replace").strip("\0 \n")
        self.close()
        return ApplianceError(
            "the appliance's worker process ended unexpectedly" + (f": {text}" if text else "")
        )

    def _log(self, text: str) -> None:
        """Split console output into lines; keep the last ones, and report all as debug lines."""
        *lines, self._partial = (self._partial + text.replace("\r", "")).split("\n")
        for line in lines:
            self._lines.append(line[:_LONGEST_LINE])
            debug(self._report, line[:_LONGEST_LINE])
        if len(self._partial) > _LONGEST_LINE:  # a line without end
            self._lines.append(self._partial[:_LONGEST_LINE])
            self._partial = ""


LISTING = 4 * 1024 * 1024
"""Most bytes of a file on this host that a call may write: libguestfs fetches lists of names in files."""
LONG = 3600.0
"""Seconds without progress for calls that move or check whole filesystems."""
_NOWHERE = {"ENOENT", "ENOTDIR", "ELOOP"}
"""Errors of a path at which nothing is."""


def is_utf8(path: Path | str) -> bool:
    """Return whether a path of this host is UTF-8; libguestfs's binding accepts no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


class Calls:
    """Requests to a launched appliance."""

    def __init__(self, connection: Connection, scratch: Path) -> None:
        self._connection = connection
        self._scratch = scratch

    def _call(self, method: str, *args: Any, most: int = LISTING, **kwargs: Any) -> Any:  # noqa: ANN401 - as the binding returns it
        return self._connection.call(method, *args, most=most, **kwargs)

    def _local(self, path: Path) -> str:
        """Return a path of a local file that the binding accepts: the path itself, or a link to it."""
        if is_utf8(path):
            return str(path)
        link = self._scratch / f"link-{uuid.uuid4().hex}"  # removed with the folder
        link.symlink_to(path.absolute())
        return str(link)

    # Paths

    def _resolve(self, path: str) -> str:
        """Resolve an existing path completely."""
        return str(self._call("realpath", path))

    def _resolve_parent(self, path: str) -> str:
        """Resolve all but the last part, so that the path can name a link."""
        parent, name = posixpath.split(posixpath.normpath(path))
        if not name:
            return "/"
        return posixpath.join(self._resolve(parent), name)

    def _mode(self, path: str, *, follow: bool = True) -> int:
        """Return the type and mode of a file; 0 if the path leads nowhere."""
        # libguestfs's is_file, is_dir and is_symlink start a process each, and take five times as long.
        try:
            return int(self._call("statns" if follow else "lstatns", path)["st_mode"])
        except GuestCallError as error:
            if error.errno_name not in _NOWHERE:
                raise
            return 0

    def is_dir(self, path: str) -> bool:
        return stat.S_ISDIR(self._mode(path))

    def supports(self, *features: str) -> bool:
        return bool(self._call("feature_available", list(features)))
