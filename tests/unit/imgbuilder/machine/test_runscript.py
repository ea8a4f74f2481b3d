"""The run script, run by real shells, with a stand-in for QEMU that says how it was called."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.machine import runscript
from imgbuilder.machine.model import Board, Firmware, Forward, Machine
from imgbuilder.machine.runscript import run_script

MACHINE = Machine("web", Path("web.img"), OutputFormat.QCOW2)
_QEMU = """\
#!/bin/sh
if [ "$1" = --version ]; then echo "QEMU emulator version ${VERSION:-7.2.9} (Debian)"; exit 0; fi
case " $* " in *" -monitor stdio "*) [ -z "${KVM-}" ] && kill -ABRT $$; exit $KVM;; esac
printf '%s\\n' "$@" >"$CALLED"
exit ${STATUS:-0}
"""


class Place:
    """A folder with a script, its image, and a stand-in for QEMU."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.called = folder / "called"
        self.qemu = folder / "qemu-stub"
        self.qemu.write_text(_QEMU)
        self.qemu.chmod(0o755)

    def write(self, machine: Machine, *, image: bool = True) -> Path:
        script = self.folder / "run"
        script.write_text(run_script(machine))
        script.chmod(0o755)
        if image:
            (self.folder / machine.image).write_bytes(b"")
        return script

    def run(
        self, script: Path, *words: str, shell: Sequence[str] = (), **env: str
    ) -> subprocess.CompletedProcess[str]:
        self.called.unlink(missing_ok=True)
        return subprocess.run(
            [*shell, script, *words], cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "QEMU": str(self.qemu), "CALLED": str(self.called), **env},
            check=False,
        )  # fmt: skip

    def words(self) -> list[str]:
        return self.called.read_text().split("\n")[:-1]

    def value(self, option: str) -> str:
        words = self.words()
        return words[words.index(option) + 1]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("shell", [[], ["dash"], ["bash", "--posix"]])
