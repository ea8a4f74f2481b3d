"""Hosts whose /dev/kvm opens but does not work (design decision 6), as root and with nothing set."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgbuilder.appliance import accelerator
from imgbuilder.appliance.accelerator import KvmVerdict
from tests.fakes.template import Site
from tests.guest.person import Person

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="these tests are about root"),
]


@pytest.fixture(scope="module")
def root(person: Person, small: Site) -> Iterator[Person]:
    """Root, with a home of their own and a source of a small guest in their configuration."""
    home = Path(tempfile.mkdtemp(prefix="pybuilder-guest-", dir="/var/tmp"))
    small.configure(home / ".config")
    yield Person("root", home, person.bin, ())
    shutil.rmtree(home)


def build(root: Person, image: Path, **env: str) -> str:
    done = root.run(
        "pybuilder",
        "small",
        "-o",
        image,
        "--root-password",
        "disabled",
        "--run-command",
        "cat /proc/version >/root/version",
        env=env,
    )
    assert image.exists()
    image.unlink()
    return done.stdout


@pytest.mark.row("B26")
def test_as_root_with_nothing_set(root: Person) -> None:
    printed = build(root, root.home / "root.img")
    assert printed.count("using emulation") <= 1
    assert "Finishing off" in printed
    record = root.home / ".local/state/pybuilder/accelerator.json"
    assert record.exists() or not Path("/dev/kvm").exists(), "remembered for the next build"


@pytest.mark.row("B5")
@pytest.mark.skipif(
    not os.access("/dev/kvm", os.R_OK | os.W_OK), reason="there is no /dev/kvm to be wrong about"
)
def test_kvm_that_hangs_at_the_launch_is_given_up(root: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial said yes, and then the appliance hangs: within 30 seconds emulation takes over."""
    log = root.home / "launches"
    stub = root.home / "hypervisor"
    stub.write_text(
        "#!/bin/sh\n"
        f'case " $* " in *guestfsd.sock*) echo "$*" >>{log};; esac\n'
        'case " $* " in *accel=kvm*guestfsd.sock*) exec sleep 600;; esac\n'
        'exec /usr/bin/qemu-system-x86_64 "$@"\n'
    )
    stub.chmod(0o755)
    state = root.home / "state"
    monkeypatch.setenv("PATH", root.environment()["PATH"])
    verdict = KvmVerdict(usable=True, reason="KVM works", proved=True)
    accelerator._write(state / "pybuilder" / "accelerator.json", accelerator._key(), verdict)
    # Boots are counted here; a resumed appliance has no socket on its command line.
    settings = {"XDG_STATE_HOME": str(state), "LIBGUESTFS_HV": str(stub), "PYBUILDER_INSTANT": "no"}
    printed = build(root, root.home / "hang.img", **settings)
    assert printed.count("using emulation") == 1
    assert len(log.read_text().splitlines()) == 2
    sockets = re.findall(r"path=(\S+)/guestfsd\.sock", log.read_text())
    assert [path for path in sockets if not path.startswith("/tmp/libguestfs")] == [], "root's are there"
    assert [path for path in sockets if Path(path).exists()] == [], "and go, though they were ended by force"
    remembered = accelerator._read(state / "pybuilder" / "accelerator.json", accelerator._key())
    assert remembered is not None
    assert not remembered.usable
