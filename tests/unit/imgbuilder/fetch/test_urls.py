from __future__ import annotations

import json
import re
import traceback
from pathlib import Path

import pytest

from imgbuilder.catalog.catalog import Selection
from imgbuilder.catalog.sources import Source, sources_from_command_line
from imgbuilder.catalog.state import identity
from imgbuilder.errors import NoAnswerError, PybuilderError, RepositoryError, UsageError
from imgbuilder.fetch.session import web_session
from imgbuilder.fetch.stalltimer import StallTimer
from imgbuilder.fetch.transfer import Limits
from imgbuilder.fetch.urls import (
    Address,
    check_uri,
    local_path,
    origin,
    template_url,
    without_secrets,
    without_slash,
)
from imgbuilder.fetch.webrules import WebRequest
from imgbuilder.services import Settings
from imgindex.model import Entry
from imgrepo.intake.import_image import ImportRequest
from imgrepo.intake.proof import TrustOptions
from imgrepo.sharing.mirror import MirrorRequest
from imgrepo.sharing.upload import read_place
from imgrepo.sourcepackages.archive import Suite
from imgrepo.template.bootstrap import BootstrapRequest
from imgrepo.template.recipes import Mirrors, recipe_named


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


@pytest.mark.row("P7", "T7")
@pytest.mark.parametrize("source", ["https://h/r/index", "file:///r/index", "/r/index"])
@pytest.mark.parametrize(
    "file",
    [
        *("", "../x", "a/../../x", "a/..", ".", "./x", "/etc/passwd", "//h/x", "a//b", "http://x/y", "x://y"),
        *("%2e%2e/x", "%2E./x", "a%2fb", "a\\b", "..\\x", "x?y", "x#y", "a b", "a\tb", "a\nb", "a\0b", "a/"),
    ],
)
def test_template_url_stays_below_the_index(source: str, file: str) -> None:
    with pytest.raises(RepositoryError):
        template_url(source, file)


def test_origin() -> None:
    assert origin("HTTPS://H/x") == ("https", "h", 443)
    assert origin("http://h:81/") == ("http", "h", 81)
    with pytest.raises(ValueError, match=r"."):
        origin("http://h:x/")


ROOT = Path(__file__).parents[4]

SHOWN = [
    ("http://me:qwxzjk@h/i.asc", "http://h/i.asc"),
    ("http://qwxzjk@h/i.asc", "http://h/i.asc"),
    ("http://me:p@qwxzjk@h/i.asc", "http://h/i.asc"),
    ("http://me:qwxzjk@[::1]:8/i", "http://[::1]:8/i"),
    ("http://me:qwx/zjk@h/i.asc", "http://h/i.asc"),
    ("http://me:/qwxzjk@h/i.asc", "http://h/i.asc"),
    ("http:/me:qwxzjk@h/i.asc", "http:/h/i.asc"),
    ("http://me:qwxzjk?x#y@h/i.asc", "http://h/i.asc"),
    ("http://me:qwx zjk@h/i.asc", "http://h/i.asc"),
    ("rsync://me:qwxzjk@h/m", "rsync://h/m"),
    ("HTTP://me:qwxzjk@h/i", "HTTP://h/i"),
    (
        "https://b.s3.example/i?X-Amz-Date=1&X-Amz-Credential=qwxzjk/s3&X-Amz-Signature=qwxzjk&n=1",
        "https://b.s3.example/i?X-Amz-Date=1&X-Amz-Credential=***&X-Amz-Signature=***&n=1",
    ),
    ("https://h/i?sv=1&sig=qwxzjk%3D", "https://h/i?sv=1&sig=***"),
    ("https://h/i?private_token=qwxzjk#x", "https://h/i?private_token=***#x"),
    (f"https://h/i?x={'qwxzjk' * 6}", "https://h/i?x=***"),
    ("https://h:8/a@2x/i?v=1", "https://h:8/a@2x/i?v=1"),
    ("https://[::1]:80/a@b", "https://[::1]:80/a@b"),
    ("/srv/me@host/i", "/srv/me@host/i"),
]


