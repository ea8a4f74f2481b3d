"""The test of name resolution before apt, and proxies."""

from __future__ import annotations

import io
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.catalog.sourcefiles import _proxy
from imgbuilder.customize.buildnetwork import check_network, first_apt_host, guest_proxies, seen_from_guest
from imgbuilder.errors import FetchError, OperationError, UsageError
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import SYSTEM_PROXY, Download
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.socks import socks_proxy
from tests.fakes.webfolder import WebFolder

LISTS = "/etc/apt/sources.list.d"


def _guest(sources: str = "deb http://deb.example.org/debian bookworm main\n") -> FakeGuest:
    guest = debian_guest()
    guest.add("/etc/apt/sources.list", sources)
    return guest


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("deb http://a.example/debian x main", "a.example"),
        (
            "# deb http://a.example/ x\ndeb-src http://s.example/ x\ndeb https://B.example:8080/ x",
            "b.example",
        ),
        ("deb [arch=amd64 signed-by=/x] ftp://a.example/ x main", "a.example"),
        ("deb file:/srv/mirror x\ndeb cdrom:[x]/ x\ndeb copy:/x y", None),
        ("deb mirror+https://m.example/list x", "m.example"),
        ("deb tor+http://a.onion/ x", None),
        ("deb http://$(reboot)/ x", None),
        ("deb http://[::1/ x\ndeb http://[fd00::1]/ x", "fd00::1"),
        ("", None),
    ],
)
def test_first_host_of_one_line_sources(text: str, host: str | None) -> None:
    assert first_apt_host(_guest(text)) == host


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Types: deb\nURIs: http://a.example/debian\nSuites: x\n", "a.example"),
        ("Types: deb\nURIs:\n file:/x\n https://a.example/\nSuites: x\n", "a.example"),
        ("# c\nEnabled: no\nURIs: http://off.example/\n\nURIs: http://on.example/\n", "on.example"),
        ("garbage", None),
    ],
)
def test_first_host_of_deb822_sources(guest: FakeGuest, text: str, host: str | None) -> None:
    guest.add(f"{LISTS}/debian.sources", text)
    guest.add(f"{LISTS}/ignored.save", "deb http://no.example/ x")
    assert first_apt_host(guest) == host


@given(st.binary(max_size=200), st.sampled_from(["x.list", "x.sources"]))
def test_any_sources_give_a_plain_host_or_none(content: bytes, name: str) -> None:
    guest = debian_guest()
    guest.add(f"{LISTS}/{name}", content)
    host = first_apt_host(guest)
    assert host is None or not set(host) & set(" '\"$`;\n")


def test_missing_name_resolution_is_reported_before_apt_runs() -> None:
    guest = _guest()
    guest.on_sh("getent", CommandResult(3, ""))
    with pytest.raises(OperationError, match=r"guest: deb\.example\.org") as caught:
        check_network(guest, context_of(guest))
    assert "getent ahosts deb.example.org" in (caught.value.hint or "")


def test_a_guest_that_resolves_goes_on() -> None:
    guest = _guest()
    check_network(guest, context_of(guest))
    assert len(guest.scripts) == 1


def test_nothing_is_tested_where_it_would_prove_nothing() -> None:
    guest = _guest()
    guest.on_sh("", CommandResult(3, ""))
    check_network(guest, context_of(guest, network=False))
    check_network(guest, context_of(guest, proxies={"http_proxy": "http://p/"}))
    for conf in ('Acquire::http::Proxy "http://p:1/";', 'Acquire { http { Proxy "http://p:1/"; }; };'):
        guest.add("/etc/apt/apt.conf.d/90proxy", conf)
        check_network(guest, context_of(guest))
    check_network(_guest("deb file:/x y"), context_of(guest))
    assert guest.scripts == []


