"""Rows S33 to S37 and S40, T4 to T6: a properly signed index that is not the one to use now.

Real keys, real signatures of chosen days, the real gpgv; each row for a local
file, for its ``file://`` address and over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer

from imgbuilder.catalog.catalog import load_catalog
from imgbuilder.catalog.loader import Loader
from imgbuilder.catalog.sources import Source
from imgbuilder.catalog.state import SourceStates
from imgbuilder.errors import (
    ClockError,
    ConflictingIndexError,
    ExpiredIndexError,
    FetchError,
    FutureIndexError,
    IndexSyntaxError,
    NotSignedError,
    PybuilderError,
    RolledBackError,
    SignatureLostError,
    SourceStateError,
    TrustError,
    WrongKeyError,
)
from imgbuilder.events import Event, Notice, Severity
from imgbuilder.fetch.router import SourceFetcher
from imgbuilder.fetch.transfer import Limits
from imgindex.gpg import GpgVerifier
from tests.fakes.keys import KeyMaker

DAY = timedelta(days=1)
# gpgv has its own idea of the time, so that the days of these rows lie before the tests' own.
DAY0 = datetime(2024, 1, 1, tzinfo=UTC)


def text(word: str = "x") -> str:
    return f"[debian-12]\nfile={word}.xz\narch=x86_64\nchecksum[sha512]={'ab' * 64}\nsize=512\n\n"


@dataclass
class World:
    """One source, what its server says, and what time it is."""

    keys: KeyMaker
    key: str
    source: Source
    file: Path
    server: HTTPServer | None
    states: SourceStates
    now: datetime = DAY0 + 10 * DAY
    others: list[Source] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def signed(self, day: float, word: str = "x", *options: str) -> bytes:
        return self.keys.sign(text(word), self.key, at=moment(DAY0 + day * DAY), options=options)

    def serve(self, data: bytes) -> None:
        self.file.write_bytes(data)
        if self.server is not None:
            self.server.clear()
            self.server.expect_request("/index.asc").respond_with_data(data)

    def use(self, data: bytes | None = None, *, source: Source | None = None, check: bool = True) -> str:
        """Serve bytes and read the catalogue; returns the file that its one template has."""
        if data is not None:
            self.serve(data)
        fetcher = SourceFetcher(Limits(retries=0))
        loader = Loader(
            fetcher, GpgVerifier(), self.states, lambda: self.now, check=check, on_event=self.events.append
        )
        sources = [source or self.source, *self.others]
        return load_catalog(sources, loader, until=("debian-12", "x86_64")).entries[0].file

    def unreachable(self) -> None:
        self.file.unlink()
        if self.server is not None:
            self.server.clear()  # status 500 for everything

    def refuse(
        self, error: type[PybuilderError], data: bytes | None = None, *, source: Source | None = None
    ) -> str:
        """The same, but it must fail and must leave what is remembered as it was."""
        before = snapshot(self.states.folder)
        with pytest.raises(error) as caught:
            self.use(data, source=source)
        assert snapshot(self.states.folder) == before
        assert self.source.shown_uri.removeprefix("file://") in caught.value.message
        return f"{caught.value.message} ({caught.value.hint})"

    def refuse_any(self, error: type[PybuilderError], source: Source) -> None:
        before = snapshot(self.states.folder)
        with pytest.raises(error):
            self.use(source=source)
        assert snapshot(self.states.folder) == before


def moment(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%S}!"  # the mark stops gpg's clock


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


@pytest.fixture(scope="session")
def old_key(keys: KeyMaker) -> str:
    return keys.make("Fresh <fresh@example.org>", at=moment(DAY0 - 100 * DAY))


@pytest.fixture(params=["path", "file", "http"])
def world(request: pytest.FixtureRequest, tmp_path: Path, keys: KeyMaker, old_key: str) -> World:
    index, key_file = tmp_path / "index.asc", tmp_path / "key.gpg"
    key_file.write_bytes(keys.export(old_key))
    server: HTTPServer | None = None
    uri = str(index)
    if request.param == "file":
        uri = f"file://{index}"
    elif request.param == "http":
        server = request.getfixturevalue("httpserver")
        assert server is not None
        uri = server.url_for("/index.asc")
    source = Source("s", uri, key_file, origin=tmp_path / "s.conf")
    return World(keys, old_key, source, index, server, SourceStates(tmp_path / "state"))


@pytest.mark.row("S33")
def test_rollback(world: World) -> None:
    one, two = world.signed(1, "one"), world.signed(2, "two")
    assert world.use(two) == "two.xz"
    message = world.refuse(RolledBackError, one)
    assert "2024-01-02 00:00:00 UTC" in message
    assert "2024-01-03 00:00:00 UTC" in message
    assert world.use(two) == "two.xz"
    assert world.use(world.signed(3, "three")) == "three.xz"
    world.refuse(RolledBackError, two)


@pytest.mark.row("S33")
def test_first_use_cannot_know(world: World) -> None:
    """Not promised, and said so in the manual page."""
    assert world.use(world.signed(1)) == "x.xz"


@pytest.mark.row("S33")
def test_rollback_by_another_key_of_the_source(world: World, tmp_path: Path) -> None:
    other = world.keys.make("second", at=moment(DAY0 - DAY))
    both = tmp_path / "both.gpg"
    both.write_bytes(world.keys.export(world.key, other))
    source = replace(world.source, key=both)
    world.use(world.signed(2), source=source)
    world.refuse(RolledBackError, world.keys.sign(text("old"), other, at=moment(DAY0 + DAY)), source=source)


@pytest.mark.row("S34")
def test_same_second_other_text(world: World) -> None:
    assert world.use(world.signed(2)) == "x.xz"
    assert "2024-01-03 00:00:00 UTC" in world.refuse(ConflictingIndexError, world.signed(2, "y"))
    assert world.use(world.signed(2)) == "x.xz"


@pytest.mark.row("S35")
def test_fast_forward(world: World) -> None:
    assert world.use(world.signed(2)) == "x.xz"
    message = world.refuse(FutureIndexError, world.signed(13 * 365, "evil"))
    assert "clock" in message
    assert world.use(world.signed(3, "y")) == "y.xz"
    assert world.use(world.signed(10.9, "z")) == "z.xz"


@pytest.mark.row("S35")
def test_fast_forward_at_first_use(world: World) -> None:
    world.refuse(FutureIndexError, world.signed(13 * 365, "evil"))
    assert not list(world.states.folder.glob("*.json"))


@pytest.mark.row("S36")
def test_expired_signature_by_the_injected_clock(world: World) -> None:
    """gpgv would still believe in this one."""
    lasting = int((datetime.now(UTC) - DAY0) / DAY) + 400
    data = world.signed(1, "x", "--default-sig-expire", f"{lasting}d")
    assert world.use(data) == "x.xz"
    world.now = DAY0 + (lasting + 2) * DAY
    world.refuse(ExpiredIndexError)


@pytest.mark.row("S36")
def test_max_age(world: World) -> None:
    source = replace(world.source, max_age=40 * DAY)
    data = world.signed(1)
    world.now = DAY0 + 41 * DAY
    assert world.use(data, source=source) == "x.xz"
    world.now += timedelta(seconds=1)
    assert "allows 40 days (max-age)" in world.refuse(ExpiredIndexError, source=source)
    assert world.use(world.signed(2), source=source) == "x.xz"
    # The last accepted copy of a source that cannot be reached ages as well.
    world.unreachable()
    world.now += 2 * DAY
    assert "max-age" in world.refuse(FetchError, source=source)


@pytest.mark.row("S37")
def test_corrupt_memory(world: World) -> None:
    world.use(world.signed(2))
    (record,) = world.states.folder.glob("*.json")
    record.write_text("junk")
    message = world.refuse(SourceStateError, world.signed(1))
    assert "pybuilder source forget" in message
    assert world.states.forget(world.source.uri)
    assert world.use(world.signed(1)) == "x.xz"


@pytest.mark.row("S37")
def test_memory_from_the_future(world: World) -> None:
    world.use(world.signed(2))
    world.now -= 2 * DAY
    assert "clock" in world.refuse(ClockError)
    world.now += 2 * DAY
    assert world.use() == "x.xz"


@pytest.mark.row("S40")
def test_signature_lost(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other" / "index.asc"
    other.parent.mkdir()
    other.write_bytes(world.signed(1, "other"))
    world.others = [Source("other", str(other), world.source.key, origin=Path("o"))]
    world.use(world.signed(2))
    world.refuse(NotSignedError, text("evil").encode())
    world.refuse(WrongKeyError, world.keys.sign(text("evil"), world.keys.make("evil")))
    unsigned = replace(world.source, key=None, unsigned=True, check=False)
    message = world.refuse(SignatureLostError, text("evil").encode(), source=unsigned)
    assert world.key in message
    assert "source forget" in message
    assert world.states.forget(world.source.uri)
    assert world.use(source=unsigned) == "evil.xz"


@pytest.mark.row("S40")
def test_a_source_that_never_was_signed_is_fine(world: World) -> None:
    unsigned = replace(world.source, key=None, unsigned=True, check=False)
    assert world.use(text("plain").encode(), source=unsigned) == "plain.xz"
    assert not list(world.states.folder.glob("*.json"))


@pytest.mark.row("V9")
def test_what_is_refused_leaves_no_memory(world: World) -> None:
    world.refuse(TrustError, world.signed(2).replace(b"x.xz", b"y.xz"))
    broken = world.keys.sign("[broken\n", world.key, at=moment(DAY0 + 5 * DAY))
    with pytest.raises(IndexSyntaxError):
        world.use(broken)
    assert not world.states.folder.exists()
    assert world.use(world.signed(2)) == "x.xz"


def test_without_the_check_nothing_is_remembered_or_asked(world: World) -> None:
    world.use(world.signed(2))
    before = snapshot(world.states.folder)
    assert world.use(world.signed(1, "old"), check=False) == "old.xz"
    assert snapshot(world.states.folder) == before
    world.refuse(RolledBackError)


@pytest.mark.row("T4")
def test_two_spellings_of_one_file_are_one_source(world: World) -> None:
    world.use(world.signed(2))
    if world.server is None:
        other = replace(world.source, uri=f"{world.file.parent}/../{world.file.parent.name}/index.asc")
        with pytest.raises(RolledBackError):
            world.use(world.signed(1), source=other)


def warnings(world: World) -> list[str]:
    return [
        event.text
        for event in world.events
        if isinstance(event, Notice) and event.severity is Severity.WARNING
    ]


def test_unreachable_source_is_replaced_by_its_last_accepted_index(world: World) -> None:
    world.use(world.signed(1, "one"))
    world.use(world.signed(2, "two"))
    world.unreachable()
    world.now += DAY / 2
    before = snapshot(world.states.folder)
    assert warnings(world) == []
    assert world.use() == "two.xz"
    assert snapshot(world.states.folder) == before
    (warning,) = warnings(world)
    assert "source s cannot be reached" in warning
    assert "signed 8 days ago, at 2024-01-03 00:00:00 UTC" in warning


def test_unreachable_source_without_last_index(world: World) -> None:
    world.serve(world.signed(1))
    world.unreachable()
    world.refuse(FetchError)


def test_an_untrustworthy_answer_is_never_replaced(world: World) -> None:
    good = world.signed(2)
    world.use(good)
    for bad in (
        b"",
        text("evil").encode(),
        good.replace(b"size=512", b"size=513"),
        world.signed(1),
        world.signed(2, "y"),
        world.signed(9999),
    ):
        world.refuse(TrustError, bad)
        assert warnings(world) == []


def test_the_last_accepted_index_is_judged_anew(world: World) -> None:
    """A changed copy, one of another key, an older one, an expired one: none is used."""
    lasting = int((datetime.now(UTC) - DAY0) / DAY) + 400
    good = world.signed(2, "x", "--default-sig-expire", f"{lasting}d")
    world.use(good)
    world.unreachable()
    (kept,) = world.states.folder.glob("*.asc")
    assert kept.read_bytes() == good
    stranger = world.keys.sign(text("evil"), world.keys.make("stranger"))
    for bad in (b"", good.replace(b"x.xz", b"y.xz"), world.signed(1), stranger, good * 2):
        kept.write_bytes(bad)
        assert "last accepted index cannot be used" in world.refuse(FetchError)
    kept.write_bytes(good)
    assert world.use() == "x.xz"
    world.now = DAY0 + (lasting + 3) * DAY
    assert "has expired" in world.refuse(FetchError)


def test_a_forgotten_source_has_no_last_index(world: World) -> None:
    world.use(world.signed(2))
    world.unreachable()
    world.states.forget(world.source.uri)
    world.refuse(FetchError)


def mirrored(world: World, tmp_path: Path) -> tuple[Source, Path]:
    """The source with one more address, and the file of that."""
    mirror = tmp_path / "mirror" / "index.asc"
    mirror.parent.mkdir()
    return replace(world.source, mirrors=(str(mirror),)), mirror


def test_mirrors_are_tried_in_order_and_each_answer_is_verified(world: World, tmp_path: Path) -> None:
    source, mirror = mirrored(world, tmp_path)
    mirror.write_bytes(world.signed(2, "mirror"))
    assert world.use(world.signed(1, "first"), source=source) == "first.xz"
    assert warnings(world) == []
    world.unreachable()
    assert world.use(source=source) == "mirror.xz"
    assert "its next address is tried" in warnings(world)[0]
    for bad in (world.signed(2, "mirror") + b"x", world.signed(1, "first"), text("evil").encode()):
        mirror.write_bytes(bad)
        world.refuse_any(TrustError, source)


@pytest.mark.row("T1")
def test_a_bad_mirror_does_not_block_a_good_one_and_is_named(world: World, tmp_path: Path) -> None:
    source, mirror = mirrored(world, tmp_path)
    good = world.signed(2)
    mirror.write_bytes(good)
    for bad in (text("evil").encode(), good.replace(b"512", b"513"), world.signed(1, "old"), b""):
        world.serve(bad)
        world.events.clear()
        if bad.startswith(b"-----BEGIN") and b"old.xz" in bad:
            world.use(good, source=source)
            world.serve(bad)
        assert world.use(source=source) == "x.xz"
        assert len(warnings(world)) == 1
    mirror.unlink()
    # None is left that can be trusted, and one was not: that is the error, not the last accepted index.
    world.refuse(TrustError, text("evil").encode(), source=source)


@pytest.mark.row("T4")
def test_mirrors_share_one_memory(world: World, tmp_path: Path) -> None:
    source, mirror = mirrored(world, tmp_path)
    mirror.write_bytes(world.signed(1, "old"))
    world.use(world.signed(2), source=source)
    turned = replace(source, uri=str(mirror), mirrors=(world.source.uri,))
    with pytest.raises(RolledBackError):
        world.use(source=replace(turned, mirrors=(world.source.uri, "/nowhere/index")), data=world.signed(1))
    world.unreachable()
    mirror.unlink()
    assert world.use(source=turned) == "x.xz"


def test_templates_come_from_the_mirror_that_answered(world: World, tmp_path: Path) -> None:
    source, mirror = mirrored(world, tmp_path)
    mirror.write_bytes(world.signed(1))
    world.serve(b"")
    world.unreachable()
    loader = Loader(SourceFetcher(Limits(retries=0)), GpgVerifier(), world.states, lambda: world.now)
    catalog = load_catalog([source], loader)
    assert catalog.select("debian-12", "x86_64").url == str(mirror.parent / "x.xz")


@pytest.mark.row("S15")
def test_rotation_is_allowed_per_source(world: World) -> None:
    stranger = world.keys.make("next", at=moment(DAY0 - DAY))
    both = world.keys.sign(text(), world.key, stranger, at=moment(DAY0 + DAY))
    rotating = replace(world.source, extra_signatures=True)
    world.refuse(WrongKeyError, both)
    assert world.use(both, source=rotating) == "x.xz"
    only_next = world.keys.sign(text(), stranger, at=moment(DAY0 + 2 * DAY))
    world.refuse(WrongKeyError, only_next, source=rotating)
    world.refuse(TrustError, both.replace(b"512", b"513"), source=rotating)


@pytest.mark.row("S16")
def test_old_and_new_key_pinned(world: World, tmp_path: Path) -> None:
    new = world.keys.make("new", at=moment(DAY0 - DAY))
    both_keys = tmp_path / "both.gpg"
    both_keys.write_bytes(world.keys.export(world.key, new))
    source = replace(world.source, key=both_keys)
    for day, signers in enumerate([(world.key,), (world.key, new), (new,)], 1):
        signed = world.keys.sign(text(), *signers, at=moment(DAY0 + day * DAY))
        assert world.use(signed, source=source) == "x.xz"
