"""Resuming, with the real worker and program, and a stand-in for libguestfs and the hypervisor."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment, accelerator
from imgbuilder.appliance import launch as launching
from imgbuilder.appliance.accelerator import KvmVerdict
from imgbuilder.appliance.binding import Binding
from imgbuilder.appliance.instant import commandline, program, resume, save
from imgbuilder.appliance.instant.store import VARIABLE, InstantMode, StateStore, instant_mode
from imgbuilder.errors import ApplianceError, UsageError
from imgbuilder.events import Event, Notice, Severity, Step
from imgbuilder.host.interrupts import Interrupted
from tests.fakes import instant_stub

DISK_SIZE = 8192
FRESH = "ab" * 32
OTHER = "cd" * 32
RECORDED = [f"{number:064x}" for number in range(save.CHAIN)]


class Setup:
    """A machine whose appliance can be resumed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.interpreter, self.hypervisor = instant_stub.install(folder)
        self.cache = folder / "cache"
        self.store = StateStore(self.cache / "instant")
        self.disk = folder / "disk.img"
        self.disk.write_bytes(bytes(DISK_SIZE))
        self.events: list[Event] = []
        self.answer(f"draw {FRESH}\ndraw {OTHER}\nsize {DISK_SIZE // 512}\n")

    def answer(self, text: str) -> None:
        (self.folder / "answer").write_text(text)

    def machine(self) -> dict[str, str]:
        shape = commandline.read_shape(instant_stub.command_line(self.folder, "/s", [str(self.disk)]))
        return program.machine_facts(shape, str(self.hypervisor), resume.recipe("1.2.3"))

    def key(self) -> str:
        return program.state_key(self.machine())

    def save(self) -> Path:
        """Write a state, as if it had been saved."""
        self.store.open()
        with self.store.making() as new:
            assert new is not None
            for name in (*program.CONTENT, program.RECORD):
                (new / name).touch(mode=0o600)
            (new / program.DRAWS).write_text("\n".join(RECORDED))
            record: dict[str, object] = {program.MACHINE: self.machine()}
            record |= {name: program.identity(str(new / name))[1:] for name in program.CONTENT}
            (new / program.RECORD).write_text(json.dumps(record))
            self.store.publish(new, self.key())
        return self.store.root / self.key()

    def open(self, **options: bool) -> list[str]:
        """Open and leave an appliance; return the starts of the hypervisor."""
        starts, before = self.folder / "starts", len(self.starts())
        wanted = ApplianceOptions(cache=self.cache, **options)
        with launching.open_appliance([Attachment(self.disk, "raw")], wanted, self.events.append):
            pass
        assert starts.exists()
        return self.starts()[before:]

    def starts(self) -> list[str]:
        path = self.folder / "starts"
        return path.read_text().split() if path.exists() else []

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def debug_lines(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice) and "applian" in event.text]


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    made = Setup(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("LIBGUESTFS_HV", str(made.hypervisor))
    binding = Binding(made.interpreter, tmp_path / "guestfs.py", "1.2.3")
    monkeypatch.setattr(launching, "find_binding", lambda: binding)
    verdict = KvmVerdict(usable=False, reason="no KVM in this test", proved=True)
    monkeypatch.setattr(accelerator, "kvm_verdict", lambda *_args: verdict)
    return made


def test_resumes_and_gives_entropy_before_anything_is_executed(setup: Setup) -> None:
    state = setup.save()
    os.utime(state / program.RECORD, (1, 1))
    assert setup.open() == ["resumed"]
    assert setup.calls() == ["upload 512 /dev/urandom 600", "sh"]
    (line,) = setup.debug_lines()
    assert line.startswith("the appliance was resumed")
    assert (state / program.RECORD).stat().st_mtime > 1, "its use counts"


def dropped(setup: Setup, starts: list[str]) -> None:
    """Check that the appliance was booted once, with one debug line, and that the state is gone."""
    assert setup.open() == [*starts, "booted"]
    (line,) = setup.debug_lines()
    assert "dropped" in line
    assert setup.store.states() == []


@pytest.mark.parametrize(
    "answer",
    [
        f"draw {RECORDED[0]}\ndraw {OTHER}\nsize 16\n",
        f"draw {FRESH}\ndraw {RECORDED[-1]}\nsize 16\n",
        f"draw {FRESH}\ndraw {FRESH}\nsize 16\n",
        "size 16\n",
        f"draw {FRESH}\ndraw {OTHER}\nsize 17\n",
        f"draw {FRESH}\ndraw {OTHER}\n",
        f"draw {FRESH}\ndraw {OTHER}\nsize 16\nsize 16\n",
        "RNDRESEEDCRNG: Inappropriate ioctl for device\n",
        "",
        "die",
    ],
)
def test_wrong_answers_end_in_a_boot(setup: Setup, answer: str) -> None:
    setup.save()
    setup.answer(answer)
    dropped(setup, ["resumed"])


def test_no_answer_in_time_ends_in_a_boot(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_ANSWER_LIMIT", 1.0)
    setup.save()
    setup.answer("hang")
    dropped(setup, ["resumed"])


def test_hypervisor_that_refuses_the_state_ends_in_a_boot(setup: Setup) -> None:
    setup.hypervisor.write_text(
        setup.hypervisor.read_text().replace(
            "channel =", 'if "-incoming" in words: sys.exit(1)\nchannel =', 1
        )
    )
    setup.save()
    setup.answer("die")
    dropped(setup, ["resumed"])


def truncated(state: Path) -> None:
    os.truncate(state / program.MEMORY, 0)
    os.utime(state / program.MEMORY, (1, 1))


def draws_gone(state: Path) -> None:
    (state / program.DRAWS).write_text("")


def readable(state: Path) -> None:
    (state / program.OVERLAY).chmod(0o644)


def record_damaged(state: Path) -> None:
    (state / program.RECORD).write_text("{")


@pytest.mark.parametrize("spoil", [truncated, draws_gone, readable, record_damaged])
def test_disturbed_state_is_not_even_started(setup: Setup, spoil: Callable[[Path], None]) -> None:
    spoil(setup.save())
    dropped(setup, [])


@pytest.mark.parametrize("name", ["kernel", "initrd", "root"])
def test_state_of_another_appliance_is_not_used(setup: Setup, name: str) -> None:
    setup.save()
    (setup.folder / name).write_bytes(b"new")
    assert "resumed" not in setup.open()
    assert len(setup.store.states()) == 1


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("root",), "since packages of this host changed"),
        (("hypervisor", "kernel"), "since the hypervisor and packages of this host changed"),
        ((), "so that the next ones start at once"),
    ],
)
def test_it_says_why_an_appliance_is_saved(setup: Setup, names: tuple[str, ...], reason: str) -> None:
    if names:
        setup.save()
    for name in names:
        with (setup.folder / name).open("a") as file:
            file.write("# new\n")
    setup.open()
    assert [event.text for event in setup.events if isinstance(event, Step)] == [
        f"Saving a booted appliance, {reason}"
    ]


