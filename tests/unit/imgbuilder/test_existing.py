"""pybuilder-customize without an appliance: which disks, what is checked before, what failures leave."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from imgbuilder.cli import customize_main as cli
from imgbuilder.cli import modes
from imgbuilder.console import ConsoleReporter
from imgbuilder.guest import CommandResult
from imgbuilder.services import Services, Settings
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.template import tiny_guest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

LINUX = {"type": "linux", "arch": "x86_64", "distro": "debian"}


class Setup:
    """A disk image with a guest on its second partition, and the command."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.image = folder / "disk.img"
        self.image.write_bytes(b"\0" * 4096 + b"template")
        self.image.chmod(0o640)
        self.guest = tiny_guest()
        self.roots: dict[str, dict[str, str]] = {"/dev/sda2": LINUX}
        self.answers: dict[str, CommandResult] = {}
        self.appliances = FakeAppliances(prepare=self._teach)
        disk = FakeDisk({1: FakeFilesystem("vfat"), 2: FakeFilesystem("ext4", self.guest)}, self.roots)
        monkeypatch.setattr(self.appliances, "_disk", lambda _path: disk)
        self._monkeypatch = monkeypatch
        self.patch(cli)
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def patch(self, module: ModuleType) -> None:
        """Let a module of the command line use the fake appliance."""
        self._monkeypatch.setattr(
            module,
            "Services",
            lambda settings, **more: Services(settings, open_appliance=self.appliances, **more),
        )

    def _teach(self, appliance: FakeAppliance) -> None:
        for pattern, answer in self.answers.items():
            appliance.on_sh(pattern, answer)

    def run(self, *words: str | Path) -> int:
        return cli.run([str(word) for word in words])

    @property
    def log(self) -> list[tuple[str, str]]:
        return self.appliances.appliances[-1].log


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    return Setup(tmp_path, monkeypatch)


def test_in_place(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.run("-a", setup.image, "--write", "/etc/a:1", "--append-line", "/etc/a:2") == 0
    assert setup.guest.read("/etc/a") == b"1\n2\n"
    assert setup.guest.text("/etc/shadow") == "root:*:1::::::\n", "no random root password"
    shown = capsys.readouterr().out
    assert "] Examining the guest ...\n" in shown
    assert shown.endswith("Finishing off\n")
    assert setup.log[-1] == ("shutdown", "")
    (disks,) = setup.appliances.launches
    assert [(disk.path, disk.format, disk.readonly) for disk in disks] == [(setup.image, "raw", False)]


def test_several_disks_formats_and_attachments_in_order(setup: Setup) -> None:
    other, iso = setup.folder / "b.qcow2", setup.folder / "c.iso"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", other, "1M"], check=True)
    iso.write_bytes(b"\0" * 2048)
    assert (
        setup.run("-a", setup.image, "--attach-format", "raw", "--attach", iso, "--add", f"file://{other}")
        == 0
    )
    (disks,) = setup.appliances.launches
    assert [(disk.path.name, disk.format, disk.readonly) for disk in disks] == [
        ("disk.img", "raw", False), ("b.qcow2", "qcow2", False), ("c.iso", "raw", True),
    ]  # fmt: skip


def test_dry_run_opens_disks_read_only(setup: Setup) -> None:
    setup.image.chmod(0o440)
    assert setup.run("-n", "-a", setup.image, "--touch", "/x") == 0
    assert setup.appliances.launches[0][0].readonly


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no disk was given"),
        (["-a", "{image}", "--format", "raw"], "--format must come before"),
        (["-a", "{image}", "--attach-format", "raw"], "--attach-format must come before"),
        (["-a", "ssh://host/disk"], "not a local file"),
        (["-a", "/nonexistent"], "No such file"),
        (["-a", "/dev/null"], "neither a file nor a block device"),
        (["-d", "vm"], "domains of libvirt"),
        (["--format", "vmdk", "-a", "{image}"], "vmdk"),
        (["--format", "qcow2", "-a", "{image}"], "qcow2"),
        (["-a", "{image}", "--work-on-copy", "-n"], "contradict"),
        (["-a", "{image}", "--work-on-copy", "--on-error", "keep"], "contradict"),
        (["-a", "{image}", "--check", "--touch", "/x"], "--check"),
        (["-a", "{image}", "--write", "x:y"], "absolute path"),
        (["-a", "{image}", "--memsize", "no"], "memsize"),
        (["-a", "{image}", "surplus"], "surplus"),
    ],
)  # fmt: skip
def test_mistakes_are_found_before_a_launch(
    words: list[str], message: str, setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    before = setup.image.read_bytes()
    assert setup.run(*[word.format(image=setup.image) for word in words]) in {1, 2}
    assert message in capsys.readouterr().err
    assert setup.appliances.launches == []
    assert setup.image.read_bytes() == before


def test_t13_a_backing_file_is_refused(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    over = setup.folder / "over.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", setup.image, "-F", "raw", over], check=True
    )
    assert setup.run("-a", over, "--touch", "/x") == 1
    assert "backing" in capsys.readouterr().err
    assert setup.appliances.launches == []


