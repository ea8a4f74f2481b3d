"""Proxies of this host: a SOCKS proxy for downloads, and the proxies for the guest."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.catalog.sourcefiles import _proxy
from imgbuilder.customize.network import guest_proxies, seen_from_guest
from imgbuilder.errors import FetchError, UsageError
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import SYSTEM_PROXY, Download
from tests.fakes.socks import socks_proxy
from tests.fakes.webfolder import WebFolder


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
