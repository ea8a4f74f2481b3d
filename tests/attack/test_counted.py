"""Every crafted file of ``tests/fakes/attacks.py``, through the whole of the client, and counted.

Each is tried on every way by which an index reaches the client: as the first of its source, as a refresh of
a good one, from a mirror, and as the kept copy of a source that cannot be reached.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imgbuilder.catalog.loader import Loader
from imgbuilder.catalog.sources import Source
from imgbuilder.catalog.state import SourceStates
from imgbuilder.errors import FetchError, PybuilderError, RepositoryError, TrustError
from imgbuilder.fetch.router import SourceFetcher
from imgindex.gpg import GpgVerifier
from imgindex.model import Index
from tests.fakes.attacks import Case, World, attacks, good_variants
from tests.fakes.keys import KeyMaker

pytestmark = pytest.mark.timeout(240)

ATTACK_ROWS = {
    *(f"S{number}" for number in (*range(2, 9), *range(10, 29), 30, 32, 33, 34, 35, 39, 40)),
    *(f"P{number}" for number in (*range(1, 13), 15, 16, 17)),
    "D8",
} - {"S16"}


@pytest.fixture(scope="module")
def world(keys: KeyMaker) -> World:
    return World(keys)


@pytest.fixture(scope="module")
def attack_cases(world: World) -> list[Case]:
    return list(attacks(world))


@pytest.fixture(scope="module")
def good_cases(world: World) -> list[Case]:
    return list(good_variants(world))


@dataclass
class Client:
    """A client with an empty memory, and one source with two addresses."""

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.states = SourceStates(self.folder / "state")
        self.first, self.second = self.folder / "first", self.folder / "second"
        self.source = Source("x", f"file://{self.first}", mirrors=(f"file://{self.second}",))

    def load(self, case: Case) -> Index:
        loader = Loader(
            SourceFetcher(),
            GpgVerifier(),
            self.states,
            lambda: datetime.now(UTC),
            keys_of=lambda _source: case.pin,
        )
        return loader.load(replace(self.source, extra_signatures=case.pin.extra_signatures)).index

    def remembered(self) -> dict[str, bytes]:
        """The memory as it is, to see that a refused file leaves no trace."""
        folder = self.states.folder
        return {path.name: path.read_bytes() for path in folder.glob("*")} if folder.is_dir() else {}


def first_use(client: Client, case: Case) -> None:
    client.first.write_bytes(case.data)


def from_mirror(client: Client, case: Case) -> None:
    client.second.write_bytes(case.data)


def kept_copy(client: Client, case: Case, world: World) -> None:
    """Put the file where the last accepted index is kept, next to the record of a good one."""
    client.first.write_bytes(world.good)
    client.load(Case("", "", world.good, world.pin))
    client.first.unlink()
    (copy,) = client.states.folder.glob("*.asc")
    copy.write_bytes(case.data)


def test_no_attack_is_accepted(attack_cases: list[Case], world: World, tmp_path: Path) -> None:
    accepted = []
    for number, case in enumerate(attack_cases):
        for way in ("first", "mirror", "kept"):
            client = Client(tmp_path / f"{number}-{way}")
            if case.before is not None:
                client.first.write_bytes(case.before)
                client.load(case)
            elif way == "kept":
                kept_copy(client, case, world)
            if way == "mirror":
                client.first.unlink(missing_ok=True)
                from_mirror(client, case)
            elif way == "first":
                first_use(client, case)
            elif case.before is not None:
                continue
            before = client.remembered()
            try:
                index = client.load(case)
            except (TrustError, RepositoryError, FetchError):
                if client.remembered() != before:
                    accepted.append((case.row, case.name, f"remembered, {way}"))
            else:
                if not disarmed(index):
                    accepted.append((case.row, case.name, way))
    assert accepted == []


def disarmed(index: Index) -> bool:
    """Say whether entries were left out, and nothing answers to any of their names."""
    answering = {name for entry in index.entries for name in (entry.os_version, *entry.aliases)}
    return bool(index.refused) and all(answering.isdisjoint(item.names) for item in index.refused)


def test_there_are_enough_attacks_and_all_rows_have_some(attack_cases: list[Case]) -> None:
    counted = Counter(case.row for case in attack_cases)
    assert len({(case.data, case.pin, case.before) for case in attack_cases}) == len(attack_cases) >= 150
    assert set(counted) == ATTACK_ROWS
    assert len({(case.row, case.name) for case in attack_cases}) == len(attack_cases)
    print(f"{len(attack_cases)} attacks:", dict(counted))


def test_no_good_variant_is_refused(good_cases: list[Case], tmp_path: Path) -> None:
    refused = []
    for number, case in enumerate(good_cases):
        for way in (first_use, from_mirror):
            client = Client(tmp_path / f"{number}-{way.__name__}")
            if case.before is not None:
                client.first.write_bytes(case.before)
                client.load(case)
            way(client, case)
            try:
                index = client.load(case)
            except PybuilderError as error:
                refused.append((case.row, case.name, error.message))
            else:
                assert len(index.entries) == len(re.findall(rb"^(?:- )?\[", case.data, re.MULTILINE))
                assert client.remembered()
    assert refused == []
    assert len({(case.data, case.pin) for case in good_cases}) >= 30
    print(f"{len(good_cases)} good variants")