def test_z24_what_does_not_fit_the_guest_is_found_before_it_is_changed(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    before = setup.guest.tree()
    assert setup.run("-a", setup.image, "--touch", "/x", "--install", "nginx") == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert setup.guest.tree() == before
    for facts in ({**LINUX, "type": "windows"}, None):
        setup.roots.clear()
        if facts is not None:
            setup.roots["/dev/sda2"] = facts
        assert setup.run("-a", setup.image, "--touch", "/x") == 1
        assert setup.guest.tree() == before
    shown = capsys.readouterr().err
    assert "windows" in shown
    assert "no operating system" in shown


def test_nothing_is_written_while_the_guest_is_examined(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted: list[str] = []
    plain = FakeAppliance.mount

    def mount(self: FakeAppliance, device: str, path: str, *, options: str = "") -> None:
        mounted.append(options)
        plain(self, device, path, options=options)

    monkeypatch.setattr(FakeAppliance, "mount", mount)
    assert setup.run("-a", setup.image, "--touch", "/x") == 0
    assert mounted == ["ro,noload", ""]


def test_a_later_failure_leaves_the_disk_consistent_and_says_so(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.answers["make me"] = CommandResult(4, "no rule\n")
    assert setup.run("-a", setup.image, "--write", "/etc/a:1", "--run-command", "make me") == 1
    shown = capsys.readouterr().err
    assert "exit status 4" in shown
    assert "no rule" in shown
    assert f"{setup.image} was changed up to this operation" in shown
    assert setup.log[-2:] == [("unmount_all", ""), ("shutdown", "")]


def test_a_copy_replaces_the_disk_only_on_success(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    link = setup.folder / "link.img"
    link.symlink_to(setup.image)
    inode = setup.image.stat().st_ino
    plain = FakeAppliance.shutdown

    def shutdown(self: FakeAppliance) -> None:
        path = setup.appliances.launches[-1][0].path
        assert path != setup.image
        with path.open("ab") as file:
            file.write(b" changed")
        plain(self)

    monkeypatch.setattr(FakeAppliance, "shutdown", shutdown)
    setup.answers["make me"] = CommandResult(4, "")
    assert setup.run("-a", link, "--work-on-copy", "--run-command", "make me") == 1
    assert setup.image.read_bytes().endswith(b"template")
    assert setup.image.stat().st_ino == inode
    assert setup.run("-a", link, "--work-on-copy", "--write", "/etc/a:1") == 0
    assert setup.image.read_bytes().endswith(b"template changed")
    assert setup.image.stat().st_mode & 0o7777 == 0o640
    assert link.is_symlink()
    assert sorted(path.name for path in setup.folder.iterdir()) == ["disk.img", "link.img", "state"]


def test_check_lists_what_identifies_the_machine(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.run("-q", "-a", setup.image, "--check") == 0
    assert capsys.readouterr().out == ""
    setup.guest.add("/etc/machine-id", "0123\n")
    setup.guest.add("/etc/ssh/ssh_host_\x1b_key", "x")
    assert setup.run("-q", "-a", setup.image, "--check") == 1
    assert capsys.readouterr().out == (
        "machine-id: /etc/machine-id\nssh-hostkeys: /etc/ssh/ssh_host_\\x1b_key\n"
    )
    assert all(disk.readonly for launch in setup.appliances.launches for disk in launch)


def test_help_has_the_customizations(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.run("--help") == 0
    shown = capsys.readouterr().out
    assert "--append-line FILE:LINE" in shown
    assert "Customizations, in the order given" in shown


def test_the_first_boot_of_an_image(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    settings, report = Settings(), ConsoleReporter("pybuilder", quiet=True)

    def shown(image_format: str | None = None) -> tuple[int, str]:
        code = modes.firstboot_log(settings, report, setup.image, image_format)
        return code, capsys.readouterr().out

    setup.patch(modes)
    assert shown() == (0, "no first-boot scripts\n")
    setup.guest.add("/usr/lib/virt-sysprep/scripts/5000-0002-b", "")
    setup.guest.add(
        "/var/lib/pybuilder/firstboot-status",
        "2026-01-01T00:00:00Z\tstarted\t5000-0001-a\n2026-01-01T00:00:05Z\tfinished\t5000-0001-a\t0\n",
    )
    setup.guest.add("/root/virt-sysprep-firstboot.log", "it \x1b[31m said\n")
    code, text = shown("raw")
    assert code == 1
    assert text == (
        "5000-0001-a: exit status 0, from 2026-01-01T00:00:00Z to 2026-01-01T00:00:05Z\n"
        "5000-0002-b: waits for the first boot\n\nit \\x1b[31m said\n"
    )
    assert setup.appliances.launches[-1][0].readonly
