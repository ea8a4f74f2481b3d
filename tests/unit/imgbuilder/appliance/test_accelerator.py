"""The test of KVM, and the remembered verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.appliance import accelerator
from imgbuilder.appliance.accelerator import forget, kvm_verdict, remember_broken
from imgbuilder.events import ignore


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake host with a device, a kernel and a hypervisor."""
    device, kernel = tmp_path / "kvm", tmp_path / "vmlinuz-6.1.0-1"
    device.touch()
    kernel.touch()
    monkeypatch.setattr(accelerator, "_DEVICE", device)
    monkeypatch.setattr(accelerator, "readable_kernels", lambda: [kernel])
    monkeypatch.setattr(accelerator, "_PROBE_LIMIT", 1.0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def hypervisor(host: Path, body: str) -> Path:
    program = host / "qemu-system-x86_64"
    program.write_text(f"#!/bin/sh\necho run >>{host}/runs\n{body}\n")
    program.chmod(0o755)
    return host / "runs"


def runs(host: Path) -> int:
    log = host / "runs"
    return len(log.read_text().split()) if log.exists() else 0


GOOD = "echo '[    0.0] Linux version 6.1.0'"


@pytest.mark.parametrize(
    ("body", "usable"),
    [
        (GOOD, True),
        ("echo 'qemu: failed to set MSR' >&2; kill -ABRT $$", False),
        ("exit 1", False),
        ("echo Booting from ROM; sleep 60", False),  # KVM opens, then hangs forever
        ("exit 0", False),  # status 0 without any output of a kernel
    ],
)
def test_verdict(host: Path, body: str, usable: bool) -> None:
    hypervisor(host, body)
    verdict = kvm_verdict(host / "state", ignore)
    assert verdict.usable is usable
    assert verdict.proved
    assert verdict.reason
    assert kvm_verdict(host / "state", ignore) == verdict
    assert runs(host) == 1, "remembered"


def test_a_new_hypervisor_or_boot_is_tried_again(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor(host, "exit 1")
    assert not kvm_verdict(host / "state", ignore).usable
    hypervisor(host, GOOD)
    assert kvm_verdict(host / "state", ignore).usable
    boot = host / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(accelerator, "_BOOT_ID", boot)
    kvm_verdict(host / "state", ignore)
    assert runs(host) == 3


def test_forgetting_and_remembering(host: Path) -> None:
    hypervisor(host, GOOD)
    state = host / "state"
    assert kvm_verdict(state, ignore).usable
    assert not remember_broken(state, "hung at launch").usable
    assert kvm_verdict(state, ignore).detail == "hung at launch"
    forget(state)
    assert kvm_verdict(state, ignore).usable


@pytest.mark.parametrize("junk", ["", "{", "[]", '{"key": 1}', '{"key": {}, "verdict": {"x": 1}}'])
def test_a_damaged_record_is_replaced(host: Path, junk: str) -> None:
    hypervisor(host, GOOD)
    state = host / "state"
    state.mkdir()
    (state / "accelerator.json").write_text(junk)
    assert kvm_verdict(state, ignore).usable
    assert runs(host) == 1


@pytest.mark.row("B6")
def test_no_device_and_no_permission(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor(host, GOOD)
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "permission" in kvm_verdict(host / "state", ignore).reason
    (host / "kvm").unlink()
    assert "does not exist" in kvm_verdict(host / "state", ignore).reason
    assert runs(host) == 0


def test_without_a_kernel_it_is_not_proved(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypervisor(host, "exit 1")
    monkeypatch.setattr(accelerator, "readable_kernels", list)
    verdict = kvm_verdict(host / "state", ignore)
    assert verdict.usable
    assert not verdict.proved
    assert not (host / "state").exists()
