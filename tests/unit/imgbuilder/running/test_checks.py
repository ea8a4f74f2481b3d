"""The checks of this host before a run."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from imgbuilder.errors import ToolError, UsageError, WorkspaceError
from imgbuilder.machine.model import BOARDS, Firmware, Forward
from imgbuilder.running.checks import RunOptions, check_host, check_memory
from tests.fakes.qemu_on_terminal import Programs


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    return Programs(tmp_path / "programs", monkeypatch)


def test_memory_that_is_left_includes_swap(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable:  512000 kB\nSwapFree:  102400 kB\n")
    check_memory(600, meminfo)
    with pytest.raises(WorkspaceError, match="601 MiB of memory do not fit: this machine has 600 MiB left"):
        check_memory(601, meminfo)
    check_memory(1 << 20, tmp_path / "missing")


@pytest.mark.parametrize(("kind", "other"), [("tcp", ":80"), ("udp", ":80/udp")])
def test_a_port_in_use_is_refused_with_another_one(kind: str, other: str) -> None:
    type_ = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, type_) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == "tcp":
            taken.listen()
        forward = Forward(taken.getsockname()[1], 80, kind)
        with pytest.raises(
            UsageError, match=f"{kind} port {forward.host} of this machine is in use"
        ) as caught:
            check_host(RunOptions(forwards=(forward,)), "x86_64")
        assert str(caught.value.hint).endswith(other)
    check_host(RunOptions(forwards=(forward,)), "x86_64")


def test_firmware_is_looked_for_where_it_is_certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    for name in ("x86_64", "aarch64"):
        monkeypatch.setitem(BOARDS, name, replace(BOARDS[name], firmware=()))
    check_host(RunOptions(), "x86_64")
    for options, arch in ((RunOptions(firmware=Firmware.UEFI), "x86_64"), (RunOptions(), "aarch64")):
        with pytest.raises(ToolError, match="UEFI firmware"):
            check_host(options, arch)


def test_ssh_needs_its_programs(programs: Programs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs.folder))
    monkeypatch.setattr("imgbuilder.host.process._SYSTEM_FOLDERS", ())
    check_host(RunOptions(), "x86_64")
    with pytest.raises(ToolError, match="ssh-keygen is not installed") as caught:
        check_host(RunOptions(ssh=True), "x86_64")
    assert "openssh-client" in str(caught.value.hint)
