"""Chooses KVM or emulation, by a test of KVM once per host boot.

That ``/dev/kvm`` can be opened proves nothing: on some hosts the first guest
instruction hangs forever, on others the hypervisor stops with an assertion.
So a kernel is booted with KVM and no root file system: it prints its version,
panics, and the machine resets within a second. The verdict is remembered until
the host boots again or the hypervisor changes.
"""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from imgbuilder.errors import ToolError
from imgbuilder.events import Reporter, debug, info
from imgbuilder.host import process
from imgindex.files import make_folder, temporary_file

_DEVICE = Path("/dev/kvm")
_PROBE_LIMIT = 15.0
"""Seconds for a kernel to boot and panic; with working KVM it takes less than two."""
_BROKEN = f"{_DEVICE} exists, but KVM does not work on this host"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class KvmVerdict:
    """The result of the test of KVM.

    Attributes:
        usable: Whether to use KVM: it works, or could not be tested.
        reason: The reason, in a few words for the user.
        proved: Whether it was tested; False if there was no kernel to test it with.
        detail: The output of the test; empty if there was none.
        forbidden: Whether only this user may not use it.
    """

    usable: bool
    reason: str
    proved: bool
    detail: str = ""
    forbidden: bool = False


def kvm_verdict(state: Path, on_event: Reporter) -> KvmVerdict:
    """Return the remembered verdict, or test KVM now and remember the result."""
    if not _DEVICE.exists():
        return KvmVerdict(usable=False, reason=f"{_DEVICE} does not exist", proved=True)
    if not os.access(_DEVICE, os.R_OK | os.W_OK):
        return KvmVerdict(
            usable=False,
            reason=f"no permission to use {_DEVICE} (is this user in the group kvm?)",
            proved=True,
            forbidden=True,
        )
    record = state / "accelerator.json"
    key = _key()
    known = _read(record, key)
    if known is not None:
        return known
    verdict = _try_kvm(on_event)
    if verdict.proved:
        _write(record, key, verdict)
    return verdict


def emulation_forced() -> bool:
    """Return whether libguestfs's own variable forbids KVM."""
    return "force_tcg" in os.environ.get("LIBGUESTFS_BACKEND_SETTINGS", "")


def chosen_accelerator(state: Path, on_event: Reporter) -> KvmVerdict:
    """Return whether to use KVM, and report if not; see ``kvm_verdict`` for the arguments."""
    if emulation_forced():
        return KvmVerdict(usable=False, reason="LIBGUESTFS_BACKEND_SETTINGS has force_tcg", proved=True)
    verdict = kvm_verdict(state, on_event)
    if not verdict.usable:
        announce(verdict, on_event)
    return verdict


def announce(verdict: KvmVerdict, on_event: Reporter) -> None:
    """Report that emulation is used, and the reason."""
    info(on_event, f"{verdict.reason}; using emulation, which is slower")
    if verdict.detail:
        debug(on_event, verdict.detail)


def remember_broken(state: Path, detail: str) -> KvmVerdict:
    """Remember that KVM failed in real use."""
    verdict = KvmVerdict(usable=False, reason=_BROKEN, detail=detail, proved=True)
    _write(state / "accelerator.json", _key(), verdict)
    return verdict


def forget(state: Path) -> None:
    """Forget the verdict, so that the next build tests again."""
    (state / "accelerator.json").unlink(missing_ok=True)


def hypervisor_name() -> str:
    """Return the name of the QEMU program for this host's architecture."""
    machine = platform.machine()
    return "qemu-system-" + {"i686": "i386", "armv7l": "arm", "ppc64le": "ppc64"}.get(machine, machine)


def readable_kernels() -> list[Path]:
    """Return the host's kernels that this user may read, newest first by version number."""

    def version(path: Path) -> list[tuple[int, str]]:
        return [
            (int(word), "") if word.isdigit() else (-1, word) for word in re.findall(r"\d+|\D+", path.name)
        ]

    found = [*Path("/boot").glob("vmlinuz-*"), *Path("/lib/modules").glob("*/vmlinuz")]
    return sorted((path for path in found if os.access(path, os.R_OK)), key=version, reverse=True)


def _key() -> dict[str, str]:
    hypervisor = process.find_program(hypervisor_name())
    stamp = Path(hypervisor).stat().st_mtime_ns if hypervisor else 0
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return {"boot": boot, "hypervisor": f"{hypervisor} {stamp}", "user": str(os.geteuid())}


def _read(record: Path, key: dict[str, str]) -> KvmVerdict | None:
    try:
        known = json.loads(record.read_text())
        if known["key"] != key:
            return None
        return KvmVerdict(**known["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: the next test replaces it


def _write(record: Path, key: dict[str, str], verdict: KvmVerdict) -> None:
    try:
        make_folder(record.parent)
        with temporary_file(record.parent) as (descriptor, temporary):
            os.write(descriptor, json.dumps({"key": key, "verdict": asdict(verdict)}).encode())
            temporary.replace(record)
    except OSError:
        return  # it only saves time: without a state folder every build tests


def _try_kvm(on_event: Reporter) -> KvmVerdict:
    kernels = readable_kernels()
    if platform.machine() != "x86_64" or not kernels:
        return KvmVerdict(usable=True, reason=f"{_DEVICE} exists; not tested", proved=False)
    debug(on_event, f"testing KVM with {kernels[0]}")
    command: list[str | Path] = [hypervisor_name(), "-machine", "accel=kvm,graphics=off"]
    # The CPU model that libguestfs asks for: with it KVM fails on some hosts.
    command += ["-cpu", "max,la57=off", "-m", "256", "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-serial", "stdio", "-kernel", kernels[0], "-append", "console=ttyS0 panic=-1"]
    try:
        answer = process.run(command, check=False, timeout=_PROBE_LIMIT)
    except ToolError as error:
        return KvmVerdict(usable=False, reason=_BROKEN, detail=error.message, proved=True)
    if answer.status == 0 and b"Linux version" in answer.stdout:
        return KvmVerdict(usable=True, reason="KVM works", proved=True)
    text = " ".join(answer.stderr.split())[-200:] or "the kernel printed nothing"
    return KvmVerdict(usable=False, reason=_BROKEN, detail=text, proved=True)