@pytest.mark.parametrize(("whole", "shown"), SHOWN)
def test_as_a_text_an_address_is_what_people_may_see(whole: str, shown: str) -> None:
    address = Address(whole)
    texts = [f"{address}", f"{address!r}", f"{address:>9}", str(address), "%s %r" % (address, address)]  # noqa: UP031
    texts += [json.dumps([address]), address + "", address.partition("#x")[0], repr(Source("n", whole))]
    assert not [text for text in texts if re.search("qwx|zjk", text)]
    assert f"{address}" == shown
    assert address.reveal() == whole
    assert address.has_secret is (whole != shown)
    assert Address(address) is address


def test_what_is_derived_from_an_address_keeps_its_secret() -> None:
    uri = "https://me:qwxzjk@h/r/index.asc"
    assert template_url(uri, "d.xz").reveal() == "https://me:qwxzjk@h/r/d.xz"
    assert without_slash("https://me:qwxzjk@h/r//").reveal() == "https://me:qwxzjk@h/r"
    stream = sources_from_command_line(["https://me:qwxzjk@h/streams/v1/index.json"], ["A" * 40])[0]
    assert Address(stream.at("streams/v1/x.json").uri).reveal() == "https://me:qwxzjk@h/streams/v1/x.json"
    assert Suite("http://me:qwxzjk@h/debian", "x").file("InRelease").reveal() == (
        "http://me:qwxzjk@h/debian/dists/x/InRelease"
    )
    assert MirrorRequest("https://me:qwxzjk@h/r", ROOT, Path("k")).index_url.reveal() == uri


@pytest.mark.parametrize(
    "record",
    [
        Selection(Source("s", "http://me:qwxzjk@h/i"), Entry("x", "d", "x86_64", 512), "http://me:qwxzjk@h/d"),
        Source("s", "/i", mirrors=("http://me:qwxzjk@h/i",), proxy="http://me:qwxzjk@p", written="http://qwxzjk@h"),
        Settings(sources=("http://me:qwxzjk@h/i",)),
        Mirrors("http://me:qwxzjk@h/debian", "https://h/x?token=qwxzjk"),
        Suite("http://me:qwxzjk@h/debian", "x"),
        ImportRequest(
            "https://me:qwxzjk@h/x.qcow2",
            ROOT,
            TrustOptions(checksums="https://me:qwxzjk@h/S", unsigned=True),
        ),
        MirrorRequest("https://me:qwxzjk@h/r", ROOT, Path("k")),
    ],
    ids=lambda record: type(record).__name__,
)  # fmt: skip
def test_what_holds_an_address_does_not_show_it(record: object) -> None:
    assert "qwxzjk" not in f"{record} {record!r}"


@pytest.mark.parametrize(
    "address",
    ["http://me:qwx/zjk@h/x", "http://me:qwx zjk@h/x", "ftp://me:qwxzjk@h/x", "foo://me:qwxzjk@h/x",
     "http://me:qwxzjk@h:99999/x", "http://me:qwxzjk@/x", "https://me:qwxzjk@h/x.pybundle"],
)  # fmt: skip
def test_errors_about_addresses_do_not_show_them(address: str) -> None:
    with pytest.raises(UsageError) as failed:
        check_uri(address)
    assert not re.search("qwx|zjk", "".join(traceback.format_exception(failed.value)))


@pytest.mark.parametrize("target", ["rsync://me:qwxzjk@h/m", "me:qwxzjk@h:/srv", "s3://AKIA:qwx/zjk@bucket"])
def test_an_upload_target_with_a_password_is_refused_without_showing_it(target: str) -> None:
    with pytest.raises(UsageError, match="not an upload target") as failed:
        read_place(target)
    assert not re.search("qwx|zjk", failed.value.message)


