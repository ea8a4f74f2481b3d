"""pybuilder-customize without an appliance: disks, checks before any change, and failures."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from imgbuilder.appliance import ApplianceOptions, Attachment
from imgbuilder.cli import customize_main as cli
from imgbuilder.cli import main as pybuilder
from imgbuilder.errors import GuestCallError
from imgbuilder.events import Reporter
from imgbuilder.guests.ports import CommandResult
from imgbuilder.services import Services
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.fakes.template import tiny_guest
from tests.fakes.windows import fill_windows

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
        monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))

    def _teach(self, appliance: FakeAppliance) -> None:
        for pattern, answer in self.answers.items():
            appliance.on_sh(pattern, answer)

    def run(self, *arguments: str | Path, program: ModuleType = cli) -> int:
        services = partial(Services, open_appliance=self.appliances)
        code: int = program.run([str(word) for word in arguments], services)
        return code

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
    ("arguments", "message"),
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
    arguments: list[str], message: str, setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    before = setup.image.read_bytes()
    assert setup.run(*[word.format(image=setup.image) for word in arguments]) in {1, 2}
    assert message in capsys.readouterr().err
    assert setup.appliances.launches == []
    assert setup.image.read_bytes() == before


@pytest.mark.row("T13")
def test_a_backing_file_is_refused(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    over = setup.folder / "over.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", setup.image, "-F", "raw", over], check=True
    )
    assert setup.run("-a", over, "--touch", "/x") == 1
    assert "backing" in capsys.readouterr().err
    assert setup.appliances.launches == []


@pytest.mark.row("Z24")
def test_operations_that_do_not_fit_the_guest_are_refused_before_a_change(
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


def test_a_later_failure_leaves_the_disk_consistent_and_is_reported(
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


def test_check_lists_files_that_identify_the_machine(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert shown.index("Build:") < shown.index("Customize:") < shown.index("Appliance:")


def test_the_first_boot_of_an_image(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*arguments: str) -> tuple[int, str]:
        code = setup.run("-q", "firstboot-log", setup.image, *arguments, program=pybuilder)
        return code, capsys.readouterr().out

    assert shown() == (0, "no first-boot scripts\n")
    setup.guest.add("/usr/lib/virt-sysprep/scripts/5000-0002-b", "")
    setup.guest.add(
        "/var/lib/pybuilder/firstboot-status",
        "2026-01-01T00:00:00Z\tstarted\t5000-0001-a\n2026-01-01T00:00:05Z\tfinished\t5000-0001-a\t0\n",
    )
    setup.guest.add("/root/virt-sysprep-firstboot.log", "it \x1b[31m said\n")
    code, text = shown("--format", "raw")
    assert code == 1
    assert text == (
        "5000-0001-a: exit status 0, from 2026-01-01T00:00:00Z to 2026-01-01T00:00:05Z\n"
        "5000-0002-b: waiting for the first boot\n\nit \\x1b[31m said\n"
    )
    assert setup.appliances.launches[-1][0].readonly


def encrypted(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the guest into a LUKS container on the second partition, whose key is "right"."""
    inside = FakeFilesystem("ext4", setup.guest)
    disk = FakeDisk(
        {1: FakeFilesystem("vfat"), 2: FakeFilesystem("crypto_LUKS", uuid="U-1", inside=inside)}, setup.roots
    )
    monkeypatch.setattr(setup.appliances, "_disk", lambda _path: disk)
    found = dict(setup.roots)
    setup.roots.clear()
    plain = FakeAppliance.open_luks

    def open_luks(self: FakeAppliance, device: str, key: str, name: str) -> None:
        self.secrets[device] = "right"
        plain(self, device, key, name)
        setup.roots[f"/dev/mapper/{name}"] = found["/dev/sda2"]

    monkeypatch.setattr(FakeAppliance, "open_luks", open_luks)


