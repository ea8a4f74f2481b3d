"""A storage pool of libvirt, through virsh, which also reaches other machines: ``qemu+ssh://...``.

A volume cannot be renamed. So a new one is uploaded under its own name and deleted if that fails, and one
that replaces another is uploaded next to it and copied by libvirt at the end.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from imgbuilder.disk import partition
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.errors import PybuilderError, UploadError
from imgbuilder.events import Reporter, Step
from imgbuilder.host import process, sparse
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.text import one_line
from imgbuilder.machine.libvirt import Setting, libvirt_xml
from imgbuilder.machine.model import Machine, firmware_of
from imgbuilder.outputs.store import Domain, Image, Remote
from imgbuilder.sizes import human_size

_PATIENCE = 60
"""Seconds in which libvirt has to answer a question."""
_NEW = ".pybuilder-new"
"""End of the name of a volume that is to replace another one."""
_HINTS = {
    "Storage pool not found": "see its pools with: virsh pool-list --all",
    "is not active": "start it with: virsh pool-start POOL",
    "failed to connect": "check that libvirt runs there, and that you may use it; name another one by server",
    "Network not found": "name one of: virsh net-list --all",
}


class LibvirtPool:
    """Implements ``Store`` by a pool; what it holds is asked once."""

    def __init__(self, remote: Remote) -> None:
        process.require_program("virsh")
        self._pool, self._server = remote.holder, remote.server
        self._where = f"libvirt:{remote.holder}" + (f" at {remote.server}" if remote.server else "")

    def found(self, names: Collection[str]) -> set[str]:
        """See ``Store.found``."""
        return self._volumes & set(names)

    def check(self, remote: Remote, *, ours: bool) -> None:
        """See ``Store.check``."""
        name, domain = remote.name, remote.domain
        if name in self._volumes:
            if not ours:
                raise self._foreign(f"{remote} is there already", f"vol-delete {name} --pool {self._pool}")
            path = self._virsh("vol-path", name, "--pool", self._pool).strip()
            if path in self._used:
                raise self._running(
                    f"{remote} is the disk of {self._used[path]}, which runs", self._used[path]
                )
        if domain is not None and domain.name in self._domains:
            if not ours:
                raise self._foreign(f"libvirt has a machine {domain.name}", f"undefine {domain.name}")
            if domain.name in self._active:
                raise self._running(f"the machine {domain.name} runs", domain.name)

    def _foreign(self, what: str, command: str) -> UploadError:
        return UploadError(
            f"{what}, and this fleet has not made it",
            hint=f"remove it ({self._command(command)}), or choose another output",
        )

    def _running(self, what: str, domain: str) -> UploadError:
        return UploadError(what, hint=f"shut it down first: {self._command(f'shutdown {domain}')}")

    def _command(self, words: str) -> str:
        return f"virsh {f'-c {shlex.quote(self._server)} ' if self._server else ''}{words}"

    @cached_property
    def _volumes(self) -> set[str]:
        # The first column is filled with blanks; our own names have none.
        lines = self._virsh("vol-list", self._pool).splitlines()
        return {re.split(" {2,}", line.strip())[0] for line in lines}

    @cached_property
    def _domains(self) -> set[str]:
        return set(self._virsh("list", "--all", "--name").splitlines())

    @cached_property
    def _active(self) -> set[str]:
        return set(self._virsh("list", "--name").splitlines())

    @cached_property
    def _used(self) -> dict[str, str]:
        """The machine that runs from each file."""
        found, domain = {}, ""
        for line in self._virsh("domstats", "--block", "--list-active").splitlines():
            if (match := re.fullmatch(r"Domain: '(.*)'", line)) is not None:
                domain = match[1]
            elif (match := re.fullmatch(r" *block\.[0-9]+\.path=(.*)", line)) is not None:
                found[match[1]] = domain
        return found

    def put(self, image: Image, remote: Remote, on_event: Reporter) -> None:
        """See ``Store.put``."""
        self._check_space(image)
        name, new = remote.name, f"{remote.name}{_NEW}"
        there = self.found({name, new})
        if new in there:  # of an upload that was killed
            self._virsh("vol-delete", new, "--pool", self._pool)
        on_event(Step(f"Uploading {name} to {self._where}"))
        if name not in there:
            with self._uploaded(image, name):
                pass
        else:
            with self._uploaded(image, new):
                on_event(Step(f"Replacing {name}"))
                with uninterrupted():  # the old one is gone, and the new one not yet there
                    self._virsh("vol-delete", name, "--pool", self._pool)
                    self._virsh("vol-clone", new, name, "--pool", self._pool, patience=None)
            self._virsh("vol-delete", new, "--pool", self._pool)
        if remote.domain is not None:
            self._define(image, remote.domain, name, on_event)

    def _check_space(self, image: Image) -> None:
        found = re.search(
            r"^Available: +([0-9]+)$", self._virsh("pool-info", self._pool, "--bytes"), re.MULTILINE
        )
        needed = sparse.disk_usage(image.path)
        if found is not None and int(found[1]) < needed:
            left = human_size(int(found[1]))
            raise UploadError(
                f"{self._where} has {left} left, and the image takes {human_size(needed)}",
                hint="delete volumes that are no longer needed, or choose another pool",
            )

    @contextlib.contextmanager
    def _uploaded(self, image: Image, name: str) -> Iterator[None]:
        """Upload a volume; it is deleted if that, or the block, does not come to its end."""
        working = image.format.working
        assert working is not None
        size = str(partition.virtual_size(image.path, working))
        words = ["--sparse"] if working is DiskFormat.RAW else []  # a qcow2 file has hardly any holes
        options = ("--allocation", "0", "--format", working.value)
        created = False  # one that another process has made meanwhile is not ours to delete
        try:
            with uninterrupted():
                self._virsh("vol-create-as", self._pool, name, size, *options)
                created = True
            file = str(image.path.absolute())
            self._virsh("vol-upload", name, file, "--pool", self._pool, *words, patience=None)
            yield
        except BaseException:
            if created:
                with uninterrupted(), contextlib.suppress(PybuilderError):  # the next run deletes it
                    self._virsh("vol-delete", name, "--pool", self._pool)
            raise

    def _define(self, image: Image, domain: Domain, volume: str, on_event: Reporter) -> None:
        working = image.format.working
        assert working is not None
        on_event(Step(f"Defining the machine {domain.name}"))
        machine = Machine(
            domain.name, Path(volume), image.format, image.arch, firmware_of(image.path, working, image.arch),
            domain.memory, domain.processors,
        )  # fmt: skip
        uuid = ""
        if domain.name in self._domains:
            uuid = self._virsh("domuuid", domain.name).strip()
        own = urlsplit(self._virsh("uri").strip()).path == "/session"  # a user's libvirt has no networks
        setting = Setting(self._pool, "" if own else domain.network, domain.mac, uuid)
        text = libvirt_xml(machine, kvm=self._has_kvm(image.arch), setting=setting)
        self._virsh("define", process.STDIN, stdin=text)
        if domain.start:
            on_event(Step(f"Starting the machine {domain.name}"))
            self._virsh("start", domain.name)

    def _has_kvm(self, arch: str) -> bool:
        """Return whether the machine there has KVM for an architecture."""
        try:
            self._virsh("domcapabilities", "--virttype", "kvm", "--arch", arch)
        except UploadError:
            return False
        return True

    def _virsh(self, *words: str, patience: float | None = _PATIENCE, stdin: str = "") -> str:
        """Run a command of virsh and return its output."""
        server = ["-c", self._server] if self._server else []
        # They may name a user, so that other programs do not get them.
        own = {name: value for name, value in os.environ.items() if name.startswith("LIBVIRT_")}
        done = process.run(
            ["virsh", "--quiet", *server, *words],
            check=False,
            env=own,
            timeout=patience,
            stdin=stdin.encode(),
        )
        if done.status == 0:
            return done.stdout.decode(errors="replace")
        lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
        said = one_line("; ".join(lines) or f"virsh ended with status {done.status}", 300)
        hint = next((hint for words_, hint in _HINTS.items() if words_ in done.stderr), None)
        raise UploadError(f"{self._where}: {said}", hint=hint and hint.replace("POOL", self._pool))
