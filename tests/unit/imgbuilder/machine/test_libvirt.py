"""Domains of libvirt, judged by libvirt's own schema; virt-install's command line; finding the firmware."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from imgbuilder.appliance import accelerator
from imgbuilder.appliance.accelerator import KvmVerdict
from imgbuilder.cli import machines
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.machine.libvirt import domain_name, libvirt_xml, virt_install_command
from imgbuilder.machine.model import Firmware, Machine, firmware_of
from tests.fakes.commands import Command
from tests.fakes.machine import locked

MACHINE = Machine("my web", Path("/srv/a,b & <c>.img"), OutputFormat.RAW)


@pytest.fixture(autouse=True)
def without_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is booted to test it."""
    monkeypatch.setattr(accelerator, "_DEVICE", Path("/nonexistent"))


@pytest.mark.parametrize("arch", ["x86_64", "i686", "aarch64"])
@pytest.mark.parametrize("graphic", [True, False])
@pytest.mark.parametrize("firmware", Firmware)
def test_libvirts_schema_is_content(tmp_path: Path, arch: str, graphic: bool, firmware: Firmware) -> None:
    if shutil.which("virt-xml-validate") is None or shutil.which("xmllint") is None:
        pytest.skip("virt-xml-validate (libvirt-clients) or xmllint (libxml2-utils) is not installed")
    path = tmp_path / "domain.xml"
    path.write_text(libvirt_xml(replace(MACHINE, arch=arch, graphic=graphic, firmware=firmware), kvm=graphic))
    done = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_domain_says() -> None:
    root = ET.fromstring(libvirt_xml(replace(MACHINE, memory=2048, processors=3, firmware=Firmware.UEFI)))
    assert root.findtext("name") == "my-web"
    assert root.findtext("memory") == "2048"
    assert root.findtext("vcpu") == "3"
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == "/srv/a,b & <c>.img"
    system = root.find("os")
    assert system is not None
    assert system.get("firmware") == "efi"
    kinds = {item.get("bus") or item.get("type") for item in root.iterfind("devices/*/target")}
    assert kinds == {"virtio", "serial"}


@pytest.mark.parametrize("name", ["a\nb", "a\x01", "a\udc80"])
def test_names_that_xml_cannot_hold(name: str) -> None:
    with pytest.raises(UsageError, match="XML"):
        libvirt_xml(replace(MACHINE, image=Path(name)))


@pytest.mark.parametrize(("name", "shown"), [("", "guest"), ("../x", "x"), ("ä b", "b"), ("a;b", "a-b")])
def test_names_of_domains(name: str, shown: str) -> None:
    assert domain_name(replace(MACHINE, name=name)) == shown


def test_virt_install() -> None:
    words = shlex.split(virt_install_command(replace(MACHINE, firmware=Firmware.UEFI), kvm=False))
    assert words[words.index("--disk") + 1] == "path=/srv/a,,b & <c>.img,format=raw,bus=virtio"
    assert words[words.index("--virt-type") + 1] == "qemu"
    assert words[-2:] == ["--boot", "uefi"]


def disk(folder: Path, script: str) -> Path:
    path = folder / "disk.img"
    with path.open("wb") as file:
        file.truncate(16 << 20)
    if script:
        subprocess.run(
            ["/usr/sbin/sfdisk", "-q", "--no-tell-kernel", path],
            input=script,
            text=True,
            check=True,
            capture_output=True,
        )
    return path


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("", Firmware.BIOS),
        ("label: dos\ntype=83\n", Firmware.BIOS),
        ("label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\n", Firmware.BIOS),
        ("label: gpt\nsize=4M,type=U\nsize=+\n", Firmware.UEFI),
        ("label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=4M,type=U\n", Firmware.BIOS),
    ],
)
def test_firmware(tmp_path: Path, script: str, found: Firmware) -> None:
    path = disk(tmp_path, script)
    assert firmware_of(path, DiskFormat.RAW, "x86_64") is found
    assert firmware_of(path, DiskFormat.RAW, "aarch64") is Firmware.UEFI