@pytest.mark.parametrize(
    "arguments", [["--key", "/dev/sda2:key:right"], ["--keys-from-stdin"], ["--key", "all:key:right"]]
)
def test_an_encrypted_guest_is_opened_by_its_key(
    arguments: list[str], setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted(setup, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO("wrong\nright\n"))
    assert setup.run("-a", setup.image, *arguments, "--write", "/etc/a:1") == 0
    assert setup.guest.read("/etc/a") == b"1"
    monkeypatch.setattr("sys.stdin", io.StringIO("right"))
    assert setup.run("-a", setup.image, *arguments, "--check") in {0, 1}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "give the key: --key /dev/sda2:file:FILE"),
        (["--key", "all:key:canary"], "no key given with --key opens /dev/sda2"),
        (["--key", "all"], "--key ID:file:FILE"),
        (["--key", "all:file:/nonexistent"], "cannot be read"),
        (["--keys-from-stdin"], "no key came"),
    ],
)
def test_without_the_right_key_nothing_is_changed(
    arguments: list[str],
    expected: str,
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    encrypted(setup, monkeypatch)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert setup.run("-a", setup.image, *arguments, "--write", "/etc/a:1") in {1, 2}
    shown = capsys.readouterr().err
    assert expected in shown
    assert "canary" not in shown
    assert not setup.guest.exists("/etc/a")


def test_the_appliances_options_arrive(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """--check starts an appliance as well."""
    seen: list[ApplianceOptions] = []
    plain = setup.appliances

    def opened(disks: Sequence[Attachment], options: ApplianceOptions | None, on_event: Reporter) -> Any:
        assert options is not None
        seen.append(options)
        return plain(disks, options, on_event)

    monkeypatch.setattr(setup, "appliances", opened)
    arguments = [
        "--no-instant",
        "--cache",
        f"{setup.folder}/c",
        "-m",
        "700",
        "--smp",
        "3",
        "--launch-timeout",
        "9",
        "-x",
    ]
    assert setup.run("-a", setup.image, *arguments, "--touch", "/x") == 0
    assert setup.run("-a", setup.image, *arguments, "--check") in {0, 1}
    assert setup.run("-a", setup.image, "--run-command", "true") == 0
    assert setup.run("-a", setup.image, "--no-network", "--run-command", "true") == 0
    expected = ApplianceOptions(
        memsize=700, smp=3, launch_timeout=9, trace=True, instant=False, cache=setup.folder / "c"
    )
    assert seen == [expected, expected, ApplianceOptions(network=True), ApplianceOptions()]


def test_the_command_line_of_virt_customize_is_known() -> None:
    """All options that the installed virt-customize lists, except those for Red Hat's subscriptions."""
    try:
        done = subprocess.run(
            ["virt-customize", "--long-options"], capture_output=True, text=True, check=True
        )
    except OSError:
        pytest.skip("virt-customize is not installed")
    theirs = {name for name in done.stdout.split() if not name.startswith("--sm-")}
    ours = {
        name
        for param in cli.pybuilder_customize.get_params(click.Context(cli.pybuilder_customize))
        for name in [*param.opts, *param.secondary_opts]
    }
    assert theirs - ours == set()


def test_operations_of_a_recipe(setup: Setup) -> None:
    recipe = setup.folder / "r.toml"
    recipe.write_text(
        'template = "x"\nsize = "1G"\n[variables]\na = "1"\n'
        '[[operation]]\nwrite = "/etc/a"\ncontent = "${{ a }}"'
    )
    assert setup.run("-a", setup.image, "--recipe", recipe, "--set", "a=2", "--write", "/etc/b:3") == 0
    assert (setup.guest.read("/etc/a"), setup.guest.read("/etc/b")) == (b"2", b"3")


class TwoDisks:
    """A guest, and a second image of the same template."""

    def __init__(self, setup: Setup, monkeypatch: pytest.MonkeyPatch, kind: str = "ext4") -> None:
        self.other = setup.folder / "other.img"
        self.other.write_bytes(bytes(4096))
        self.guests = {}
        disks = {}
        for path, letter in ((setup.image, "a"), (self.other, "b")):
            guest = tiny_guest()
            guest.add("/etc/fstab", "UUID=same / ext4 defaults 0 1\nLABEL=boot /boot ext4 defaults 0 2\n")
            guest.add_dir("/boot")
            self.guests[letter] = guest
            disks[path] = FakeDisk(
                {1: FakeFilesystem("ext4", label="boot"), 2: FakeFilesystem(kind, guest, uuid="same")},
                {f"/dev/sd{letter}2": LINUX},
            )
        monkeypatch.setattr(setup.appliances, "_disk", lambda path: disks[path])


def test_an_attached_sibling_is_never_customized(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    two = TwoDisks(setup, monkeypatch, "btrfs")
    before = two.guests["b"].tree()
    assert setup.run("-a", setup.image, "--attach", two.other, "--write", "/etc/mark:M") == 0
    assert two.guests["a"].read("/etc/mark") == b"M"
    assert two.guests["b"].tree() == before
    assert {name for action, name in setup.log if action == "mount"} == {"/dev/sda1", "/dev/sda2"}
    shown = setup.log.index(("show_attached", ""))
    assert not [action for action, _ in setup.log[shown:] if action == "mount"], (
        "commands see it, no search does"
    )


@pytest.mark.parametrize(
    ("kind", "expected"), [("ext4", "have this name"), ("btrfs", "copies of each other")]
)
def test_two_copies_of_one_disk_are_refused_before_a_change(
    kind: str,
    expected: str,
    setup: Setup,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two = TwoDisks(setup, monkeypatch, kind)
    assert setup.run("-a", setup.image, "-a", two.other, "--write", "/etc/mark:M") == 1
    shown = capsys.readouterr().err
    assert expected in shown
    assert "nothing was changed" in shown
    assert not any(guest.exists("/etc/mark") for guest in two.guests.values())


@pytest.mark.parametrize("options", ["defaults", "nofail"])
def test_a_missing_disk_of_the_guest(options: str, setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    setup.guest.add("/etc/fstab", f"/dev/vdb3 /data ext4 {options} 0 2\n")
    setup.guest.add_dir("/data")
    code = setup.run("-q", "-a", setup.image, "--write", "/data/hello:DATA")
    shown = capsys.readouterr().err
    assert shown.count("/dev/vdb3") == 1
    assert code == (0 if options == "nofail" else 1)
    assert setup.guest.exists("/data/hello") is (options == "nofail")
    assert setup.run("-a", setup.image, "--check") in {0, 1}, "to look at what is there needs no other disk"
    assert "/dev/vdb3" in capsys.readouterr().err


def test_the_order_of_disks_gives_their_names(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    data = setup.folder / "data.img"
    data.write_bytes(b"\0" * 4096)
    setup.guest.add("/etc/fstab", "/dev/vda2 / ext4\n/dev/vdb1 /data ext4 defaults 0 2\n")
    setup.guest.add_dir("/data")
    disks = {
        setup.image: FakeDisk({2: FakeFilesystem("ext4", setup.guest)}, {"/dev/sda2": LINUX}),
        data: FakeDisk({1: FakeFilesystem("ext4")}),
    }
    monkeypatch.setattr(setup.appliances, "_disk", lambda path: disks[path])
    assert setup.run("-a", setup.image, "-a", data, "--touch", "/x") == 0
    assert [name for action, name in setup.log if action == "mount"] == ["/dev/sda2", "/dev/sdb1"] * 2


def test_a_qcow2_image_on_a_block_device_may_not_name_files_of_this_host(
    setup: Setup, device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "small.qcow2"
    for options, code in ((["-b", "/etc/hostname", "-F", "raw"], 1), ([], 0)):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, image, "4M"], check=True)
        with device.open("r+b") as file:
            file.write(image.read_bytes())
        assert setup.run("-n", "--format", "qcow2", "-a", device, "--touch", "/x") == code
    assert "its backing file, /etc/hostname" in capsys.readouterr().err
    assert len(setup.appliances.launches) == 1


def test_an_overlay_is_customized_if_its_backing_image_is_named(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    below, over, link = (setup.folder / name for name in ("below.img", "vm.qcow2", "links/vm"))
    below.write_bytes(bytes(4096))
    arguments = ["-F", "raw", "-b", "below.img", str(over)]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments], check=True)
    assert setup.run("-a", over, "--write", "/etc/a:1") == 1
    error = capsys.readouterr().err
    assert f"--backing {below}" in error
    assert "publisher" not in error
    assert setup.run("-a", setup.image, "--backing", below) == 2, "no disk lies over it"
    assert setup.appliances.launches == []
    link.parent.mkdir()
    link.symlink_to(over)
    # QEMU resolves relative names from the folder of the image, so it does not get the name of the link.
    for name in (over, link):
        assert setup.run("-a", name, "--backing", below, "--write", "/etc/a:1") == 0
        assert [disk.path for disk in setup.appliances.launches[-1]] == [over]


def test_packed_and_read_only_files_start_no_appliance(
    setup: Setup, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, arguments in ((b"\xfd7zXZ\x00", "xz -dc"), (b"hsqs", "squashfs"), (b"\x1f\x8b", "gzip -dc")):
        setup.image.write_bytes(content + bytes(4092))
        assert setup.run("-a", setup.image, "--write", "/etc/a:1") == 1
        assert arguments in capsys.readouterr().err
    assert setup.appliances.launches == []


def test_a_read_only_root_is_refused(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = FakeDisk({1: FakeFilesystem("squashfs", tiny_guest())}, {"/dev/sda1": LINUX})
    monkeypatch.setattr(setup.appliances, "_disk", lambda _path: disk)
    assert setup.run("-a", setup.image, "--write", "/etc/a:1") == 1
    assert "squashfs file system, which is read-only" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["defaults", "nofail"])
def test_read_only_filesystems_are_found_before_a_change(
    options: str, setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    setup.guest.add("/etc/fstab", f"/dev/sda2 / ext4\n/dev/sda1 /data vfat {options} 0 2\n")
    setup.guest.add_dir("/data")
    plain = FakeAppliance.mount

    def mount(self: FakeAppliance, device: str, path: str, *, options: str = "") -> None:
        if device == "/dev/sda1" and not options:
            raise GuestCallError("it sleeps")
        plain(self, device, path, options=options)

    monkeypatch.setattr(FakeAppliance, "mount", mount)
    assert setup.run("-q", "-a", setup.image, "--touch", "/x") == (0 if options == "nofail" else 1)
    assert setup.guest.exists("/x") is (options == "nofail")
    assert "/dev/sda1 cannot be mounted on /data of the guest: it sleeps" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-a", "--attach"])
def test_the_same_disk_twice_starts_no_appliance(
    option: str, setup: Setup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = tmp_path / "same.img"
    setup.image.write_bytes(bytes(4096))
    same.hardlink_to(setup.image)
    for other in (setup.image, same):
        assert setup.run("-a", setup.image, option, other, "--hostname", "web") == 2
        assert "is given twice" in capsys.readouterr().err
    assert setup.appliances.appliances == []


def test_a_disk_without_its_option(setup: Setup, capsys: pytest.CaptureFixture[str]) -> None:
    assert setup.run("my b.img", "--hostname", "web") == 2
    assert "pybuilder-customize -a 'my b.img'" in capsys.readouterr().err


def test_a_windows_is_customized_and_refused_what_is_for_linux(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    windows = FakeFilesystem("ntfs", fill_windows(FakeGuest()))
    facts = {"type": "windows", "arch": "x86_64", "product_name": "Windows 10 Pro", "osinfo": "win10"}
    disk = FakeDisk({2: windows}, {"/dev/sda2": facts})
    monkeypatch.setattr(setup.appliances, "_disk", lambda _path: disk)
    assert setup.run("-a", setup.image, "--write", "C:\\users\\a:1", "--hostname", "new") == 0
    assert windows.guest.read("/Users/a") == b"1"
    before = windows.guest.tree()
    for arguments, message in (
        (["--mkdir", "/new", "--install", "x"], "--install: the guest is Windows"),
        (["--mkdir", "/new", "--firstboot-command", "x"], "rhsrvany.exe"),
        (["--check"], "for Linux only"),
    ):
        assert setup.run("-a", setup.image, *arguments) == 1
        assert message in capsys.readouterr().err
    for answer, state in (
        (14, "is hibernated"),
        (15, "was not shut down cleanly"),
        (12, "ntfs-3g.probe: 12"),
    ):
        windows.probe = answer
        assert setup.run("-a", setup.image, "--mkdir", "/new") == 1
        assert state in capsys.readouterr().err
    windows.probe = 0
    windows.guest.add("/etc/os-release", "ID=debian\n")
    assert setup.run("-a", setup.image, "--mkdir", "/new") == 1
    assert "windows by its root, and linux by its files" in capsys.readouterr().err
    windows.guest.remove("/etc/os-release")
    assert windows.guest.tree() == before
