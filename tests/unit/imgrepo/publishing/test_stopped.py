"""A publisher that is stopped by a signal while the appliance gives free space back."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from imgrepo.cli.main import run
from tests.fakes.appliance import FakeAppliance
from tests.unit.imgrepo.repository import Repository


def _run_child(repository: Repository, reached: Path, output: Path) -> None:
    def prepare(appliance: FakeAppliance) -> None:
        def trim(path: str) -> None:
            with reached.open("a") as file:
                file.write("trim\n")
            time.sleep(60)

        appliance.trim = trim  # type: ignore[method-assign]

    repository.appliances._prepare = prepare
    code = 1
    try:
        sys.stdout = sys.stderr = output.open("w")
        words = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key]
        code = run(words, repository.services())
        sys.stderr.flush()
    finally:
        os._exit(code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("published_before", [False, True], ids=["first run", "later run"])
def test_a_signal_during_trim_leaves_the_site_as_it_was(
    repository: Repository, space: Path, number: int, published_before: bool
) -> None:
    originals = {}
    repository.add("a.img", b"a")
    if published_before:
        repository.publish()
    for name in ("a.img", "b.img", "c.img"):
        originals[name] = repository.add(name, b"new")
    contents = {name: path.read_bytes() for name, path in originals.items()}
    before = repository.snapshot()
    reached, output = repository.base / "reached", repository.base / "output"
    child = os.fork()
    if child == 0:
        _run_child(repository, reached, output)
    end = time.monotonic() + 40
    while not (reached.exists() and reached.read_text()):  # it exists before it is written
        assert time.monotonic() < end, "the trim was never reached"
        time.sleep(0.01)
    os.kill(child, number)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + number, output.read_text()
    assert f"stopped by {signal.Signals(number).name}" in output.read_text()
    assert "refused" not in output.read_text()
    assert reached.read_text() == "trim\n", "no other image follows"
    assert repository.snapshot() == before
    assert not [path.name for path in repository.web.iterdir() if path.is_dir()]
    assert list(space.iterdir()) == []
    assert {name: path.read_bytes() for name, path in originals.items()} == contents
