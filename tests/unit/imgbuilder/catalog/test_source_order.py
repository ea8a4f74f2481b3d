"""Servers that a command talks to: real ones, which count what they are asked for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.catalog.state import SourceStates
from imgindex.model import Entry
from tests.fakes.commands import Command
from tests.fakes.faultserver import FaultServer, Hang, answer
from tests.fakes.keys import KeyMaker
from tests.fakes.template import Site, TinyAppliances, make_site
from tests.fakes.webfolder import WebFolder

BUILD = ("tiny", "--root-password", "disabled")


@pytest.fixture
def site(
    tmp_path: Path, home: Path, appliances: TinyAppliances, no_proxies: None, publisher_keys: KeyMaker
) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    made = make_site(folder, publisher_keys)
    (folder / "key.gpg").write_bytes(publisher_keys.export(made.key))
    return made


@pytest.fixture
def first(site: Site) -> Iterator[WebFolder]:
    with WebFolder(site.folder) as server:
        yield server


@pytest.fixture
def second(site: Site, tmp_path: Path) -> Iterator[WebFolder]:
    folder = tmp_path / "second"
    folder.mkdir()
    other = Site(folder, Entry("other", "o.xz", "x86_64", 512, sha512="ab" * 64), site.keys, site.key)
    other.sign(other.entry, site.entry)
    with WebFolder(folder) as server:
        yield server


def configure(home: Path, site: Site, **sources: str) -> None:
    place = home / "pybuilder" / "repos.d"
    place.mkdir(parents=True, exist_ok=True)
    text = "".join(f"[{name}]\ngpgkey={site.folder}/key.gpg\n{lines}\n" for name, lines in sources.items())
    (place / "all.conf").write_text(text)


def test_a_build_asks_no_later_source(
    home: Path, site: Site, first: WebFolder, second: WebFolder, pybuilder: Command
) -> None:
    configure(home, site, a=f"uri={first.url}/index.asc", b=f"uri={second.url}/index.asc")
    assert pybuilder(*BUILD).code == 0
    assert first.paths == ["/index.asc", "/tiny.xz"]
    for words in (("--notes", "tiny"), ("--list", "tiny"), ("--list", "tiny", "--list-format", "full")):
        assert pybuilder(*words).code == 0
    assert second.asked == []
    assert pybuilder("other", "--dry-run").code == 0
    assert second.paths == ["/index.asc"]


def test_a_dead_source_behind_is_not_noticed_and_one_before_ends_the_build_unless_it_is_optional(
    home: Path, site: Site, first: WebFolder, second: WebFolder, pybuilder: Command
) -> None:
    configure(home, site, a=f"uri={first.url}/index.asc", b=f"uri={second.url}/gone.asc")
    ran = pybuilder(*BUILD)
    assert (ran.code, ran.err) == (0, "")
    configure(home, site, b=f"uri={second.url}/gone.asc", a=f"uri={first.url}/index.asc")
    pybuilder(*BUILD, "--output", "x.img").failed(
        1, "source b, which comes before a, may offer", "optional=yes"
    )
    listed = pybuilder("--list").good()
    assert "source b is left out" in listed.err
    configure(home, site, b=f"uri={second.url}/gone.asc\noptional=yes", a=f"uri={first.url}/index.asc")
    ran = pybuilder(*BUILD, "--output", "x.img").good()
    assert "source b is left out" in ran.err


def test_an_untrustworthy_source_before_ends_the_build_in_its_own_words(
    home: Path, site: Site, first: WebFolder, second: WebFolder, pybuilder: Command, tmp_path: Path
) -> None:
    bad = tmp_path / "second" / "index.asc"
    bad.write_bytes(bad.read_bytes().replace(b"[other]", b"[ather]"))
    configure(home, site, b=f"uri={second.url}/index.asc", a=f"uri={first.url}/index.asc")
    pybuilder(*BUILD).failed(3, "altered after signing")
    assert first.asked == []


@pytest.fixture
def proxy(site: Site, tmp_path: Path) -> Iterator[WebFolder]:
    """A proxy that has the files of a server whose name means nothing."""
    folder = tmp_path / "proxy" / "http:"
    folder.mkdir(parents=True)
    (folder / "images.invalid").symlink_to(site.folder)
    with WebFolder(tmp_path / "proxy") as server:
        yield server


def test_a_source_s_proxy_is_used_for_the_index_and_the_template(
    home: Path, site: Site, proxy: WebFolder, pybuilder: Command
) -> None:
    """Virt-builder reads this setting and never uses it."""
    configure(home, site, a=f"uri=http://images.invalid/index.asc\nproxy={proxy.url}")
    pybuilder(*BUILD).good()
    assert proxy.paths == ["http://images.invalid/index.asc", "http://images.invalid/tiny.xz"]


@pytest.mark.parametrize("setting", ["", "proxy=system"])
def test_the_environment_s_proxy_is_used_unless_the_source_says_no(
    home: Path,
    site: Site,
    first: WebFolder,
    proxy: WebFolder,
    pybuilder: Command,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    configure(home, site, a=f"uri=http://images.invalid/index.asc\n{setting}".strip())
    assert pybuilder(*BUILD).code == 0
    assert len(proxy.asked) == 2
    configure(home, site, a=f"uri={first.url}/index.asc\nproxy=no")
    assert pybuilder("--list").code == 0
    assert len(proxy.asked) == 2
    assert first.paths == ["/index.asc"]


@pytest.mark.parametrize("words", [("--list",), ("source", "list", "--long")])
@pytest.mark.parametrize("first_is_dead", [False, True])
def test_servers_are_asked_side_by_side(
    home: Path, site: Site, pybuilder: Command, words: tuple[str, ...], first_is_dead: bool
) -> None:
    """Each answers only when both were asked; so do the mirrors where first addresses are dead."""
    both = threading.Barrier(2, timeout=20)
    index = (site.folder / "index.asc").read_bytes()

    def reply(_head: bytes) -> bytes:
        both.wait()
        return answer(index)

    with FaultServer([reply]) as one, FaultServer([reply]) as other:
        addresses = {name: f"{server.url}/index.asc" for name, server in (("b", one), ("a", other))}
        for name in addresses if first_is_dead else ():
            addresses[name] = f"http://127.0.0.1:{free_port()}/index.asc,{addresses[name]}"
        configure(home, site, **{name: f"uri={uris}" for name, uris in addresses.items()})
        ran = pybuilder(*words).good()
    assert ran.err.count("its next address is tried") == (2 if first_is_dead else 0)
    if words[0] == "source":
        assert ran.out.index(one.url) < ran.out.index(other.url)


def test_warnings_keep_the_order_of_the_sources(home: Path, site: Site, pybuilder: Command) -> None:
    gone = answer(b"", status="404 Not Found")
    good = answer((site.folder / "index.asc").read_bytes())
    with FaultServer([gone]) as a, FaultServer([good]) as b, FaultServer([gone]) as c:
        uris = {name: f"uri={server.url}/i" for name, server in (("c", c), ("b", b), ("a", a))}
        configure(home, site, **uris)
        ran = pybuilder("--list").good()
    assert ran.out.startswith("tiny ")
    warnings = ran.err.split("warning: source ")[1:]
    assert [text[:13] for text in warnings] == ["c is left out", "a is left out"]


def test_ctrl_c_waits_for_no_server(home: Path, site: Site, tmp_path: Path) -> None:
    with FaultServer([Hang()]) as one, FaultServer([Hang()]) as other:
        configure(home, site, a=f"uri={one.url}/index.asc", b=f"uri={other.url}/index.asc")
        command = [sys.executable, "-m", "imgbuilder", "--list"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
            end = time.monotonic() + 30
            while not (one.requests and other.requests) and time.monotonic() < end:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            _out, err = process.communicate(timeout=20)  # a third less than it waits for a server
    assert (process.returncode, err) == (130, "pybuilder: error: stopped by SIGINT\n")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def test_an_address_that_gave_no_answer_is_asked_last_for_some_minutes(
    home: Path, site: Site, first: WebFolder, pybuilder: Command
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    configure(home, site, a=f"uri={dead}/index.asc,{first.url}/index.asc")
    assert "its next address is tried" in pybuilder("--list").good().err
    assert pybuilder("--list").good().err == ""
    states = SourceStates(home / "pybuilder" / "sources")
    now = datetime.now(UTC)
    assert list(states.unreachable(now)) == [dead]
    assert states.unreachable(now + timedelta(minutes=6)) == {}
    assert states.unreachable(now - timedelta(minutes=6)) == {}, "the clock was set back"
    states.note_server(dead, now, reached=True)
    assert "its next address is tried" in pybuilder("--list").good().err


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 1, "servers": [4]}'])
def test_a_damaged_memory_of_servers_is_no_obstacle(
    home: Path, site: Site, first: WebFolder, pybuilder: Command, text: str
) -> None:
    memory = home / "pybuilder" / "sources" / "unreachable"
    memory.parent.mkdir(parents=True)
    memory.write_text(text)
    dead = f"http://127.0.0.1:{free_port()}"
    configure(home, site, a=f"uri={dead}/index.asc,{first.url}/index.asc")
    assert "its next address is tried" in pybuilder("--list").good().err
    assert pybuilder("--list").good().err == ""
