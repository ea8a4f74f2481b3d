from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.catalog.catalog import Catalog, FailedSource, load_catalog
from imgbuilder.catalog.loader import LoadedSource, Loader, age
from imgbuilder.catalog.sources import Source, trusted_keys
from imgbuilder.catalog.state import SourceStates
from imgbuilder.errors import (
    BadSignatureError,
    FetchError,
    IndexSyntaxError,
    NotSignedError,
    PybuilderError,
    RepositoryError,
    UsageError,
    WrongKeyError,
)
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Download, Fetched
from imgbuilder.host import paths
from imgindex.gpg import GpgVerifier
from imgindex.model import Entry, Index
from imgindex.trust import TrustedKeys, VerifiedText
from tests.fakes import keys as key_fakes
from tests.fakes.keys import KeyMaker

SHA = "ab" * 64

publisher_keys = key_fakes.keys


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def real_loader() -> Loader:
    return Loader(SourceFetcher(), GpgVerifier(), states(), lambda: datetime.now(UTC))


def states() -> SourceStates:
    return SourceStates(paths.state_dir() / "sources")


def index_text(*names: str, arch: str = "x86_64") -> bytes:
    sections = [f"[{name}]\nfile={name}.xz\narch={arch}\nsize=512\nchecksum={SHA}\n" for name in names]
    return "\n".join(sections).encode()


class FakeFetcher:
    def __init__(self, files: dict[str, bytes | PybuilderError]) -> None:
        self.files = files
        self.calls: list[Download] = []

    def fetch(self, download: Download) -> Fetched:
        self.calls.append(download)
        found = self.files[download.url]
        if isinstance(found, PybuilderError):
            raise found
        download.destination.write(found)
        return Fetched(download.url, len(found))


class FakeVerifier:
    """Accepts what begins with ``signed:``."""

    def verify(self, data: bytes, pin: TrustedKeys, *, where: str, limit: int = 0) -> VerifiedText:
        if not data.startswith(b"signed:"):
            raise BadSignatureError(f"{where}: bad signature")
        key = "F" * 40
        return VerifiedText(data[7:].decode(), key, key, datetime(2026, 1, 1, tzinfo=UTC), None)


def keys_of(_source: Source) -> TrustedKeys:
    return TrustedKeys(frozenset({"F" * 40}), b"")


def source(name: str, **options: Any) -> Source:
    options.setdefault("origin", Path("repos.d", f"{name}.conf"))
    return Source(name, f"https://{name}/index", ("F" * 40,), **options)


def load(
    files: dict[str, bytes | PybuilderError], *sources: Source, **options: Any
) -> tuple[Catalog, list[Event]]:
    events: list[Event] = []
    fetcher = FakeFetcher({f"https://{name}/index": content for name, content in files.items()})
    until = options.pop("until", None)
    loader = Loader(
        fetcher,
        FakeVerifier(),
        states(),
        lambda: datetime(2026, 1, 2, tzinfo=UTC),
        on_event=events.append,
        keys_of=keys_of,
        **options,
    )
    return load_catalog(sources, loader, until=until), events


def warnings(events: list[Event]) -> list[str]:
    return [
        event.text for event in events if isinstance(event, Notice) and event.severity is Severity.WARNING
    ]


def test_all_sources_in_order() -> None:
    catalog, events = load(
        {"a": b"signed:" + index_text("x", "y"), "b": b"signed:" + index_text("z")}, source("a"), source("b")
    )
    assert [entry.os_version for entry in catalog.entries] == ["x", "y", "z"]
    assert [item.name for item in catalog.sources] == ["a", "b"]
    assert catalog.loaded[0].signed is not None
    assert warnings(events) == []


