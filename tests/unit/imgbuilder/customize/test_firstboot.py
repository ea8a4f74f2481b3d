"""Scripts of the first boot: their installation, and the driver run by a real shell."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize.firstboot import driver_text, parse_status, read_firstboot, script_name
from imgbuilder.customize.run import customize
from imgbuilder.errors import OperationError
from imgbuilder.events import Event, Notice
from tests.fakes.debianguest import apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

BASE = "/usr/lib/virt-sysprep"
WANTS = "/etc/systemd/system/multi-user.target.wants/guestfs-firstboot.service"


def _names(guest: FakeGuest) -> list[str]:
    return guest.ls(f"{BASE}/scripts")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("echo 'hello'", "5000-0002-echo--hello-"),
        ("../a/b.sh", "5000-0002----a-b-sh"),
        ("é\n$(x)", "5000-0002-----x-"),
        ("x" * 100, "5000-0002-" + "x" * 60),
    ],
)
def test_names_are_those_of_virt_builder(name: str, file: str) -> None:
    assert script_name(2, name) == file


@pytest.mark.row("Z12")
def test_a_hundred_scripts_keep_their_order_whatever_their_names(guest: FakeGuest, tmp_path: Path) -> None:
    script = tmp_path / "z.sh"
    script.write_bytes(b"#!/bin/sh\nx\xff\n")
    apply(guest, "firstboot", str(script))
    for _ in range(98):
        apply(guest, "firstboot-command", "same name")
    apply(guest, "firstboot-install", "a1,b2")
    names = _names(guest)
    assert [name.split("-")[1] for name in names] == [f"{number:04d}" for number in range(1, 101)]
    assert names[1] == "5000-0002-same-name"
    assert names[99] == "5000-0100-install-a1-b2"
    assert guest.read(f"{BASE}/scripts/{names[0]}") == b"#!/bin/sh\nx\xff\n"
    assert {guest.permissions(f"{BASE}/scripts/{name}") for name in names} == {("0755", 0, 0)}


def test_scripts_of_the_template_run_first(guest: FakeGuest) -> None:
    guest.add(f"{BASE}/scripts/5000-0007-old")
    guest.add(f"{BASE}/scripts/README")
    apply(guest, "firstboot-command", "new")
    assert "5000-0008-new" in _names(guest)


def test_the_service_of_a_systemd_guest(guest: FakeGuest) -> None:
    apply(guest, "firstboot-command", "true")
    unit = "/usr/lib/systemd/system/guestfs-firstboot.service"
    assert guest.readlink(WANTS) == unit
    lines = guest.text(unit).split("\n")
    assert f"ExecStart={BASE}/firstboot.sh start" in lines
    assert "After=network-online.target" in lines
    assert "Wants=network-online.target" in lines
    assert "StandardOutput=journal+console" in lines
    assert guest.permissions(unit)[0] == "0644"
    assert guest.permissions(f"{BASE}/firstboot.sh")[0] == "0755"


@pytest.mark.parametrize(
    ("release", "sign", "links"),
    [
        ("ID=debian", "/etc/init.d", ["/etc/init.d/guestfs-firstboot", "/etc/rc2.d/S99guestfs-firstboot"]),
        ("ID=centos", "/etc/rc.d", ["/etc/rc.d/rc3.d/S99guestfs-firstboot"]),
        (
            "ID=sles",
            "/etc/init.d",
            ["/etc/init.d/guestfs-firstboot", "/etc/init.d/rc5.d/S99guestfs-firstboot"],
        ),
    ],
)
def test_guests_with_system_v_init(events: list[Event], release: str, sign: str, links: list[str]) -> None:
    guest = FakeGuest()
    guest.add("/etc/os-release", release)
    guest.add_dir(sign)
    apply(guest, "firstboot-command", "true", on_event=events.append)
    for link in links:
        assert guest.readlink(link) == f"{BASE}/firstboot.sh"
    assert events == []


def test_an_unknown_init_system_is_refused_before_the_guest_is_changed(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", 'ID=alpine\nPRETTY_NAME="Alpine 3"\n')
    bare.add_dir("/etc/init.d")
    operations = [parse_operation("mkdir", "/x"), parse_operation("firstboot-command", "true")]
    with pytest.raises(OperationError, match=r"--firstboot-command: no init .* \(Alpine 3\)") as caught:
        customize(bare, operations, context_of(bare))
    assert "OpenRC" in (caught.value.hint or "")
    assert bare.calls == []


def test_openrc_starts_the_scripts(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", "ID=alpine")
    bare.add("/sbin/openrc-run")
    bare.add_dir("/etc/init.d")
    bare.add_dir("/etc/runlevels/default")
    apply(bare, "firstboot-command", "true")
    service = "/etc/init.d/guestfs-firstboot"
    assert bare.readlink("/etc/runlevels/default/guestfs-firstboot") == service
    assert bare.text(service).startswith("#!/sbin/openrc-run\n")
    assert f"    {BASE}/firstboot.sh start\n" in bare.text(service)
    assert bare.permissions(service)[0] == "0755"
    assert "/etc/runlevels/default/guestfs-firstboot" in bare.text(f"{BASE}/firstboot.sh")


def test_runit_starts_the_scripts_once(bare: FakeGuest) -> None:
    bare.add("/etc/os-release", "ID=void")
    bare.add_dir("/etc/runit/runsvdir/default")
    apply(bare, "firstboot-command", "true")
    assert bare.readlink("/etc/runit/runsvdir/default/guestfs-firstboot") == "/etc/sv/guestfs-firstboot"
    run = "/etc/sv/guestfs-firstboot/run"
    assert bare.permissions(run)[0] == "0755"
    lines = bare.text(run).split("\n")
    assert lines.index("for _ in $(seq 60); do") < lines.index(f"{BASE}/firstboot.sh start")
    assert lines[-2] == 'exec sv down "$PWD"'
    assert subprocess.run(["/bin/sh", "-n"], input=bare.read(run), check=True).returncode == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "TARGETS = cron r\nINTERACTIVE =\ncron: r\n",
            "TARGETS = cron r guestfs-firstboot\nINTERACTIVE =\ncron: r\nguestfs-firstboot: cron r\n",
        ),
        ("TARGETS = a guestfs-firstboot\n", "TARGETS = a guestfs-firstboot\n"),
        ("", ""),
    ],
)
def test_startpar_of_a_guest_without_systemd_knows_the_scripts(before: str, after: str) -> None:
    """It starts only the services of its makefile, whatever links there are."""
    guest = debian_guest()
    guest.add("/etc/init.d/.depend.start", before)
    apply(guest, "firstboot-command", "true")
    assert guest.text("/etc/init.d/.depend.start") == after


class Boot:
    """The driver and its folders, below a folder of the test."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "it's base"
        self.scripts = self.base / "scripts"
        self.scripts.mkdir(parents=True)
        self.log = folder / "log"
        self.link = folder / "link"
        self.link.symlink_to("unit")
        self.driver = folder / "driver"
        self.status = folder / "var" / "status"
        self.driver.write_text(
            driver_text(
                base=str(self.base), log=str(self.log), links=[str(self.link)], status=str(self.status)
            )
        )
        self.driver.chmod(0o755)

    def add(self, name: str, text: str, mode: int = 0o755) -> None:
        path = self.scripts / name
        path.write_text(text)
        path.chmod(mode)

    def run(self, argument: str = "start") -> str:
        done = subprocess.run(
            [self.driver, argument],
            capture_output=True,
            check=True,
            input=b"typed on the console\n",
            timeout=30,
        )
        assert done.stderr == b""
        return done.stdout.decode()


