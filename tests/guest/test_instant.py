"""Resumed appliances: random numbers and time of their own, and right images whatever is disturbed."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment, launch, open_appliance
from imgbuilder.appliance.connection import Connection
from imgbuilder.appliance.hostside.devices import Disk
from imgbuilder.appliance.instant import resume, save
from imgbuilder.appliance.instant.resume import Job
from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.errors import ApplianceError
from imgbuilder.events import Event, Notice
from tests.fakes.template import Site
from tests.guest.conftest import LONG
from tests.guest.images import look_into
from tests.guest.machine import TEMPLATE_ROOT
from tests.guest.person import Person
from tests.guest.smallguest import SMALL_ROOT

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("PYBUILDER_INSTANT") == "no", reason="PYBUILDER_INSTANT=no: nothing is resumed"
    ),
]

SESSIONS = 20 if LONG else 5
ROUNDS = int(os.environ.get("PYBUILDER_INSTANT_ROUNDS", "60" if LONG else "3"))
"""Number of builds that are disturbed."""

# Builds that are disturbed


class Builds:
    """Builds by an ordinary user, and what is wrong with their images."""

    def __init__(self, person: Person, source: Site) -> None:
        self.person = person
        self.env = {"XDG_CONFIG_HOME": str(source.folder / "config")}
        self.count = 0
        self.resumed = 0
        self.states = person.home / ".cache/pybuilder/instant"

    def command(self, image: Path, token: str, *more: str) -> list[str | Path]:
        return [
            "pybuilder", "small", "-v", "-o", image, "--size", "1G", "--no-network", "--root-password",
            "disabled", "--no-sync", "--write", f"/root/token:{token}",
            "--run-command", "head -c 16 /dev/urandom >/root/drawn", *more,
        ]  # fmt: skip

    def new(self) -> tuple[Path, str]:
        self.count += 1
        return self.person.home / f"build-{self.count}.img", f"token {self.count}"

    def one(self, *more: str, env: dict[str, str] | None = None) -> str:
        image, token = self.new()
        done = self.person.run(*self.command(image, token, *more), timeout=400, env=self.env | (env or {}))
        return self.check(image, token, done.stdout + done.stderr)

    def check(self, image: Path, token: str, printed: str) -> str:
        assert image.stat().st_size == 1 << 30
        with look_into(image, root=SMALL_ROOT) as guest:
            assert guest.read("/root/token") == token.encode()
            assert len(guest.read("/root/drawn")) == 16
            assert guest.filesystem_use()[0].total > 0.9 * (1 << 30), "it grew"
        part = f"{image}?offset={Disk(image).find(SMALL_ROOT).start}"
        checked = subprocess.run(["e2fsck", "-fn", part], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        image.unlink()
        self.resumed += "the appliance was resumed" in printed
        return printed

    def saved(self) -> list[Path]:
        return [path for path in self.states.iterdir() if re.fullmatch("[0-9a-f]{40}", path.name)]


def truncated(builds: Builds) -> None:
    before = builds.one()
    found = re.search(r"the appliance was resumed from (\S+)", before)
    if found:  # on a very busy host none can be saved, and builds boot for a day
        memory = Path(found.group(1), "memory")
        os.truncate(memory, random.randrange(memory.stat().st_size))
    printed = builds.one()
    assert ("the saved appliance is dropped" in printed) == bool(found), f"{before}\n{printed}"


def another_machine(builds: Builds) -> None:
    """Another memory size, and another hypervisor of the same name, as an upgrade leaves it.

    A copy of QEMU would not find its modules.
    """
    place = builds.person.home / "qemu"
    place.mkdir(exist_ok=True)
    program = place / "qemu-system-x86_64"
    program.unlink(missing_ok=True)
    program.write_text(f'#!/bin/sh\n# {builds.count}\nexec {shutil.which(program.name)} "$@"\n')
    program.chmod(0o755)
    place.chmod(0o755)
    memory = str(random.choice([900, 1000, 1100]))
    builds.one("--memsize", memory, env={"LIBGUESTFS_HV": str(program)})


def killed_while_saving(builds: Builds) -> None:
    shutil.rmtree(builds.states, ignore_errors=True)
    image, token = builds.new()
    # Quiet: its output is not read, and it would wait for a reader.
    command = [word for word in builds.command(image, token) if word != "-v"]
    process = builds.person.start(*command, env=builds.env)
    end = time.monotonic() + 200
    while not list(builds.states.glob(".part-*/memory")) and time.monotonic() < end:
        assert process.poll() is None
        time.sleep(0.02)
    assert time.monotonic() < end
    time.sleep(random.random())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not image.exists()
    builds.one()
    assert list(builds.states.glob(".part-*")) == [], "the next one tidied up"


def two_at_once(builds: Builds) -> None:
    pairs = [builds.new() for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        done = [
            threads.submit(builds.person.run, *builds.command(*pair), timeout=400, env=builds.env)
            for pair in pairs
        ]
    for pair, build in zip(pairs, done, strict=True):
        builds.check(*pair, build.result().stdout + build.result().stderr)


DISTURBANCES = (killed_while_saving, truncated, two_at_once, another_machine)
"""The last one, which saves an appliance more, is for long runs."""


@pytest.mark.timeout(200 * ROUNDS)
def test_disturbed_builds_make_right_images(person: Person, small: Site) -> None:
    """Builds that are disturbed in these ways, in turn."""
    builds = Builds(person, small)
    for number in range(ROUNDS):
        act = DISTURBANCES[number % len(DISTURBANCES)]
        try:
            act(builds)
        except AssertionError as error:
            raise AssertionError(f"round {number}, {act.__name__}: {error}") from error
        assert len(builds.saved()) <= 4
    print(f"{builds.count} builds, {builds.resumed} of them resumed")
    assert builds.resumed >= ROUNDS // 2


# Sessions, one after the other

DRAWS = (
    "head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \\n'; echo\n"
    # getrandom(2), 318 on x86_64 and 278 elsewhere
    """perl -e '$b = "\\0" x 16; $n = `uname -m` =~ /x86_64/ ? 318 : 278;
    syscall($n, $b, 16, 0) == 16 or die; print unpack("H*", $b), "\\n"'\n"""
    "cat /proc/sys/kernel/random/uuid\n"
    # a number that the kernel drew for a new program
    """perl -e 'open F, "<", "/proc/self/maps"; print((grep /stack/, <F>)[0])'\n"""
    "rm -f /tmp/k; ssh-keygen -q -t ed25519 -N '' -f /tmp/k && cut -d' ' -f2 /tmp/k.pub\n"
)
KINDS = ("urandom", "getrandom", "uuid", "layout", "ssh-keygen")