@pytest.mark.row("V1")
def test_index_is_bounded_and_uses_the_source_s_proxy() -> None:
    """No more is fetched than an index may have."""
    fetcher = FakeFetcher({"https://a/index": b"signed:" + index_text("x")})
    loader = Loader(
        fetcher, FakeVerifier(), states(), lambda: datetime(2026, 1, 2, tzinfo=UTC), keys_of=keys_of
    )
    load_catalog([source("a", proxy="http://p")], loader)
    (download,) = fetcher.calls
    assert download.limit == 5_000_000
    assert download.proxy == "http://p"
    assert not download.digest_known


def test_an_index_has_a_time_limit_at_each_address() -> None:
    dead = FetchError("not complete after 60 seconds")
    fetcher = FakeFetcher({"https://a/index": dead, "https://m/index": b"signed:" + index_text("x")})
    loader = Loader(
        fetcher, FakeVerifier(), states(), lambda: datetime(2026, 1, 2, tzinfo=UTC), keys_of=keys_of
    )
    assert load_catalog([source("a", mirrors=("https://m/index",))], loader).entries[0].os_version == "x"
    assert [download.seconds for download in fetcher.calls] == [60, 60]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (FetchError("https://b/index: HTTP status code 503"), "503"),
        (index_text("x"), "bad signature"),
        (b"signed:[broken", "line 1"),
    ],
)
def test_one_bad_source_is_left_out_with_a_warning(content: bytes | PybuilderError, words: str) -> None:
    catalog, events = load({"a": b"signed:" + index_text("x"), "b": content}, source("b"), source("a"))
    assert [entry.os_version for entry in catalog.entries] == ["x"]
    assert [item.source.name for item in catalog.failed] == ["b"]
    (warning,) = warnings(events)
    assert words in warning
    with pytest.raises(UsageError) as caught:
        catalog.select("nowhere", "x86_64")
    assert "could not be used now: b" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "failure", [FetchError("https://a/index: no connection within 10 seconds"), b"signed:[broken"]
)
def test_no_later_source_stands_in_for_one_that_failed(failure: bytes | PybuilderError) -> None:
    """An attacker who drops the packets to the first source would choose whose template is built."""
    files: dict[str, bytes | PybuilderError] = {"a": failure, "b": b"signed:" + index_text("x")}
    catalog, events = load(files, source("a"), source("b"), until=("x", "x86_64"))
    with pytest.raises(PybuilderError, match="source a, which comes before b, may offer x") as caught:
        catalog.select("x", "x86_64")
    assert "optional=yes in its section in repos.d/a.conf" in (caught.value.hint or "")
    assert "--source" in (caught.value.hint or "")
    assert len(warnings(events)) == 1
    assert catalog.select("x", "x86_64", only_shown=True).source.name == "b"
    assert [entry.os_version for entry in catalog.entries] == ["x"]

    assert load(files, source("b"), source("a"), until=("x", "x86_64"))[0].select("x", "x86_64")
    catalog, _events = load(files, source("a", optional=True), source("b"), until=("x", "x86_64"))
    assert catalog.select("x", "x86_64").source.name == "b"


def test_a_source_between_two_that_failed_is_only_after_the_first() -> None:
    files: dict[str, bytes | PybuilderError] = {
        "a": b"signed:" + index_text("x"),
        "b": FetchError("dead"),
        "c": b"signed:" + index_text("y"),
    }
    catalog, _events = load(files, source("a"), source("b"), source("c"))
    assert catalog.select("x", "x86_64").source.name == "a"
    with pytest.raises(PybuilderError, match="source b"):
        catalog.select("y", "x86_64")


def test_an_odd_entry_takes_only_itself_away_and_nothing_stands_in_for_it() -> None:
    odd = b"[odd]\nfile=x\narch=x86_64\nsize=7\naliases=other name\n"
    files: dict[str, bytes | PybuilderError] = {
        "a": b"signed:" + odd + index_text("good"),
        "b": b"signed:" + index_text("odd", "other", "third"),
    }
    catalog, events = load(files, source("a"), source("b"))
    assert [entry.os_version for entry in catalog.loaded[0].index.entries] == ["good"]
    (warning,) = warnings(events)
    assert "source a: " in warning
    assert "template odd: " in warning
    assert "left out" in warning
    for name in ("odd", "other"):
        with pytest.raises(RepositoryError, match=f"source a offers {name} in a broken entry"):
            catalog.select(name, "x86_64")
        asked, _events = load(files, source("a"), source("b"), until=(name, "x86_64"))
        assert len(asked.loaded) == 1  # the next cannot change that
    assert catalog.select("third", "x86_64").source.name == "b"
    assert catalog.select("good", "x86_64").source.name == "a"


