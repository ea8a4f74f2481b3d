"""R1 once more, by strace: a publisher killed at system calls, gpg's and xz's included, while a client polls.

``tests/unit/imgrepo/publishing/test_killed.py`` counts changes as Python sees them; here the kernel's own
list is counted. A run is traced once; then further runs are killed at some of its calls, spread over the
whole run, at more of them with ``PYBUILDER_TEST_LONG=1``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from imgindex.gpg import GpgVerifier
from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys
from imgrepo.webroot.journal import JOURNAL_NAME
from imgrepo.webroot.signing import PLAIN_INDEX, PUBLIC_KEY
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository

ROOT = Path(__file__).parents[2]
CALLS = "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,fsync,fdatasync,fchmod,ftruncate,link,linkat"
_KILLS = 20 if os.environ.get("PYBUILDER_TEST_LONG") else 3

_PUBLISH = """
import sys
from pathlib import Path
from imgindex.gpg import trusted_keys_from_file
from tests.unit.imgrepo.repository import Repository, debian
base, home, key, pin = sys.argv[1:]
publisher = Repository(Path(base), Path(home), trusted_keys_from_file(Path(pin), where="test"), key)
publisher.appliances.disks = {name: debian() for name in ("a.img", "b.img", "c.img")}
sys.exit(1 if publisher.publish().refused else 0)
"""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


class Poller:
    """A client that reads the index again and again; ``wrong`` is what it met that it should not."""

    def __init__(self, repository: Repository) -> None:
        self._web, self._pin = repository.web, repository.pin
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.wrong: list[str] = []
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        accepted: bytes | None = None
        index = Index()
        while not self._stop.wait(0.02):
            try:
                data = (self._web / "index.asc").read_bytes()
                if data != accepted:
                    signed = GpgVerifier().verify(data, self._pin, where="web")
                    accepted, index = data, parse_index(signed, where="web")
                for entry in index.entries:
                    size = (self._web / entry.file).stat().st_size
                    assert size == entry.compressed_size, entry.file
            except Exception as error:  # noqa: BLE001 - any error is reported below
                self.wrong.append(repr(error))
                return


@dataclass(frozen=True)
class Update:
    """A repository that has something to publish; its index before and after that.

    Attributes:
        repository: It stays as it is; copies of it publish.
        key_file: What its clients trust.
    """

    repository: Repository
    key_file: Path
    old: Index | None
    new: Index | None


@pytest.fixture(scope="module")
def update(
    tmp_path_factory: pytest.TempPathFactory, keys: KeyMaker, pin: TrustedKeys, signing_key: str
) -> Update:
    repository = Repository(tmp_path_factory.mktemp("update"), keys.home, pin, signing_key)
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()
    repository.add("b.img", b"B")
    repository.add("c.img", b"c")
    # In the same second a publisher signs twice (S34), and then makes more calls than those that are killed.
    time.sleep(1)
    wanted = repository.copy(repository.base / "wanted")
    wanted.publish()
    old, new = repository.served(), wanted.served()
    assert new != old
    return Update(repository, repository.web / PUBLIC_KEY, old, new)


def traced(repository: Repository, log: Path, key_file: Path, *options: str) -> int:
    command = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={CALLS}", *options]
    command += [sys.executable, "-c", _PUBLISH, str(repository.base), str(repository.gpg_home)]
    command += [repository.key, str(key_file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.row("R1")
@pytest.mark.timeout(300)
def test_killed_at_system_calls_while_a_client_polls(tmp_path: Path, update: Update) -> None:
    calls = tmp_path / "calls"
    wanted = update.repository.copy(tmp_path / "wanted")
    if traced(wanted, calls, update.key_file) != 0 or not calls.exists():
        pytest.skip("strace may not trace here")
    assert wanted.served() == update.new
    moments = own_calls(calls)
    assert len(moments) > _KILLS
    outcomes = []
    for number in range(_KILLS + 1):
        name, at = moments[number * (len(moments) - 1) // _KILLS]  # the first, the last, some between them
        copy = update.repository.copy(tmp_path / f"copy-{number}")
        poller = Poller(copy)
        try:
            kill = f"inject={name}:signal=SIGKILL:when={at}"
            assert traced(copy, tmp_path / "log", update.key_file, "-e", kill) != 0
            now = copy.served()
        finally:
            poller.close()
        assert now in (update.old, update.new), f"killed at {name} number {at}"
        assert poller.wrong == [], f"killed at {name} number {at}"
        outcomes.append(now == update.new)
    assert outcomes == sorted(outcomes)
    assert outcomes[0] is False
    assert outcomes[-1] is True


def own_calls(log: Path) -> list[tuple[str, int]]:
    """List the calls of the publisher itself, each with its number among its like, as strace counts them.

    Strace counts in each process: a call whose number a gpg also reaches is left out, because the kill would
    hit the gpg.
    """
    lines = log.read_text().splitlines()
    calls = [(match[1], match[2]) for line in lines if (match := re.match(r"(\d+) +(\w+)\(", line))]
    publisher = calls[0][0]
    children = Counter(call for call in calls if call[0] != publisher)
    names = [name for process, name in calls if process == publisher]
    numbered = [(name, names[: position + 1].count(name)) for position, name in enumerate(names)]
    return [
        (name, at) for name, at in numbered
        if all(at > count for (_process, other), count in children.items() if other == name)
    ]  # fmt: skip


@pytest.mark.row("R12")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("call", "at"), [("write", 1), ("write", 8), ("pwrite64", 1), ("fsync", 8), ("rename", 8), ("mkdir", 8)]
)
def test_a_full_disk_at_any_moment(tmp_path: Path, update: Update, call: str, at: int) -> None:
    """From some call on the kernel says that nothing is left; gpg and xz hear the same."""
    copy, log = update.repository.copy(tmp_path / "copy"), tmp_path / "log"
    before = copy.snapshot()
    # With seccomp, other calls run at their usual speed; it cannot be used for kills, which it ignores.
    options = ["--seccomp-bpf", "-e", f"trace={call}", "-e", f"inject={call}:error=ENOSPC:when={at}+"]
    assert traced(copy, log, update.key_file, *options) != 0
    assert "INJECTED" in log.read_text()
    now = copy.served()
    if at > 1 and now == update.new:  # what fails after the index is in place leaves the new one
        return
    assert now == update.old
    after = copy.snapshot()
    first = {PUBLIC_KEY, PLAIN_INDEX, JOURNAL_NAME}  # they go before the index, which clients read
    assert {name: after.get(name) for name in before if name not in first} == {
        name: before[name] for name in before if name not in first
    }
    assert [path for path in copy.web.iterdir() if path.is_dir()] == []
