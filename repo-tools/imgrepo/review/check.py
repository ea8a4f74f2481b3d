"""Checks an entry for ``entry check`` and ``publish --require``. What takes long is done once per image."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.appliance import ApplianceOptions, monitor
from imgbuilder.errors import (
    ApplianceError,
    DiskError,
    PybuilderError,
    RepositoryError,
    ToolError,
    WorkspaceError,
)
from imgbuilder.events import Reporter, Step, warn
from imgbuilder.host import process
from imgbuilder.host.interrupts import uninterrupted
from imgbuilder.host.privatefolder import private_folder, scratch_folder
from imgbuilder.host.process import Popen
from imgbuilder.host.text import printable
from imgbuilder.host.workspace import explaining
from imgbuilder.machine.model import Machine, board
from imgbuilder.machine.qemu import find_firmware
from imgrepo.images.compress import compress, copy_image, space_needed, xz_arguments, zstd_arguments
from imgrepo.images.scan import SourceImage, check_unchanged
from imgrepo.library.approval import Reviewers, approval_of
from imgrepo.library.description import Description
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import (
    BOOT_FILE,
    CHECK_FILE,
    CheckRecord,
    CompressedSize,
    ImageMark,
    PasswordState,
    RunTrial,
    Verdict,
)
from imgrepo.review.checklist import fits_budget, hints_digest, is_proven, judge_entry
from imgrepo.review.facts import FactCollector
from imgrepo.review.leftovers import look_inside
from imgrepo.review.results import CheckResult, Issue, Requirement, Status
from imgrepo.services import Services

_PRESET = "6"
"""The compression level of ``publish``, unless the publisher sets another one."""
_QUICK_LEVEL = 3


@dataclass(frozen=True)
class CheckedEntry:
    """An entry that was checked, and the result of each check."""

    name: str
    results: tuple[CheckResult, ...]

    @property
    def checked(self) -> bool:
        """Return whether nothing is missing, wrong or unknown."""
        return is_proven(self.results)

    @property
    def fails(self) -> bool:
        """Return whether something is missing or wrong."""
        return any(result.fails for result in self.results)


def check_entry(
    folder: EntryFolder, services: Services, options: ApplianceOptions, on_event: Reporter, *, quick: bool
) -> CheckedEntry:
    """Check an entry; with ``quick``, what an earlier check found in this image counts."""
    facts = FactCollector(folder, on_event)
    issues = {} if quick else _SlowFacts(facts, services, options, on_event).collect()
    return CheckedEntry(folder.name, judge_entry(facts.facts(issues)))


def unmet(
    requirements: Sequence[Requirement],
    folder: EntryFolder,
    on_event: Reporter,
    *,
    reviewers: Reviewers | None = None,
    metadata_digest: str | None = None,
    from_records: bool = False,
) -> PybuilderError | None:
    """Return why an entry does not meet the first of the requirements that it does not; None if it meets all.

    For the keywords see ``imgrepo.library.approval.approval_of``; without reviewers no approval counts.
    """

    def signed(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
        if reviewers is None:
            return RepositoryError(
                f"{folder.name} is not approved: no reviewers given",
                hint="give the file of their public keys: --reviewers FILE",
            )
        approval_of(folder, reviewers, on_event, metadata_digest=metadata_digest, from_records=from_records)
        return None

    checks = {Requirement.CHECKED: _checked, Requirement.BOOTED: _booted, Requirement.SIGNED: signed}
    for requirement in dict.fromkeys(requirements):
        try:
            problem = checks[requirement](folder, on_event)
        except PybuilderError as error:
            return error
        if problem is not None:
            return problem
    return None


def problems_before_signing(folder: EntryFolder, on_event: Reporter) -> tuple[PybuilderError, ...]:
    """Return which requirements other than an approval an entry does not meet: for its reviewer."""
    tools = [requirement for requirement in Requirement if requirement is not Requirement.SIGNED]
    problems = (unmet([requirement], folder, on_event) for requirement in tools)
    return tuple(problem for problem in problems if problem is not None)


def not_an_entry(name: str, requirements: Sequence[Requirement]) -> RepositoryError:
    """Return the error for an image that is not in an entry and so meets no requirement."""
    wanted = " and ".join(requirement.value for requirement in dict.fromkeys(requirements))
    return RepositoryError(
        f"{name} is not known to be {wanted}: it is not in an entry",
        hint=f"make it one: pybuilder-repo entry new NAME --move --image {name}",
    )


def _checked(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
    for result in judge_entry(FactCollector(folder, on_event).facts()):
        if result.status is not Status.OK:
            return RepositoryError(
                f"{folder.name} is not checked: {result.key}: {result.detail}", hint=result.hint
            )
    return None


def _booted(folder: EntryFolder, on_event: Reporter) -> PybuilderError | None:
    record = BOOT_FILE.read(folder.boot)
    hint = f"see whether it boots: pybuilder-repo boot-check {folder.path}"
    if record is None:
        return RepositoryError(f"{folder.name} was not booted", hint=hint)
    if not record.image.fits(folder.image(), on_event):
        return RepositoryError(f"the image of {folder.name} changed since it was booted", hint=hint)
    if record.verdict is not Verdict.BOOTED:
        return RepositoryError(f"{folder.name} did not boot: {record.reason}", hint=hint)
    return None


class _SlowFacts:
    """Collects the facts that take long, and records them."""

    def __init__(
        self, facts: FactCollector, services: Services, options: ApplianceOptions, on_event: Reporter
    ) -> None:
        self._facts, self._services, self._options, self._report = facts, services, options, on_event
        self._issues: dict[str, Issue] = {}

    def collect(self) -> dict[str, Issue]:
        """Collect what is not recorded of this image yet; return why something could not be found out."""
        image = self._facts.image
        if isinstance(image, Issue):
            return {}
        old = self._facts.record or CheckRecord(ImageMark.of(image, self._report))
        new = dataclasses.replace(old, image=dataclasses.replace(old.image, fingerprint=image.fingerprint))
        description = self._facts.description
        if not isinstance(description, Issue):
            new = self._look_inside(new, image, description)
        new = self._try_script(new, image)
        check_unchanged(image)
        new = dataclasses.replace(new, archive=self._facts.archive(self._facts.facts().sources))
        if new != self._facts.record:
            self._write(new)
        self._facts.record = new
        return self._issues

    def _look_inside(self, record: CheckRecord, image: SourceImage, description: Description) -> CheckRecord:
        budget = description.size_budget
        pack = budget is not None and (record.packed is None or fits_budget(record.packed, budget) is None)
        digest = hints_digest(description)
        if not pack and not _is_stale(record, digest):
            return record
        with self._or_issue("inside", "packed"), self._copied(image, pack=pack) as copy:
            inside = look_inside(
                image,
                description.hints,
                self._services.open_appliance,
                self._options,
                self._report,
                copy=copy,
            )
            record = dataclasses.replace(record, inside=dataclasses.replace(inside, hints=digest))
            if copy is not None and budget is not None:
                with self._or_issue("packed"):
                    packed = self._pack(image, copy, budget)
                    record = dataclasses.replace(record, packed=packed)
        return record

    @contextlib.contextmanager
    def _copied(self, image: SourceImage, *, pack: bool) -> Iterator[Path | None]:
        if not pack:
            yield None
            return
        with scratch_folder(needed=2 * space_needed([image])) as folder:
            yield copy_image(image, folder, self._report).path

    def _pack(self, image: SourceImage, copy: Path, budget: int) -> CompressedSize:
        """Pack with zstd, which is quick, and with xz as publish does only if that does not decide."""
        self._report(Step(f"Packing {image.name}"))
        quick = self._packed_size(image, copy, zstd_arguments(_QUICK_LEVEL))
        if fits_budget(CompressedSize(quick, None), budget) is not None:
            return CompressedSize(quick, None)
        return CompressedSize(quick, self._packed_size(image, copy, xz_arguments(_PRESET)))

    def _packed_size(self, image: SourceImage, copy: Path, arguments: list[str]) -> int:
        made = compress(image, copy.with_name("packed"), arguments, self._report, content=copy)
        made.path.unlink()
        return made.size

    def _try_script(self, record: CheckRecord, image: SourceImage) -> CheckRecord:
        script = self._facts.script
        if isinstance(script, Issue):
            return record
        text, machine = script
        digest = hashlib.sha256(text.encode()).hexdigest()
        if record.run is None or record.run.script != digest:
            with self._or_issue("run"):
                trial = RunTrial(digest, try_script(text, machine, image, self._report))
                return dataclasses.replace(record, run=trial)
        return record

    @contextlib.contextmanager
    def _or_issue(self, *fields: str) -> Iterator[None]:
        """Turn a failure into an issue of these fields, which are not recorded then."""
        try:
            yield
        except PybuilderError as error:
            self._issues |= dict.fromkeys(fields, Issue.of(error, Status.UNKNOWN))

    def _write(self, record: CheckRecord) -> None:
        folder = self._facts.folder.check
        try:
            with explaining(folder):
                folder.mkdir(exist_ok=True)
            CHECK_FILE.write(folder, record)
        except WorkspaceError as error:
            warn(self._report, f"the results are not kept: {error.message}")


def _is_stale(record: CheckRecord, hints: str) -> bool:
    """Return whether an image has to be inspected: never done, or changed hints may name other passwords."""
    inside = record.inside
    if inside is None or not inside.system:  # which may have had another reason
        return True
    asked = {PasswordState.IN_HINTS, PasswordState.NOT_IN_HINTS}
    return inside.hints != hints and any(one.password in asked for one in inside.accounts)


# The trial of the script ``run``: it must start QEMU from another folder, and only read the image. The
# machine is never started (``-S``), so that nothing in a stranger's image runs: the boot check is for that.
_START = 60.0
"""Seconds until QEMU must accept commands; the script itself waits 10 for KVM."""
_LIMIT = 15.0
"""Seconds for a command, and for the end."""
_PAUSE = 0.1
_MOST_MESSAGES = 4096
_ELSEWHERE = "another folder"
"""With a space, which often breaks scripts."""
_HOST = ("host forwarding rule", "set up guest memory", "allocate memory")
"""Messages of QEMU when the host cannot run the machine now."""


def try_script(script: str, machine: Machine, image: SourceImage, on_event: Reporter) -> str:
    """Try a script next to a link to its image, in another folder; return what went wrong, if anything."""
    ports = [(forward.host, forward.kind) for forward in machine.forwards]
    if len(set(ports)) < len(ports):
        return "two ports of the guest would be the same port of the host: see ports in entry.toml"
    process.require_program(board(machine.arch).program)
    find_firmware(machine)
    on_event(Step(f"Starting {image.stem} by its script"))
    with private_folder() as folder:
        place = folder / _ELSEWHERE
        with explaining(place):
            place.mkdir()
            (place / "run").write_text(script, encoding="utf-8")
            (place / "run").chmod(0o500)
            (place / image.name).symlink_to(image.path.absolute())
        problem = _read_by_shell(place / "run") or _start(folder, image)
    try:
        check_unchanged(image)
    except DiskError:
        return "the image changed while it ran"
    return problem


def _read_by_shell(script: Path) -> str:
    done = process.run(["sh", "-n", script], check=False, timeout=_LIMIT)
    return "" if done.status == 0 else f"it is not a shell script: {_message(done.stderr, script.parent)}"


def _start(folder: Path, image: SourceImage) -> str:
    socket, number, messages = folder / "socket", folder / "number", folder / "messages"
    command = [
        # If we are killed, the kernel ends timeout, which does not end QEMU then; but QEMU runs nothing, and
        # it has a time limit.
        *process.bound_to(os.getpid(), by="TERM"),
        "timeout", "--kill-after=5", f"{_START + 4 * _LIMIT:.0f}",
        "env", "--chdir=/", f"{folder / _ELSEWHERE / 'run'}", "--",
        "-S", "-display", "none", "-pidfile", f"{number}", "-qmp", f"unix:{socket},server=on,wait=off",
    ]  # fmt: skip
    # Files of QEMU and the script are removed with our folder.
    environment = {"QEMU": "", "TMPDIR": str(folder)}
    running: Popen[bytes] | None = None
    try:
        with messages.open("wb") as errors:
            with uninterrupted():
                running = process.start(command, stderr=errors, env=environment)
            problem = _watch(running, socket, number, image)
            status = process.last_status(running, patience=_LIMIT) if not problem else running.poll()
    finally:
        with uninterrupted():
            if running is not None:
                process.end_group(running, grace=_LIMIT)
    with messages.open("rb") as file:
        file.seek(max(0, messages.stat().st_size - _MOST_MESSAGES))
        said = _message(file.read(_MOST_MESSAGES).decode("utf-8", "replace"), folder / _ELSEWHERE)
    if any(sign in said for sign in _HOST):
        raise ToolError(f"QEMU cannot start here: {said}", hint="free the port or the memory")
    if problem:
        return f"{problem}: {said}" if said else problem
    return "" if status == 0 else f"it ended with status {status}: {said}"


def _watch(running: Popen[bytes], socket: Path, number: Path, image: SourceImage) -> str:
    """Wait until QEMU accepts commands, look at it, and end it."""
    end, reason = time.monotonic() + _START, ""
    seen: list[str] = []
    while not seen:  # it ends after that, possibly before it confirms so
        if running.poll() is not None:
            return f"it ended with status {running.returncode} before QEMU accepted commands"
        if time.monotonic() > end:
            return f"QEMU did not accept commands within {_START:.0f} seconds{reason}"
        time.sleep(_PAUSE)
        try:
            if socket.exists():
                monitor.end_machine(socket, lambda: seen.append(_how_opened(number, image)), limit=_LIMIT)
        except ApplianceError as error:
            reason = f": {error.message}"
    return seen[0]


def _how_opened(number: Path, image: SourceImage) -> str:
    """Return how QEMU opened the image, by proc(5), unless it is for reading only."""
    modes = set()
    try:
        own = Path("/proc") / number.read_text().strip()
        for link in (own / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
                if link.samefile(image.path):
                    flags = (own / "fdinfo" / link.name).read_text().split("flags:")[1].split()[0]
                    modes.add(int(flags, 8) & os.O_ACCMODE)
    except (OSError, ValueError, IndexError) as error:
        return f"how QEMU opens the image cannot be seen: {error}"
    if not modes:
        return "QEMU does not open the image next to it"
    return "" if modes == {os.O_RDONLY} else "QEMU opens the image for writing"


def _message(text: str, place: Path) -> str:
    return printable(" ".join(text.split()).replace(f"{place}/", ""))