class Appliances:
    """Opens appliances with a cache of their own, and reports how they came up."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.store = StateStore(cache / "instant")
        self.lines: list[str] = []

    def hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self.lines.append(event.text)

    @property
    def resumed(self) -> bool:
        return "the appliance was resumed" in "\n".join(self.lines[-1:])

    def tail(self) -> list[str]:
        return [line for line in self.lines if "applian" in line][-3:]

    def options(self, *, network: bool = False) -> ApplianceOptions:
        return ApplianceOptions(cache=self.cache, network=network)


@pytest.fixture(scope="module")
def appliances() -> Iterator[Appliances]:
    """Appliances from a state whose clock is 40 days behind."""
    folder = Path(tempfile.mkdtemp(prefix="pybuilder-guest-", dir="/var/tmp"))
    prepare = save.prepare

    def long_ago(connection: Connection) -> None:
        prepare(connection)
        connection.call("debug", "sh", [f"date -s @{time.time() - 40 * 86400:.0f}"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(save, "prepare", long_ago)
        yield Appliances(folder / "cache")
    shutil.rmtree(folder)


def test_resumed_sessions_draw_distinct_numbers(appliances: Appliances, template: Path) -> None:
    """Many sessions from one state, and in each the guest draws in five ways."""
    drawn: dict[str, list[str]] = {kind: [] for kind in KINDS}
    disk = Attachment(template, "raw", readonly=True)
    for _ in range(SESSIONS):
        with open_appliance([disk], appliances.options(), appliances.hear) as guest:
            assert appliances.resumed, appliances.tail()
            guest.mount(TEMPLATE_ROOT, "/")
            answer = guest.sh(f"set -e\n{DRAWS}")
            assert answer.status == 0, answer.output
            words = answer.output.split("\n")
            for kind, word in zip(KINDS, words, strict=False):
                assert len(word) >= 16, answer.output
                drawn[kind].append(word)
            seconds = int(guest.sh("date +%s").output)
            assert abs(seconds - time.time()) < 60, "the host's time"
            guest.unmount_all()
            guest.shutdown()
    for kind, words in drawn.items():
        # A layout has few random bits, so two may be alike; all the others never.
        assert len(set(words)) >= (SESSIONS - 2 if kind == "layout" else SESSIONS), (kind, words)
    assert len(appliances.store.states()) == 1, "one state for all of them"


@pytest.mark.parametrize("entropy", [False, True], ids=["nothing done", "entropy without renewal"])
def test_repeated_numbers_are_noticed(
    appliances: Appliances, template: Path, monkeypatch: pytest.MonkeyPatch, entropy: bool
) -> None:
    """The same appliance without its new random numbers: the check must see it, and it is booted."""
    script = save.greeting_script

    def unrenewed(now: float, disks: int, *, network: bool) -> str:
        return script(now, disks, network=network).replace(save._RESEED, "")

    monkeypatch.setattr(save, "greeting_script", unrenewed)
    if not entropy:
        monkeypatch.setattr(resume, "_RANDOM_DEVICE", "/dev/null")
    kept: list[str] = []
    monkeypatch.setattr(StateStore, "drop", lambda _store, key: kept.append(key))
    start = launch._launch

    def resume_only(*given: Any, job: Job | None = None) -> Connection:
        if job is None:
            raise ApplianceError("it would be booted, which takes long")
        return start(*given, job=job)

    monkeypatch.setattr(launch, "_launch", resume_only)
    disk = Attachment(template, "raw", readonly=True)
    for _ in range(3):  # on a very busy host the kernel may renew them by itself before they are drawn
        try:
            with open_appliance([disk], appliances.options(), appliances.hear):
                pass
        except ApplianceError:
            break
    assert "repeats the random numbers" in appliances.tail()[-1]
    assert len(set(kept)) == 1, "and it was to be dropped"


def test_signatures_hold_days_later(appliances: Appliances, template: Path) -> None:
    """With the state's own clock, apt would say that the archive is from the future."""
    disk = Attachment(template, "raw", readonly=True)
    with open_appliance([disk], appliances.options(network=True), appliances.hear) as guest:
        assert appliances.resumed, appliances.tail()
        guest.mount(TEMPLATE_ROOT, "/")
        seconds = int(guest.sh("date +%s").output)
        assert abs(seconds - time.time()) < 60
        # The lists of packages, which take long to read under emulation, change nothing here.
        no_lists = "Acquire::IndexTargets::deb::Packages::DefaultEnabled=false"
        answer = guest.sh(f"apt-get -o {no_lists} update 2>&1")
        assert answer.status == 0, answer.output
        assert not re.search(r"^[WE]:", answer.output, re.MULTILINE), answer.output
        assert "Release" in answer.output, "something was asked and checked"