def test_warnings_of_odd_entries_have_an_end() -> None:
    text = "".join(f"[t{number}]\nsize=1\n" for number in range(500)).encode()
    _catalog, events = load({"a": b"signed:" + text + index_text("good")}, source("a"))
    assert len(warnings(events)) == 11
    assert "490 more" in warnings(events)[-1]


def test_a_source_of_the_command_line_is_not_replaced_by_another() -> None:
    with pytest.raises(BadSignatureError):
        load({"a": index_text("x"), "b": b"signed:" + index_text("x")}, source("a", origin=None), source("b"))


def test_an_untrustworthy_source_is_not_replaced_by_the_next() -> None:
    files: dict[str, bytes | PybuilderError] = {"a": index_text("x"), "b": b"signed:" + index_text("x")}
    with pytest.raises(BadSignatureError) as caught:
        load(files, source("a"), source("b"), until=("x", "x86_64"))
    assert str(caught.value.hint).endswith("this is the source a of repos.d/a.conf")


def test_sources_behind_the_first_that_offers_it_are_not_asked() -> None:
    good: dict[str, bytes | PybuilderError] = {
        "a": b"signed:" + index_text("x"),
        "b": b"signed:" + index_text("y"),
        "c": FetchError("dead"),
    }
    sources = [source(name) for name in "abc"]
    catalog, events = load(good, *sources, until=("y", "amd64"))
    assert [item.name for item in catalog.sources] == ["a", "b"]
    assert warnings(events) == []
    assert catalog.select("y", "x86_64").source.name == "b"
    catalog, events = load(good, *sources, until=("z", "x86_64"))
    assert len(warnings(events)) == 1


def test_a_lone_source_fails_with_its_own_error() -> None:
    with pytest.raises(BadSignatureError) as caught:
        load({"a": index_text("x")}, source("a"))
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("this is the source a of repos.d/a.conf")
    with pytest.raises(FetchError) as failed:
        load({"a": FetchError("gone")}, source("a"))
    assert failed.value.hint == "this is the source a of repos.d/a.conf"


def test_when_all_fail_the_gravest_counts() -> None:
    with pytest.raises(PybuilderError) as caught:
        load({"a": FetchError("gone"), "b": index_text("x")}, source("a"), source("b"))
    assert caught.value.exit_code == 3
    assert "a: gone" in caught.value.message
    assert "bad signature" in caught.value.message


def test_no_sources() -> None:
    with pytest.raises(UsageError, match="no sources of templates are configured"):
        load({})
    loader = Loader(FakeFetcher({}), FakeVerifier(), states(), lambda: datetime.now(UTC))
    with pytest.raises(UsageError, match="switched off, or have mistakes"):
        load_catalog((), loader, unused=1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((-5, "less than a minute"), (59, "less than a minute"), (60, "1 minute"), (7199, "1 hour")),
        *((7200, "2 hours"), (86399, "23 hours"), (86400, "1 day"), (200000, "2 days")),
    ],
)
def test_ages(seconds: int, words: str) -> None:
    assert age(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("options", "check", "words"),
    [({"unsigned": True, "check": False}, True, "unsigned=yes"), ({}, False, "switched off")],
)
def test_unchecked_sources_are_read_and_are_loud(options: dict[str, Any], check: bool, words: str) -> None:
    catalog, events = load({"a": index_text("x")}, source("a", **options), check=check)
    assert catalog.loaded[0].signed is None
    (warning,) = warnings(events)
    assert words in warning