@pytest.mark.parametrize(
    ("tool", "status"),
    [("getent", 0), ("getent", 1), ("perl", 0), ("perl", 1), ("nslookup", 0), ("nslookup", 1), ("", 0)],
)
def test_the_resolver_script_uses_what_the_guest_has(tool: str, status: int, tmp_path: Path) -> None:
    if tool:
        program = tmp_path / tool
        program.write_text(f"#!/bin/sh\nexit {status}\n")
        program.chmod(0o755)
    guest = _guest()
    check_network(guest, context_of(guest))
    done = subprocess.run(
        ["/bin/sh", "-c", guest.scripts[0]], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (3 if status else 0, b"")


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebFolder]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.asc").write_bytes(b"an index")
    with WebFolder(tmp_path / "site") as folder:
        yield folder


def fetched(url: str, proxy: str = SYSTEM_PROXY) -> bytes:
    into = io.BytesIO()
    SourceFetcher().fetch(Download(url, into, limit=100, proxy=proxy))
    return into.getvalue()


def port_of(web: WebFolder) -> int:
    return int(web.url.rpartition(":")[2])


def test_a_socks_proxy_of_the_environment_is_used(web: WebFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy resolves names, since networks behind such proxies often cannot."""
    with socks_proxy(port_of(web)) as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://127.0.0.1:{proxy.port}")
        assert fetched("http://images.invalid/index.asc") == b"an index"
        assert proxy.asked == ["images.invalid:80"]


def test_a_socks_proxy_of_a_source_is_used(web: WebFolder) -> None:
    with socks_proxy(port_of(web)) as proxy:
        address = _proxy(f"socks5h://127.0.0.1:{proxy.port}")
        assert fetched("http://images.invalid/index.asc", proxy=address) == b"an index"
        assert proxy.asked == ["images.invalid:80"]
    with pytest.raises(UsageError, match="unknown value"):
        _proxy("gopher://127.0.0.1:1")


def test_a_socks_proxy_that_is_not_there_is_named(web: WebFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://user:hunter2@127.0.0.1:1")
    with pytest.raises(FetchError, match=r"proxy socks5://127\.0\.0\.1:1: ") as caught:
        fetched(f"{web.url}/index.asc")
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"
    assert "all_proxy" in str(caught.value.hint)


def test_a_socks_proxy_without_its_module(web: WebFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_words: object, **_options: object) -> None:  # as requests does it
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr(requests.adapters, "SOCKSProxyManager", missing)
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:1")
    with pytest.raises(FetchError, match="needs the Python module PySocks") as caught:
        fetched(f"{web.url}/index.asc")
    assert "virt-pybuilder[socks]" in str(caught.value.hint)
    assert "unset all_proxy and ALL_PROXY" in str(caught.value.hint)


@pytest.mark.parametrize(
    "address",
    [
        "http://{}:3142", "http://user:p%40ss@{}:3142/", "{}:8080",
        "https://{}/x?y=http://localhost/z",
        "socks5h://{}:1", "HTTP://{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost", "a.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0", "localhost."],
)
def test_this_host_as_the_guest_sees_it(address: str, host: str) -> None:
    assert seen_from_guest(address.format(host)) == address.format("169.254.2.2")


@given(host=st.from_regex(r"[a-z0-9.:-]{0,20}", fullmatch=True).filter(lambda text: "local" not in text))
def test_other_hosts_stay(host: str) -> None:
    address = f"http://w{host}/127.0.0.1?localhost"
    assert seen_from_guest(address) == address


def test_this_host_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Builder")
    monkeypatch.setattr(socket, "gethostbyname", {"builder": "127.0.1.1"}.__getitem__)
    assert seen_from_guest("http://builder:3142") == "http://169.254.2.2:3142"
    monkeypatch.setattr(socket, "gethostbyname", {"builder": "192.0.2.7"}.__getitem__)
    assert seen_from_guest("http://builder:3142") == "http://builder:3142"


def test_proxies_for_the_guest() -> None:
    host = {"http_proxy": "http://localhost:1", "HTTPS_PROXY": "http://proxy.test:2", "no_proxy": "localhost"}
    assert guest_proxies(host) == {
        "http_proxy": "http://169.254.2.2:1", "https_proxy": "http://proxy.test:2", "no_proxy": "localhost",
    }  # fmt: skip
