from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.errors import RepositoryError, UsageError
from imgbuilder.fetch.urls import check_uri, local_path, origin, template_url, without_secrets


@pytest.mark.parametrize(
    "uri",
    [
        *("https://example.com/index.asc", "HTTP://example.com:8080/", "https://u:p@[::1]:1/i", "/abs/index"),
        *("file:///a%20b/index", "file://localhost/x", "relative", "a:b", "json:x"),
    ],
)
def test_check_uri_accepts(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "",
            "ftp://h/x",
            "gopher://h/x",
            "HTTPX://h/",
            "data://x",
            "https://",
            "https:///x",
            "http://h:99999/",
        ),
        *("http://[::1/x", "http://h/a b", "http://h/a\nb", "http://h\\@x/", "file://other/x"),
        *("file://", "file:///a%00b", "a\0b", "http://h:0/"),
    ],
)
def test_check_uri_refuses(uri: str) -> None:
    with pytest.raises(UsageError):
        check_uri(uri)


def test_ftp_gets_a_hint_and_no_password() -> None:
    with pytest.raises(UsageError) as caught:
        check_uri("ftp://me:secret@h/x")
    assert "https" in (caught.value.hint or "")
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/a/b", Path("/a/b")),
        ("a b", Path("a b")),
        ("file:///a%20b/c", Path("/a b/c")),
        ("FILE:///x", Path("/x")),
        ("https://h/x", None),
    ],
)
def test_local_path(uri: str, expected: Path | None) -> None:
    assert local_path(uri) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:p@h/x", "https://h/x"),
        ("see http://u@h/x and https://a:b@c/", "see http://h/x and https://c/"),
        ("https://h/x@y", "https://h/x@y"),
        ("https://u:p@q@h/", "https://h/"),
    ],
)
def test_without_secrets(url: str, expected: str) -> None:
    assert without_secrets(url) == expected


@pytest.mark.parametrize(
    ("source", "file", "expected"),
    [
        ("https://h/repo/index.asc", "d.xz", "https://h/repo/d.xz"),
        ("https://h/repo/index.asc?token=1#x", "sub/d.xz", "https://h/repo/sub/d.xz"),
        ("https://h", "d.xz", "https://h/d.xz"),
        ("https://u:p@h:8/a/", "d.xz", "https://u:p@h:8/a/d.xz"),
        ("https://h/i", "é:1.xz", "https://h/%C3%A9:1.xz"),
        ("file:///a%20b/index", "d.xz", "file:///a%20b/d.xz"),
        ("/srv/repo/index", "sub/d.xz", "/srv/repo/sub/d.xz"),
        ("index", "d.xz", "d.xz"),
    ],
)
def test_template_url(source: str, file: str, expected: str) -> None:
    assert template_url(source, file).reveal() == expected


@pytest.mark.row("P7")
@pytest.mark.parametrize("source", ["https://h/r/index", "file:///r/index", "/r/index"])
@pytest.mark.parametrize(
    "file",
    [
        *("", "../x", "a/../../x", "a/..", ".", "./x", "/etc/passwd", "//h/x", "a//b", "http://x/y", "x://y"),
        *("%2e%2e/x", "%2E./x", "a%2fb", "a\\b", "..\\x", "x?y", "x#y", "a b", "a\tb", "a\nb", "a\0b", "a/"),
    ],
)
def test_template_url_stays_below_the_index(source: str, file: str) -> None:
    """T7, P7."""
    with pytest.raises(RepositoryError):
        template_url(source, file)


def test_origin() -> None:
    assert origin("HTTPS://H/x") == ("https", "h", 443)
    assert origin("http://h:81/") == ("http", "h", 81)
    with pytest.raises(ValueError, match=r"."):
        origin("http://h:x/")