def test_root_replaced_while_it_resumes_ends_in_a_boot(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.save()
    check = resume._check_root

    def replaced(answer: dict[str, object]) -> None:
        (setup.folder / "root").write_bytes(b"new")
        check(answer)

    monkeypatch.setattr(resume, "_check_root", replaced)
    assert setup.open() == ["resumed", "booted"]
    assert "replaced at the same time" in setup.debug_lines()[0]


def test_machine_that_cannot_be_saved_is_booted_and_that_is_remembered(setup: Setup) -> None:
    """This hypervisor has no monitor; the second time saving is not tried."""
    assert setup.open() == ["booted", "booted"]
    assert [event for event in setup.events if isinstance(event, Step)]
    assert "cannot be saved" in setup.debug_lines()[-1]
    assert sorted(path.name for path in setup.store.root.iterdir()) == [f"{setup.key()}.given-up", "lock"]
    setup.events.clear()
    assert setup.open() == ["booted"]
    assert "could not be saved the last time" in setup.debug_lines()[0]


def test_unknown_libguestfs_is_reported_once(setup: Setup) -> None:
    binding = setup.folder / "guestfs.py"
    binding.write_text(binding.read_text().replace("accel=tcg", "pc-next,accel=tcg"))
    assert setup.open() == ["booted"]
    (notice,) = [event for event in setup.events if isinstance(event, Notice) and "1.2.3" in event.text]
    assert notice.severity is Severity.INFO
    assert "pc-next" in notice.text
    assert any("pc-next" in line for line in setup.store.describe()), "for the doctor"
    setup.events.clear()
    assert setup.open() == ["booted"]
    (notice,) = [event for event in setup.events if isinstance(event, Notice) and "pc-next" in event.text]
    assert notice.severity is Severity.DEBUG


def test_a_busy_host_is_remembered_for_minutes(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_connection: object) -> None:
        raise save.BusyError("too busy")

    monkeypatch.setattr(save, "prepare", busy)
    assert setup.open() == ["booted", "booted"]
    assert setup.open() == ["booted"]
    mark = str(setup.store.root / f"{setup.key()}{program.GIVEN_UP}")
    assert program.read_mark(mark) == "too busy"
    later = time.time() + 700
    monkeypatch.setattr("time.time", lambda: later)
    assert program.read_mark(mark) is None


@pytest.mark.parametrize("saved", [True, False], ids=["while resuming", "while saving"])
def test_a_signal_ends_it_and_drops_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    def stopped(*_args: object, **_options: object) -> None:
        raise Interrupted(2)

    if saved:
        setup.save()
    monkeypatch.setattr(resume.Instant, "_greet", stopped)
    monkeypatch.setattr(save, "prepare", stopped)
    with pytest.raises(Interrupted):
        setup.open()
    assert len(setup.store.states()) == saved
    left = {path.name for path in setup.store.root.iterdir()} - {setup.key()}
    assert left == {"lock"}, "no half state, no mark"


def test_another_maker_is_not_waited_for(setup: Setup) -> None:
    setup.store.open()
    with setup.store.making() as new:
        assert new is not None
        assert setup.open() == ["booted"]
    assert "another pybuilder" in setup.debug_lines()[0]


def test_switched_off(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.save()
    assert setup.open(instant=False) == ["booted"]
    monkeypatch.setenv(VARIABLE, "no")
    assert setup.open() == ["booted"]
    assert setup.calls() == []


def test_with_kvm_it_boots_unless_asked(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    setup.save()
    verdict = KvmVerdict(usable=True, reason="KVM works", proved=True)
    monkeypatch.setattr(accelerator, "kvm_verdict", lambda *_args: verdict)
    assert setup.open() == ["booted"]
    monkeypatch.setenv(VARIABLE, "yes")
    assert setup.open() == ["resumed"]


def test_resumes_where_kvm_turns_out_not_to_work(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM was expected to work, but the boot fails: emulation is used, and resumed."""
    setup.save()
    usable = KvmVerdict(usable=True, reason="not tried", proved=False)
    broken = KvmVerdict(usable=False, reason="broken", proved=True)
    monkeypatch.setattr(accelerator, "kvm_verdict", lambda *_args: usable)
    monkeypatch.setattr(launching, "remember_broken", lambda *_args: broken)
    text = setup.hypervisor.read_text()
    setup.hypervisor.write_text(
        text.replace("channel =", 'if "-incoming" not in words: sys.exit(1)\nchannel =', 1)
    )
    for state in setup.store.states():
        setup.store.drop(state.path.name)  # it was for the other hypervisor
    setup.save()
    assert setup.open() == ["booted", "resumed"]


def test_folder_that_is_not_private_is_not_used(setup: Setup) -> None:
    setup.save()
    setup.store.root.chmod(0o755)
    assert setup.open() == ["booted"]
    assert "private" in setup.debug_lines()[0]


def test_a_failed_boot_is_an_error_as_usual(setup: Setup) -> None:
    setup.save()
    setup.hypervisor.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(ApplianceError, match="could not be started"):
        setup.open()


def test_answers_about_the_hypervisor_are_kept_for_the_next_launch(setup: Setup, tmp_path: Path) -> None:
    def seen(runtime: Path, worker: int = 9) -> tuple[int, float]:
        runtime.mkdir()
        folders = launching._Folders(runtime, runtime)
        wrapper = launching._hypervisor(folders, setup.interpreter, worker, None)
        assert wrapper is not None
        return wrapper.stat().st_size, wrapper.stat().st_mtime

    first = seen(tmp_path / "run1")
    assert seen(tmp_path / "run2", 4194304) == first
    setup.hypervisor.write_text("#!/bin/sh\nexit 0\n")
    assert seen(tmp_path / "run3")[1] != first[1], "another hypervisor is queried again"


@pytest.mark.row("B3")
def test_the_folder_of_root_s_sockets_is_claimed(setup: Setup, tmp_path: Path) -> None:
    """The calls of libguestfs 1.48: first for the hypervisor's capabilities, then for the machine."""
    runtime = tmp_path / "it's"
    runtime.mkdir()
    setup.hypervisor.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    folders = launching._Folders(runtime, runtime)
    wrapper = launching._hypervisor(folders, setup.interpreter, os.getpid(), None)
    assert wrapper is not None
    machines = [
        ["-display", "none", "-help"],
        ["-chardev", "socket,path=/tmp/libguestfsAb12Cd/guestfsd.sock,id=channel0", "-append", "a  b $HOME"],
        ["-chardev", "socket,id=channel0,path=/tmp/libguestfs000000/guestfsd.sock"],
        ["-chardev", f"socket,path={runtime}/libguestfs000000/guestfsd.sock,id=channel0"],
    ]
    for machine in machines:
        done = subprocess.run([wrapper, *machine], capture_output=True, text=True, check=True)
        assert done.stdout == "".join(f"<{word}>" for word in machine), "passed on as it came"
    noted = (runtime / "elsewhere").read_text()
    assert noted == "/tmp/libguestfsAb12Cd\n/tmp/libguestfs000000\n"


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", InstantMode.EMULATED), ("auto", InstantMode.EMULATED), ("no", InstantMode.NEVER),
     ("yes", InstantMode.ALWAYS)],
)  # fmt: skip
def test_mode(text: str, mode: InstantMode) -> None:
    assert instant_mode({VARIABLE: text}) is mode


def test_unknown_mode_is_an_error() -> None:
    with pytest.raises(UsageError, match="PYBUILDER_INSTANT=maybe"):
        instant_mode({VARIABLE: "maybe"})