def test_what_qemu_is_asked_for(place: Place, shell: list[str]) -> None:
    script = place.write(
        replace(MACHINE, forwards=(Forward(8080, 80), Forward(5353, 53, "udp")), memory=2048)
    )
    done = place.run(script, shell=shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"file={place.folder}/web.img,format=qcow2,snapshot=on" in place.value("-drive")
    assert place.value("-m") == "2048"
    assert place.value("-nic") == (
        "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:5353-:53"
    )
    assert "virtio-blk-pci,drive=disk0,werror=report" in place.words()
    assert "-display" in place.words()
    assert "tcp port 8080 of this machine is port 80 of the guest" in done.stdout


def test_options(place: Place) -> None:
    script = place.write(MACHINE)
    place.run(script, "--write", "--memory", "77", "--graphic", "--", "-snapshot", "a b")
    assert "snapshot=off" in place.value("-drive")
    assert place.value("-m") == "77"
    assert "virtio-vga" in place.words()
    assert place.words()[-2:] == ["-snapshot", "a b"]
    assert "-display" not in place.words()
    for wrong, words in (
        (["--memory"], "number"), (["--memory", "lots"], "lots"), (["--what"], "Usage"), (["x"], "Usage"),
    ):  # fmt: skip
        done = place.run(script, *wrong)
        assert done.returncode in {1, 2}
        assert words in done.stderr
        assert not place.called.exists()
    assert "--write" in place.run(script, "--help").stdout


def test_kvm_counts_only_where_it_works(place: Place) -> None:
    script = place.write(MACHINE)
    assert place.run(script).stderr == "", "the shell's word about a QEMU that aborts"
    assert place.value("-accel") == "tcg"
    if os.access("/dev/kvm", os.W_OK):
        place.run(script, KVM="0")
        assert place.value("-accel") == "kvm"


def test_the_status_is_that_of_qemu(place: Place) -> None:
    assert place.run(place.write(MACHINE), STATUS="3").returncode == 3


def test_script_and_image_can_be_moved_and_need_not_be_writable(place: Place, tmp_path: Path) -> None:
    place.write(MACHINE)
    moved = tmp_path / "else where, $(x)"
    moved.mkdir()
    for name in ("run", "web.img"):
        (tmp_path / name).rename(moved / name)
        (moved / name).chmod(0o555)
    moved.chmod(0o555)
    try:
        done = place.run(moved / "run")
        assert done.returncode == 0, done.stderr
        assert place.value("-drive").startswith(
            f"if=none,id=disk0,file={str(moved).replace(',', ',,')}/web.img,"
        )
    finally:
        moved.chmod(0o755)


def test_an_image_that_is_not_there(place: Place) -> None:
    done = place.run(place.write(MACHINE, image=False))
    assert done.returncode == 1
    assert (
        "web.img is missing; if it was moved, write this script again: pybuilder machine script IMAGE -o run"
        in done.stderr
    )


def test_no_qemu(place: Place) -> None:
    done = place.run(place.write(MACHINE), QEMU="no-such-qemu")
    assert done.returncode == 1
    assert "qemu-system-x86 (debian, ubuntu, arch), qemu-system-x86-core (fedora)" in done.stderr


@pytest.mark.parametrize(
    ("version", "tested", "warned"),
    [
        ("7.2.9", "7.2", False),
        ("8.0", "7.2", False),
        ("10.1", "9.2", False),
        ("7.1", "7.2", True),
        ("9.9", "10.0", True),
    ],
)
def test_older_qemu(place: Place, version: str, tested: str, warned: bool) -> None:
    done = place.run(place.write(replace(MACHINE, tested=tested)), VERSION=version)
    assert done.returncode == 0
    assert ("older" in done.stderr) == warned, done.stderr


def test_uefi_has_variables_of_its_own_which_are_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, variables = place.folder / "code.fd", place.folder / "vars.fd"
    code.write_text("code")
    variables.write_text("empty")
    variables.chmod(0o444)
    fake = Board(
        "q35", "ttyS0", "qemu-system-x86_64",
        (("/nonexistent", "/nonexistent"), (str(code), str(variables))), "uefi-x86_64",
    )  # fmt: skip
    monkeypatch.setattr(runscript, "board", lambda _arch: fake)
    script = place.write(replace(MACHINE, firmware=Firmware.UEFI))
    temporary = place.folder / "my, tmp"
    temporary.mkdir()
    done = place.run(script, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    drives = [word for word in place.words() if word.startswith("if=pflash")]
    assert drives[0] == f"if=pflash,format=raw,readonly=on,file={code}"
    assert str(temporary).replace(",", ",,") in drives[1]
    assert list(temporary.iterdir()) == []
    code.unlink()
    assert "ovmf (debian, ubuntu)" in place.run(script).stderr


def test_other_architectures() -> None:
    assert "-machine virt" in run_script(replace(MACHINE, arch="aarch64", firmware=Firmware.UEFI))
    with pytest.raises(UsageError, match="s390x"):
        run_script(replace(MACHINE, arch="s390x"))


@given(st.text(max_size=30), st.text(max_size=30))
@example("@IMAGE@ $(id) `id` ' \" \\", "-n %s \x1b[2J\n\rend")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_and_hint(place: Place, name: str, hint: str) -> None:
    done = place.run(place.write(replace(MACHINE, name=name, hints=(hint,))))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.split("\n")
    assert len(lines) == 5
    assert "\x1b" not in done.stdout
    if name.isprintable() and hint.isprintable():
        assert lines[:2] == [name, hint]


@pytest.mark.parametrize("text", ["", "0", "65536", "a", "80/sctp", "1:2:3", "-1", "٣"])
def test_wrong_ports(text: str) -> None:
    with pytest.raises(UsageError, match="--forward"):
        Forward.parse(text)


def test_ports() -> None:
    assert Forward.parse("80") == Forward(8080, 80)
    assert Forward.parse("8081:80") == Forward(8081, 80)
    assert Forward.parse("3000") == Forward(3000, 3000)
    assert Forward.parse("5353:53/udp") == Forward(5353, 53, "udp")
