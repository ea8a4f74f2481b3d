"""A libvirt of the user who runs the tests, with a pool that is a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_NOBODY = 65534


@dataclass(frozen=True)
class Libvirt:
    """Its URI, and the folder of its pool, which is called ``images``."""

    server: str
    pool: Path

    def __call__(self, *words: str) -> str:
        """Run virsh."""
        command = ["virsh", "-q", "-c", self.server, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def volumes(self) -> set[str]:
        """Return the names of the volumes."""
        return {line.split()[0] for line in self("vol-list", "images").splitlines() if line.strip()}


@contextmanager
def user_libvirt() -> Iterator[Libvirt]:
    """Start it, as an ordinary user also if root runs the tests, and end it with its machines.

    The test is skipped where it is not installed.
    """
    program = shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None or shutil.which("virsh") is None:
        pytest.skip("libvirtd (libvirt-daemon) or virsh (libvirt-clients) is not installed")
    folder = Path(tempfile.mkdtemp(prefix="libvirt-"))  # its sockets have short names
    words = [program]
    if os.geteuid() == 0:
        os.chown(folder, _NOBODY, _NOBODY)
        words = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", *words]
    homes = {f"XDG_{name}": str(folder) for name in ("RUNTIME_DIR", "CONFIG_HOME", "CACHE_HOME", "DATA_HOME")}
    log = (folder / "log").open("wb")
    with log, subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, **homes}) as daemon:
        try:
            socket = folder / "libvirt/libvirt-sock"
            while not socket.exists() and daemon.poll() is None:
                time.sleep(0.05)
            libvirt = Libvirt(f"qemu+unix:///session?socket={socket}", folder / "pool")
            libvirt.pool.mkdir()
            libvirt.pool.chmod(0o777)
            try:
                libvirt("pool-create-as", "images", "dir", "--target", str(libvirt.pool))
            except subprocess.CalledProcessError as error:
                pytest.skip(f"libvirt has no storage or QEMU driver here: {error.stderr.strip()}")
            yield libvirt
            for domain in libvirt("list", "--name").split():
                libvirt("destroy", domain)
        finally:
            daemon.terminate()
            daemon.wait(30)
            shutil.rmtree(folder, ignore_errors=True)
