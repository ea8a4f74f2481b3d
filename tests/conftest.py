"""Set-up for all tests."""

from __future__ import annotations

import functools
import os
import signal
import sys

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from imgbuilder.fetch import router
from imgbuilder.fetch.transfer import Limits
from imgindex import environment
from tests.fakes.fuzz import examples
from tests.fakes.keys import keys

__all__ = ["keys"]

# The time of an example depends on what else the machine does, so it is not a reason to fail.
settings.register_profile("untimed", parent=settings.default, deadline=None, max_examples=examples(40))
settings.load_profile("untimed")

# jsonschema would spend two seconds in each process on the grammar of a format that no schema of ours has.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

# Without this, a test that looks for templates would ask the public repository that comes with the package.
os.environ["VIRT_BUILDER_DIRS"] = "/nonexistent"

# Most tests bring an appliance of their own; those of builds without one say so.
os.environ["PYBUILDER_HOSTSIDE"] = "never"

# Debian 13 gives users 002; files that tests write should be as others may not change them.
os.umask(0o022)

# In the background, or with nohup, the tests ignore signals that they send, and pybuilder would inherit that.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--row``, since ``-m`` cannot select by a marker's arguments."""
    parser.addoption("--row", metavar="ID", help="run only the tests of one row of docs/threat-model.md")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of the chosen row."""
    if row := config.getoption("--row"):
        chosen = [item for item in items if any(row in mark.args for mark in item.iter_markers("row"))]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


TOGETHER = {
    "tests/conformance/test_catalogue_browser.py": "one browser",
    "tests/conformance/test_list_oracle.py": "one set of repositories and locales",
}
"""Files whose tests share what takes long to make, and stay on one worker.

The marks of pytest-xdist 3.8 have no effect with pytest 9.2.
"""


def together(nodeid: str) -> str:
    """Return what names the tests that stay on one worker: a file, or the test itself."""
    file = nodeid.partition("::")[0]
    return file if file in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Schedule the tests of ``--dist loadgroup``."""
    if config.getvalue("dist") != "loadgroup":
        return None
    schedule = LoadScopeScheduling(config, log)
    schedule._split_scope = together
    return schedule


@pytest.fixture(autouse=True)
def nothing_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test as a new process: a secret of another one may have been in HOME."""
    monkeypatch.setattr(environment, "_withheld", set())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a server again at once; the tests of ``fetch`` give limits of their own."""
    monkeypatch.setattr(router, "Limits", functools.partial(Limits, backoff=0.0))


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the proxies of the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