def test_a_template_never_holds_the_password_of_its_mirror() -> None:
    with pytest.raises(UsageError, match="would be readable in the template") as failed:
        BootstrapRequest(recipe_named("debian-12"), guest_uses=Mirrors("http://me:qwxzjk@h/debian"))
    assert "qwxzjk" not in str(failed.value)


def test_the_identity_of_a_source_holds_no_secret_and_tells_sources_apart() -> None:
    plain, first, second = (
        identity(f"https://h/i?v=1{more}") for more in ("", "&token=qwxzjk1", "&token=qwxzjk2")
    )
    assert plain == "https://h/i?v=1"
    assert len({plain, first, second}) == 3
    assert "qwxzjk" not in first + second
    assert identity("https://me:qwxzjk@h/i") == identity("https://you@h/i") == "https://h/i"


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://me:qwxzjk@127.0.0.1:9/x?sig=qwxzjk", "no"),
        ("http://127.0.0.1:9/x?sig=qwxzjk", "http://me:qwxzjk@127.0.0.1:9"),
        ("http://127.0.0.1:9/x?sig=qwxzjk", "http://me:qwx/zjk@127.0.0.1:9"),
        ("http://127.0.0.1:9/x?sig=qwxzjk", "me:qwxzjk@127.0.0.1:9"),
        ("http://me:qwxzjk@127.0.0.1:9/x", "system"),
    ],
)
def test_what_the_libraries_raise_is_not_in_our_errors(
    url: str, proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "me:qwxzjk@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    limits = Limits(timeout=2, connect=2)
    with (
        StallTimer(2) as timer,
        web_session(timer, limits, trusted=True, unresolved=set()) as session,
        pytest.raises(NoAnswerError) as failed,
    ):
        session.get(WebRequest(url, digest_known=False), Address(proxy), {})
    chain: list[BaseException] = []
    error: BaseException | None = failed.value
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    assert len(chain) == 1, "the errors of requests and urllib3 quote addresses"
    assert not re.search("qwx|zjk", "".join(traceback.format_exception(failed.value)))


def test_a_malformed_redirect_is_not_quoted() -> None:
    request = WebRequest("http://me:qwxzjk@h/x", digest_known=False)
    for location in ("http://me:qwx/zjk@h/y", "https://me:qwxzjk@h/y", "http://h:qwxzjk/y", "//x?sig=qwxzjk"):
        with pytest.raises(PybuilderError) as failed:
            request.follow([location])
        assert not re.search("qwx|zjk", "".join(traceback.format_exception(failed.value))), location


@pytest.mark.timeout(60)
def test_hiding_takes_no_time_on_hostile_texts() -> None:
    for piece in ("?", "?a", "://", "://:", "://a:b", "&key", "@", "?x=", "://a:1/"):
        without_secrets(piece * (60_000 // len(piece)))
        Address(piece * (60_000 // len(piece)))


REVEALED_IN = {
    "builder/imgbuilder/catalog/addsource.py": "writes the configuration that the user asked for",
    "builder/imgbuilder/catalog/state.py": "distinguishes sources by a digest",
    "builder/imgbuilder/fetch/session.py": "sends the request, by the proxy",
    "builder/imgbuilder/fetch/urls.py": "derives other addresses",
    "builder/imgbuilder/fetch/webrules.py": "the request",
    "repo-tools/imgrepo/intake/proof.py": "derives other addresses",
    "repo-tools/imgrepo/template/recipes.py": "apt's sources: in the guest for addresses without secret, and "
    "for mmdebstrap on its standard input",
}


def test_whole_addresses_are_asked_for_in_few_places() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in ("index", "builder", "repo-tools")
        for path in (ROOT / room).rglob("*.py")
        if ".reveal()" in path.read_text()
    }
    assert found == set(REVEALED_IN)