def test_one_state_for_all_disks_and_networks(appliances: Appliances, template: Path, tmp_path: Path) -> None:
    """Each disk is where it belongs, and without a network the guest has no card."""
    others = [tmp_path / f"{number}.img" for number in range(3)]
    for number, path in enumerate(others):
        with path.open("wb") as file:
            file.truncate((300 + number) * 1024**2)
    disks = [Attachment(template, "raw", readonly=True), *(Attachment(path, "raw") for path in others)]
    for count, network in ((2, False), (1, True), (4, False), (2, True)):
        options = appliances.options(network=network)
        with open_appliance(disks[:count], options, appliances.hear) as guest:
            assert appliances.resumed, appliances.tail()
            assert guest.disks() == ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"][:count]
            for device, disk in zip(guest.disks(), disks, strict=False):
                assert guest.device_size(device) == disk.path.stat().st_size
            if (count, network) == (2, False):
                guest.make_filesystem("ext4", "/dev/sdb", label="mine")
            labels = [item.name for item in guest.block_devices() if item.label == "mine"]
            assert labels == ["/dev/sdb"][: count - 1]
            guest.mount(TEMPLATE_ROOT, "/")
            assert (guest.sh("ls /sys/class/net").output.split() == ["lo"]) != network
            guest.unmount_all()
            guest.shutdown()
    assert len(appliances.store.states()) == 1
