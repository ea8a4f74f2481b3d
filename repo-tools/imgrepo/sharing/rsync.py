"""A target behind rsync: a daemon (``rsync://``), or a machine that ssh reaches (``host:path``).

rsync writes each file under a hidden temporary name and renames it, so that
readers never see half of one. What an interrupted run sent is kept in a hidden
folder there and continued by the next. rsync itself calls ssh: its
configuration, ``RSYNC_RSH`` and ``RSYNC_PASSWORD`` apply.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from imgbuilder.errors import UploadError
from imgbuilder.events import Progress, ProgressEnd, Reporter, Step, ignore
from imgbuilder.fetch.urls import without_secrets
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.process import Completed, Popen
from imgbuilder.sizes import counted, human_size
from imgrepo.sharing.upload import NOTHING, Former, UploadPlace
from imgrepo.webroot.entries import NamedFile, is_complete, stem_of_published

_BASIS = ".rsync-basis"
"""Hidden folder there in which a new revision is made next to the old one."""
_PATIENCE = 120
"""Seconds without a byte after which rsync gives up."""

_LISTED = re.compile(r"(?P<kind>.)\S+ +(?P<size>[0-9]+) (?P<time>\S+ \S+) (?P<name>.+)")
_SMALL = 1 << 20
"""Bytes of a file whose content is compared; larger ones are compared by size and time."""
_SENT = re.compile(r"(?:<f|>f|cf)\S* (?P<name>.+)")
_MOVED = re.compile(r" *(?P<bytes>[0-9,]+) +[0-9]+% ")
_PARTIAL = 23
_REASONS = {
    5: "the server refused to start: check the name of the module",
    10: "the server cannot be reached",
    12: "the connection broke, or rsync is not installed on the other side",
    30: "no data arrived for too long",
    35: "the server did not answer",
    127: "rsync is not installed on the other side",
    255: "ssh could not reach the machine or log in",
}


class RsyncTarget:
    """Implements ``Target`` with the program rsync."""

    def __init__(self, place: UploadPlace, rate: int | None = None) -> None:
        process.require_program("rsync")
        self._where = place.shown
        self._address = place.text if place.text.endswith((":", "/")) else f"{place.text}/"
        self._limit = [] if rate is None else [f"--bwlimit={max(1, rate >> 10)}"]
        self._times: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        """See ``Target.sizes``."""
        only = ["--include=/catalogue/***", "--exclude=/*/"]
        done = self._rsync("--list-only", "--recursive", "--no-h", *only, self._address)
        found = {}
        for line in done.stdout.decode("utf-8", "replace").splitlines():
            match = _LISTED.fullmatch(line)
            if match is not None and match["kind"] == "-":
                found[match["name"]] = int(match["size"])
                at = datetime.strptime(match["time"], "%Y/%m/%d %H:%M:%S").replace(tzinfo=UTC)
                self._times[match["name"]] = int(at.timestamp())
        return found

    def changed(self, folder: Path, names: Sequence[str]) -> set[str]:
        """See ``Target.changed``."""
        facts = {name: (folder / name).stat() for name in names}
        small = [name for name in names if facts[name].st_size <= _SMALL]
        found = {name for name in names if int(facts[name].st_mtime) != self._times.get(name)} - set(small)
        if small:
            words = ("--dry-run", "--checksum", "--out-format=%i %n", "--from0", "--files-from=-")
            done = self._rsync(*words, f"{folder.absolute()}/", self._address, names=small)
            found |= set(_sent(done))
        return found

    def read(self, name: str, limit: int) -> bytes:
        """See ``Target.read``."""
        with tempfile.TemporaryDirectory(prefix="pybuilder-repo.") as folder:
            self._rsync(f"--max-size={limit}", f"{self._address}{name}", f"{folder}/")
            file = Path(folder, PurePosixPath(name).name)
            if not file.is_file():
                raise UploadError(f"{self._where}: {name} is larger than {limit} bytes")
            return file.read_bytes()

    def put(
        self, folder: Path, names: Sequence[str], on_event: Reporter, former: Mapping[str, Former] = NOTHING
    ) -> tuple[str, ...]:
        """See ``Target.put``."""
        sent: list[str] = []
        for name in (name for name in names if name in former):
            sent += self._put_revision(folder, former[name].file, name, on_event)
        return (*sent, *self._put(folder, [name for name in names if name not in sent], on_event))

    def _put_revision(self, folder: Path, old: NamedFile, name: str, on_event: Reporter) -> tuple[str, ...]:
        """Send a file as its differences from an old one.

        rsync compares it with the most similar name next to it, which may be another template's. So it is
        made in a folder that has only the old file, as a second link to it.
        """
        if "/" in name or not is_complete(folder, old):
            return ()
        rooted = f"{folder.absolute()}/{old.name}"
        self._rsync("--size-only", "--link-dest=..", rooted, f"{self._address}{_BASIS}/")
        self._put(folder, [name], on_event, "--fuzzy", below=f"{_BASIS}/")
        self._put(folder, [name], ignore, f"--link-dest={_BASIS}")
        self.delete([_BASIS])
        return (name,)

    def _put(
        self, folder: Path, names: Sequence[str], on_event: Reporter, *words: str, below: str = ""
    ) -> tuple[str, ...]:
        """Send files to the target, or into a folder of it."""
        if not names:
            return ()
        total = sum((folder / name).stat().st_size for name in names)
        what = names[0] if len(names) == 1 else counted(len(names), "file")
        on_event(Step(f"Uploading to {self._where}: {what}, {human_size(total)}"))

        def moved(line: str) -> None:
            match = _MOVED.match(line)
            if match is not None:
                on_event(Progress(what, min(int(match["bytes"].replace(",", "")), total), total))

        # Size and time identify a file whose name has its digest. Two indexes may have both in common.
        by_content = any(stem_of_published(name) is None for name in names)
        done = self._rsync(
            *words,
            *self._limit,
            *(["--checksum"] if by_content else []),
            "--times",
            "--omit-dir-times",  # only its owner sets it
            "--perms",
            "--chmod=F644,Du=rwx,Dg+rx,Do=rx",  # a folder that a group may write to stays so
            "--partial-dir=.rsync-partial",
            "--out-format=%i %n",
            "--info=progress2",
            "--outbuf=N",
            "--from0",
            "--files-from=-",
            f"{folder.absolute()}/",  # a colon in a relative name would make it a machine
            f"{self._address}{below}",
            names=names,
            on_line=moved,
        )
        on_event(ProgressEnd())
        return tuple(_sent(done))

    def delete(self, names: Sequence[str]) -> None:
        """See ``Target.delete``."""
        if not names:
            return
        with tempfile.TemporaryDirectory(prefix="pybuilder-repo.") as empty:
            for name in names:
                # A folder that is missing here has "vanished"; only the file itself must be missing.
                Path(empty, name).parent.mkdir(parents=True, exist_ok=True)
            self._rsync(
                "--delete-missing-args",
                "--force",
                "--from0",
                "--files-from=-",
                f"{empty}/",
                self._address,
                names=names,
            )

    def _rsync(
        self, *words: str, names: Sequence[str] = (), on_line: Callable[[str], None] = lambda _line: None
    ) -> Completed:
        contimeout = ["--contimeout=30"] if self._address.startswith("rsync://") else []
        argv = ["rsync", "--no-motd", f"--timeout={_PATIENCE}", *contimeout, *words]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as complaints:
            given.write("\0".join(names).encode())
            given.seek(0)
            reading, writing = os.pipe()
            running: Popen[bytes] | None = None
            with os.fdopen(reading, "rb", buffering=0) as output:
                try:
                    try:
                        with uninterrupted():  # a signal must not come between its start and the assignment
                            running = process.start(
                                argv, stdin=given, stdout=writing, stderr=complaints, env=_own_variables()
                            )
                    finally:
                        os.close(writing)
                    out = b""
                    while piece := output.read(1 << 16):
                        out += piece
                        for line in _lines(piece):
                            on_line(line)
                    status = running.wait()
                finally:
                    if running is not None:
                        with uninterrupted():
                            process.end_group(running)
            complaints.seek(0)
            done = Completed(status, out, complaints.read().decode(errors="replace"))
        if done.status != 0:
            raise self._failure(done)
        return done

    def _failure(self, done: Completed) -> UploadError:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = without_secrets(lines[0] if lines else "no reason given")
        reason = _REASONS.get(done.status, "")
        hint = reason or "try again; what was sent is kept, and what is served there has not changed"
        if done.status == _PARTIAL and "No such file" in done.stderr:
            hint = "create the folder on the other side first"
        return UploadError(f"{self._where}: rsync ended with status {done.status}: {said}", hint=hint)


def _sent(done: Completed) -> dict[str, None]:
    """Return the names of the files that were sent, in their order."""
    lines = _lines(done.stdout)
    return dict.fromkeys(match["name"] for line in lines if (match := _SENT.fullmatch(line)))


def _lines(output: bytes) -> list[str]:
    """Return the lines of rsync's output; one that shows progress ends in a carriage return."""
    return re.split(r"[\r\n]+", output.decode("utf-8", "replace"))


def _own_variables() -> dict[str, str]:
    """Return rsync's own variables, among them its password, which no other program gets.

    It lists times in the zone of TZ.
    """
    own = {name: value for name, value in os.environ.items() if name.startswith("RSYNC_")}
    return {**own, "TZ": "UTC"}