@pytest.fixture
def boot(tmp_path: Path) -> Boot:
    return Boot(tmp_path)


@pytest.mark.row("Z12")
def test_scripts_run_once_in_order_with_their_status_in_the_log_and_on_the_console(boot: Boot) -> None:
    boot.add("5000-0002-b", "#!/bin/sh\necho second; cat; exit 3\n")
    boot.add("5000-0001-a", "echo first without shebang >&2\n")
    boot.add("5000-0010-c", "#!/usr/bin/perl\nprint qq(third\\n);\n")
    boot.add("5000-0003-off", "echo never\n", 0o644)

    console = boot.run()

    log = boot.log.read_text()
    done = boot.base / "scripts-done"
    assert console == log
    assert log.splitlines()[:-1] == [
        f"=== Running {done}/5000-0001-a ===",
        "first without shebang",
        "=== Finished 5000-0001-a: exit status 0 ===",
        f"=== Running {done}/5000-0002-b ===",
        "second",
        "=== Finished 5000-0002-b: exit status 3 ===",
        f"=== Running {done}/5000-0010-c ===",
        "third",
        "=== Finished 5000-0010-c: exit status 0 ===",
    ]
    found = parse_status(boot.status.read_text())
    assert [(item.name, item.exit_code) for item in found.values()] == [
        ("5000-0001-a", 0), ("5000-0002-b", 3), ("5000-0010-c", 0),
    ]  # fmt: skip
    assert all(item.started and item.finished and item.started <= item.finished for item in found.values())
    assert [path.name for path in boot.scripts.iterdir()] == ["5000-0003-off"]
    assert list(done.iterdir()) == []
    assert boot.link.is_symlink(), "a file is left, so the service stays"

    assert "Running" not in boot.run()


