"""A guest with files of this host, below one folder, and a real ``/bin/sh``: for tests of shell scripts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from imgbuilder.errors import GuestCallError
from imgbuilder.guests.ports import LARGEST_TEXT, CommandResult, FileStatus
from tests.fakes.guest import FakeGuest


class HostGuest(FakeGuest):
    """The calls that running a command needs, on real files; temporary folders are below ``folder``."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def sh(
        self,
        script: str,
        *,
        follow: str | None = None,
        limit: float | None = None,
        patience: float | None = 600.0,
    ) -> CommandResult:
        self.scripts.append(script)
        script = script.replace("/tmp /var/tmp /root", str(self.folder))
        script = script.replace("/run /tmp /root", str(self.folder))
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            cwd="/",
        )
        return CommandResult(done.returncode % 256, done.stdout.decode(errors="replace"))

    def exists(self, path: str) -> bool:
        return Path(path).exists()

    def is_file(self, path: str) -> bool:
        return Path(path).is_file()

    def stat(self, path: str) -> FileStatus:
        try:
            facts = Path(path).stat()
        except OSError as error:
            raise GuestCallError(str(error)) from error
        return FileStatus(facts.st_mode, facts.st_uid, facts.st_gid, facts.st_size)

    def is_dir(self, path: str) -> bool:
        return Path(path).is_dir()

    def read(self, path: str, *, limit: int = LARGEST_TEXT) -> bytes:
        return Path(path).read_bytes()

    def end_of(self, path: str, size: int) -> bytes:
        return Path(path).read_bytes()[-size:]

    def download(self, path: str, local: Path, *, limit: int, last: bool = False) -> None:
        local.write_bytes(Path(path).read_bytes()[-limit:])

    def append(self, path: str, content: bytes) -> None:
        with Path(path).open("ab") as file:
            file.write(content)

    def truncate(self, path: str) -> None:
        Path(path).write_bytes(b"")

    def mount_memory(self, path: str) -> None:
        assert Path(path).is_relative_to(self.folder)

    def unmount(self, path: str) -> None:
        for child in Path(path).iterdir():
            child.unlink()

    def upload(self, local: Path, path: str) -> None:
        shutil.copyfile(local, path)

    def chmod(self, mode: int, path: str) -> None:
        Path(path).chmod(mode)

    def remove(self, path: str) -> None:
        assert Path(path).is_relative_to(self.folder)
        shutil.rmtree(path)