def test_an_unchecked_clear_signed_index_is_unwrapped(publisher_keys: KeyMaker) -> None:
    signed = publisher_keys.sign(index_text("x"), publisher_keys.make("anyone"))
    catalog, _events = load({"a": signed}, source("a", unsigned=True, check=False))
    assert [entry.os_version for entry in catalog.entries] == ["x"]


def made(*sources: tuple[str, list[Entry]]) -> Catalog:
    loaded = [LoadedSource(source(name), Index(tuple(entries)), None) for name, entries in sources]
    return Catalog(tuple(loaded))


def entry(name: str, arch: str = "x86_64", **options: Any) -> Entry:
    return Entry(name, f"{name}.xz", arch, 512, **options)


@pytest.mark.row("T8")
@pytest.mark.parametrize(("first", "second"), [(1, 5), (5, 5), (5, 1)])
def test_the_first_source_wins_whatever_the_revision(first: int, second: int) -> None:
    """Virt-builder takes the lowest revision, from anywhere."""
    catalog = made(
        ("a", [entry("x", revision=first)]), ("b", [entry("x", "amd64", revision=second), entry("y")])
    )
    selection = catalog.select("x", "x86_64")
    assert (selection.source.name, selection.entry.revision) == ("a", first)
    assert selection.url == "https://a/x.xz"
    assert [offer.entry.os_version for offer in catalog.offers] == ["x", "y"]
    assert [offer.source.name for offer in catalog.shadowed] == ["b"]


def test_a_later_source_does_not_shadow_an_alias() -> None:
    catalog = made(("a", [entry("debian-12", aliases=("debian",))]), ("b", [entry("debian")]))
    assert catalog.select("debian", "x86_64").source.name == "a"


@pytest.mark.row("P17")
def test_exact_name_beats_alias_within_a_source() -> None:
    """In virt-builder the alias wins."""
    catalog = made(("a", [entry("x", aliases=("y",)), entry("y")]))
    assert catalog.select("y", "x86_64").entry.os_version == "y"
    assert catalog.select("x", "x86_64").entry.os_version == "x"


def test_arch_is_compared_normalised_and_aliases_reach_all_of_them() -> None:
    catalog = made(("a", [entry("x", "i686", aliases=("alias",)), entry("x", "aarch64")]))
    assert catalog.select("x", "i386").entry.arch == "i686"
    assert catalog.select("alias", "aarch64").entry.arch == "aarch64"


def test_an_alias_may_mean_another_name_for_each_architecture() -> None:
    """As in simplestreams, where a product is for one architecture."""
    catalog = made(
        (
            "a",
            [entry("x-arm", "arm64", aliases=("x",)), entry("x-pc", "amd64", aliases=("x",)), entry("x-arm")],
        )
    )
    assert catalog.select("x", "x86_64").entry.os_version == "x-pc"
    assert catalog.select("x", "aarch64").entry.os_version == "x-arm"


def test_a_later_source_is_used_for_another_architecture() -> None:
    catalog = made(("a", [entry("x", "aarch64")]), ("b", [entry("x")]))
    assert catalog.select("x", "amd64").source.name == "b"


def test_unknown_names_get_advice() -> None:
    catalog = made(
        ("a", [entry("debian-12"), entry("fedora-41", aliases=("fedora",)), entry("debian-11", hidden=True)])
    )
    with pytest.raises(UsageError, match="'debain-12'") as caught:
        catalog.select("debain-12", "x86_64")
    assert "did you mean debian-12" in (caught.value.hint or "")
    assert "debian-11" not in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        catalog.select("debian-12", "aarch64")
    assert "--arch x86_64" in (caught.value.hint or "")
    assert catalog.select("debian-11", "x86_64").entry.hidden


@pytest.mark.row("T7")
def test_select_refuses_a_file_outside_the_source() -> None:
    """Whatever the parser let through."""
    catalog = made(("a", [Entry("x", "../x", "x86_64", 512)]))
    with pytest.raises(RepositoryError):
        catalog.select("x", "x86_64")


