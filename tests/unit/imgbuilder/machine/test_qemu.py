"""QEMU's arguments for a machine, compared with those of its script."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.machine.model import Forward, Machine
from imgbuilder.machine.qemu import run_command
from imgbuilder.machine.runscript import run_script

MACHINE = Machine(
    "web, new", Path("/images/web, new.qcow2"), OutputFormat.QCOW2, memory=512, processors=2,
    forwards=(Forward(8080, 80), Forward(5353, 53, "udp")),
)  # fmt: skip


@pytest.mark.parametrize("graphic", [False, True])
@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("arch", ["x86_64", "i686"])
def test_a_machine_is_the_same_as_with_its_script(
    tmp_path: Path, arch: str, write: bool, graphic: bool
) -> None:
    image = tmp_path / "web, new.qcow2"
    image.touch()
    machine = replace(MACHINE, image=image, arch=arch, graphic=graphic)
    script, qemu = tmp_path / "run", tmp_path / "qemu"
    script.write_text(run_script(machine))
    qemu.write_text("#!/bin/sh\n[ $1 != --version ] || echo 'QEMU emulator version 7.2.0'; exit 1\n")
    qemu.chmod(0o755)
    words = ["sh", str(script), "--dry-run", *(["--write"] if write else [])]
    env = {"PATH": os.environ["PATH"], "QEMU": str(qemu)}
    written = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
    ours = run_command(machine, "tcg", write=write)
    assert sorted(shlex.split(written)[1:]) == sorted(ours[1:])


def test_a_comma_ends_no_name_and_the_disk_is_only_read() -> None:
    words = run_command(MACHINE, "kvm")
    drives = [words[place + 1] for place, word in enumerate(words) if word == "-drive"]
    assert drives == ["if=none,id=disk0,file=/images/web,, new.qcow2,format=qcow2,snapshot=on"]
    assert words[words.index("-name") + 1] == "web,, new"


def test_uefi_gets_its_code_read_only_and_variables_that_it_may_change() -> None:
    words = run_command(MACHINE, "tcg", (Path("/fw/code"), Path("/run/a,b")))
    assert "if=pflash,format=raw,readonly=on,file=/fw/code" in words
    assert "if=pflash,format=raw,file=/run/a,,b" in words