def test_the_service_goes_when_nothing_is_left(boot: Boot) -> None:
    boot.add("5000-0001-a", "true\n")
    boot.run()
    assert not boot.link.is_symlink()
    assert sorted(path.name for path in boot.base.iterdir()) == ["scripts", "scripts-done"]


def test_a_script_that_ends_the_machine_is_not_run_again(boot: Boot) -> None:
    boot.add("5000-0001-a", "kill -9 $PPID\n")
    boot.add("5000-0002-b", "echo after the reboot\n")
    with pytest.raises(subprocess.CalledProcessError):
        boot.run()
    assert [path.name for path in boot.scripts.iterdir()] == ["5000-0002-b"]
    assert boot.link.is_symlink()
    console = boot.run()
    assert "after the reboot" in console
    assert "0001-a" not in console
    found = parse_status(boot.status.read_text())
    assert [item.state for item in found.values()] == ["did not end", "exit status 0"]


def test_a_daemon_that_a_script_leaves_behind_does_not_hold_up_the_boot(boot: Boot) -> None:
    boot.add("5000-0001-a", f"sleep 600 & echo $! >'{boot.log}.pid'\n")
    boot.add("5000-0002-b", "echo second\n")
    process = subprocess.Popen([boot.driver, "start"], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    try:
        assert process.wait(timeout=30) == 0
    finally:
        subprocess.run(["/bin/sh", "-c", f"kill $(cat '{boot.log}.pid')"], check=True)
    assert "second" in boot.log.read_text()


def test_other_arguments_do_nothing(boot: Boot) -> None:
    boot.add("5000-0001-a", "echo x\n")
    assert boot.run("stop") == ""
    assert boot.scripts.joinpath("5000-0001-a").exists()


def test_the_installed_driver_has_the_real_paths() -> None:
    text = driver_text()
    assert "base=/usr/lib/virt-sysprep\n" in text
    assert "log=/root/virt-sysprep-firstboot.log\n" in text
    assert f"links='{WANTS} " in text
    assert "@" not in text


@pytest.mark.row("Z12")
def test_the_first_boot_as_read_from_an_image(guest: FakeGuest) -> None:
    apply(guest, "firstboot-command", "waiting")
    guest.add(
        "/var/lib/pybuilder/firstboot-status",
        "2026-01-01T00:00:00Z\tstarted\t5000-0000-a\n2026-01-01T00:00:05Z\tfinished\t5000-0000-a\t7\nnonsense\n",
    )
    guest.add("/root/virt-sysprep-firstboot.log", b"said \xff\n")
    found = read_firstboot(guest)
    assert [(item.name, item.state, item.succeeded) for item in found.scripts] == [
        ("5000-0000-a", "exit status 7", False),
        ("5000-0001-waiting", "waiting for the first boot", False),
    ]
    assert found.log == "said \ufffd\n"


@given(st.text(alphabet="0123456789-:TZ\tstartedfinish\n", max_size=200))
def test_any_status_file_is_read(text: str) -> None:
    for item in parse_status(text).values():
        assert item.state


@pytest.mark.row("Z12")
def test_the_driver_runs_a_hundred_scripts_in_order(boot: Boot) -> None:
    for number in range(100, 0, -1):
        boot.add(script_name(number, "../x"), f"echo said {number}\nexit {number % 2}\n")
    boot.run()
    found = parse_status(boot.status.read_text())
    assert [item.exit_code for item in found.values()] == [number % 2 for number in range(1, 101)]
    said = [line for line in boot.log.read_text().split("\n") if line.startswith("said ")]
    assert said == [f"said {number}" for number in range(1, 101)]


def test_an_upstart_guest_starts_the_scripts_by_its_runlevels(bare: FakeGuest) -> None:
    """Upstart of Ubuntu 14.04 runs the links of System V."""
    bare.add("/etc/os-release", 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="14.04"\n')
    bare.add("/etc/init/rc.conf", "start on runlevel [0123456]\n")
    bare.add_dir("/etc/init.d")
    apply(bare, "firstboot-command", "true")
    assert not bare.exists("/usr/lib/systemd/system/guestfs-firstboot.service")
    for level in (2, 3, 5):
        assert bare.readlink(f"/etc/rc{level}.d/S99guestfs-firstboot") == f"{BASE}/firstboot.sh"


@pytest.mark.parametrize(
    ("first", "warned"), [("#!/usr/bin/python3", True), ("#!/bin/sh", False), ("echo", False)]
)
def test_a_missing_interpreter_is_a_warning(first: str, warned: bool, tmp_path: Path) -> None:
    (tmp_path / "script").write_text(f"{first}\n")
    guest = debian_guest()
    events: list[Event] = []
    apply(guest, "firstboot", str(tmp_path / "script"), on_event=events.append)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert len(texts) == warned
    assert all("/usr/bin/python3 is not in the guest" in text for text in texts)