def test_failed_sources_without_others_give_a_catalog_that_says_so() -> None:
    failed = FailedSource(source("b"), FetchError("gone"))
    with pytest.raises(UsageError) as caught:
        Catalog((), (failed,)).select("x", "x86_64")
    assert "b" in (caught.value.hint or "")


def test_a_source_without_key_has_no_pin() -> None:
    with pytest.raises(UsageError):
        trusted_keys(Source("x", "/i", None))
    with pytest.raises(UsageError):
        trusted_keys(Source("x", "/i", ()))


def test_only_the_named_keys_of_a_file_count(tmp_path: Path, publisher_keys: KeyMaker) -> None:
    """A key file with three keys, of which the configuration names two."""
    keys = publisher_keys
    old, new, other = keys.make("old of two"), keys.make("new of two"), keys.make("third in the file")
    key_file, index = tmp_path / "keys.gpg", tmp_path / "index.asc"
    key_file.write_bytes(keys.export(old, new, other))
    source = Source("s", str(index), key_file, only=(old, new))
    start = datetime.now(UTC)
    for second, key in enumerate((old, new)):  # a rotation
        index.write_bytes(
            keys.sign(index_text("x"), key, at=f"{start + timedelta(seconds=second):%Y%m%dT%H%M%S}")
        )
        assert load_catalog([source], real_loader()).entries
    index.write_bytes(keys.sign(index_text("x"), other))
    with pytest.raises(WrongKeyError):
        load_catalog([source], real_loader())
    key_file.write_bytes(keys.export(old, other))
    with pytest.raises(UsageError, match=f"does not hold the key {new}"):
        load_catalog([source], real_loader())


def test_real_keys_end_to_end(
    tmp_path: Path, publisher_keys: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A local source signed by the second of two pinned keys of the user's keyring; then by neither."""
    keys = publisher_keys
    old, new, other = keys.make("old"), keys.make("new"), keys.make("other")
    monkeypatch.setenv("GNUPGHOME", str(keys.home))
    index = tmp_path / "index.asc"
    index.write_bytes(keys.sign(index_text("x"), new))
    sources = [Source("s", str(index), (old, new))]
    catalog = load_catalog(sources, real_loader())
    assert catalog.loaded[0].signed is not None
    assert catalog.loaded[0].signed.primary_fingerprint == new
    assert catalog.select("x", "x86_64").url == str(tmp_path / "x.xz")
    key_file = tmp_path / "key.gpg"
    key_file.write_bytes(keys.export(new))
    assert load_catalog([Source("s", str(index), key_file)], real_loader()).entries
    index.write_bytes(keys.sign(index_text("x"), other))
    with pytest.raises(PybuilderError) as caught:
        load_catalog(sources, real_loader())
    assert caught.value.exit_code == 3
    index.write_bytes(index_text("x"))
    with pytest.raises(NotSignedError):
        load_catalog(sources, real_loader())
    index.write_bytes(
        keys.sign("[broken\n", new, at=f"{datetime.now(UTC) + timedelta(minutes=1):%Y%m%dT%H%M%S}")
    )
    with pytest.raises(IndexSyntaxError):
        load_catalog(sources, real_loader())


def test_many_entries_that_claim_one_alias_take_little_time() -> None:
    """An index of less than 5 MB; a bound that catches only what grows with the square."""
    entries = [
        one
        for number in range(12_000)
        for one in (entry(f"t{number}", f"b{number}", aliases=("x",)), entry(f"t{number}", f"c{number}"))
    ]
    catalog = made(("a", [*entries, entry("last", aliases=("x",))]))
    started = time.monotonic()
    assert catalog.select("x", "x86_64").entry.os_version == "last"
    with pytest.raises(UsageError):
        catalog.select("nope", "x86_64")
    assert time.monotonic() - started < 20