def test_the_command(tmp_path: Path, pybuilder: Command) -> None:
    image = disk(tmp_path, "label: gpt\nsize=4M,type=U\nsize=+\n")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    script = tmp_path / "link" / "run"
    words = ("-o", str(script), "--arch", "x86_64", "--forward", "80")
    pybuilder("machine", "script", str(image), *words).good()
    assert script.stat().st_mode & 0o777 == 0o755
    text = script.read_text()
    assert "\nimage=../disk.img\n" in text
    assert "pflash" in text
    shown = pybuilder("machine", "libvirt", str(image), "--firmware", "bios", "--memsize", "512").good().out
    assert "efi" not in shown
    assert '<memory unit="MiB">512</memory>' in shown
    foreign = tmp_path / "disk.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", foreign, "4M"], check=True)
    assert "format=vmdk" in pybuilder("machine", "virt-install", str(foreign), "--format", "vmdk").good().out
    pybuilder("machine", "virt-install", str(image), "--format", "vmdk").failed(1, "is not a vmdk image")


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [
        (KvmVerdict(usable=True, reason="", proved=True), "kvm"),
        (KvmVerdict(usable=False, reason="forbidden", proved=True, forbidden=True), "kvm"),
        (KvmVerdict(usable=False, reason="KVM is broken", proved=True), "qemu"),
    ],
)
def test_kvm_that_does_not_work_is_not_written(
    tmp_path: Path, pybuilder: Command, monkeypatch: pytest.MonkeyPatch, verdict: KvmVerdict, kind: str
) -> None:
    monkeypatch.setattr(machines, "kvm_verdict", lambda *_: verdict)
    image = disk(tmp_path, "label: gpt\nsize=+\n")
    ran = pybuilder("machine", "libvirt", str(image), "--arch", platform.machine()).good()
    assert ran.out.startswith(f'<domain type="{kind}">')
    assert ("KVM is broken; emulation is written" in ran.err) == (kind == "qemu")


def test_the_image_is_not_replaced_by_its_script(tmp_path: Path, pybuilder: Command) -> None:
    image = disk(tmp_path, "label: gpt\nsize=+\n")
    before = image.read_bytes()
    (tmp_path / "link").symlink_to(image)
    for name in ("disk.img", "link"):
        pybuilder("machine", "script", str(image), "-o", str(tmp_path / name)).failed(2, "the image itself")
    other = tmp_path / "other.img"
    other.write_bytes(before)
    with locked(other):
        pybuilder("machine", "script", str(image), "-o", str(other)).failed(1, "is used by another program")
    assert image.read_bytes() == other.read_bytes() == before


def test_a_running_machine_can_be_described(tmp_path: Path, pybuilder: Command) -> None:
    image = disk(tmp_path, "label: gpt\nsize=+\n")
    with locked(image):
        pybuilder("machine", "libvirt", str(image), "-o", str(tmp_path / "machine.xml")).good()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["machine", "script", "/nonexistent.img"], "/nonexistent.img"),
        (["machine", "script", "/nonexistent.img", "--format", "vdi"], "no such file"),
        (["machine", "script", "DISK", "--forward", "x"], "--forward"),
        (["machine", "script", "DISK", "debian-12"], "debian-12"),
        (["machine", "script", "DISK", "--install", "x"], "--install"),
        (["machine", "script", "DISK", "--arch", "vax"], "vax"),
        (["machine", "script", "DISK", "-o", "/nonexistent/run"], "/nonexistent/run"),
        (["machine", "script", "DISK", "--format", "floppy"], "floppy"),
        (["machine", "libvirt", "FOREIGN"], "foreign.img"),
    ],
)
def test_mistakes(tmp_path: Path, pybuilder: Command, words: list[str], said: str) -> None:
    (tmp_path / "foreign.img").write_bytes(b"KDMV" + bytes(70_000))
    files = {"DISK": str(disk(tmp_path, "")), "FOREIGN": str(tmp_path / "foreign.img")}
    ran = pybuilder(*(files.get(word, word) for word in words))
    assert ran.code in {1, 2}
    assert said in ran.err
    assert "Traceback" not in ran.err
