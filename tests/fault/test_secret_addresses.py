"""A password in an address, or a signature in its query, is in nothing that is printed or kept."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.fakes.faultserver import FaultServer, Reset, answer
from tests.fakes.keys import KeyMaker
from tests.fault.test_environment import BUILD, Place

pytestmark = pytest.mark.timeout(240)

CANARY = "canary-4711"
BASIC = base64.b64encode(f"me:{CANARY}".encode())
COMMANDS: list[tuple[str, ...]] = [
    ("--list",), ("--list", "--long"), ("--list", "--list-format", "json"),
    ("--list", "--list-format", "full"),
    ("source", "list",), ("source", "list", "--long"), ("doctor",), ("--notes", "tiny"),
    ("tiny", "--dry-run"), ("tiny", "--dry-run", "--json"), ("tiny", "--dry-run", "--machine-readable"),
    ("--print-cache",), ("--cache-all-templates",), ("source", "forget", "test"), ("--list",),
    ("recipe", "write", "recipe.toml", *BUILD, "--machine-readable"), BUILD,
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, keys: KeyMaker) -> Place:
    return Place(tmp_path, keys)


def guarded(place: Place, *, open_: bool) -> FaultServer:
    """Serve the site to who knows the password."""

    def reply(head: bytes) -> bytes:
        name = head.split()[1].decode().lstrip("/").partition("?")[0]
        if not open_ or (BASIC not in head and f"sig={CANARY}".encode() not in head):
            return answer(b"who are you?", status="401 Unauthorized")
        return answer((place.base / "site" / name).read_bytes())

    return FaultServer([reply])


def check(place: Place, *commands: tuple[str, ...]) -> list[int]:
    codes = []
    for words in commands:
        done = place.run("--verbose", *words)
        assert CANARY not in done.stdout + done.stderr, words
        codes.append(done.returncode)
    for path in place.base.rglob("*"):
        assert CANARY not in path.name
        if path.is_file() and "repos.d" not in path.parts:
            assert CANARY.encode() not in path.read_bytes(), path
    return codes


def configure(place: Place, *uris: str) -> None:
    repos = place.base / "home/.config/pybuilder/repos.d/test.conf"
    lines = [f"uri={uri}" for uri in uris]
    repos.write_text("\n".join(["[test]", *lines, f"gpgkey={place.base}/site/key.gpg", ""]))


def test_of_a_source_that_asks_for_a_password(place: Place) -> None:
    with guarded(place, open_=True) as server:
        good = server.url.replace("://", f"://me:{CANARY}@")
        configure(place, f"{good}/index.asc")
        codes = check(place, *COMMANDS)
        assert codes[0] == codes[8] == codes[-1] == 0, codes
        assert any(b"tiny.xz" in head for head in server.requests)


def test_of_a_source_with_a_signed_address_and_a_dead_mirror(place: Place) -> None:
    with guarded(place, open_=True) as server:
        configure(
            place, f"http://me:{CANARY}@127.0.0.1:9/index.asc", f"{server.url}/index.asc?v=1&sig={CANARY}"
        )
        assert check(place, ("--list",), ("source", "list", "--long"))[0] == 0


@pytest.mark.parametrize("fault", ["closed", "reset", "malformed", "proxy"])
def test_of_a_source_that_fails(place: Place, fault: str) -> None:
    with guarded(place, open_=False) if fault != "reset" else FaultServer([Reset()]) as server:
        address = server.url.replace("://", f"://me:{CANARY}@") + f"/index.asc?sig={CANARY}"
        if fault == "malformed":
            address = f"http://me:/{CANARY}@h/index.asc"
        if fault == "proxy":
            place.environment["http_proxy"] = f"me:{CANARY}@127.0.0.1:9"
            address = f"http://example.invalid/index.asc?sig={CANARY}"
        given = ("--source", address, "--fingerprint", "A" * 40)
        configure(place, address)
        check(place, ("--list",), ("--list", *given), ("tiny", *given), ("source", "list", "--long"), BUILD)


def test_a_recipe_is_not_written_with_a_password(place: Place) -> None:
    address = f"https://h/index.asc?sig={CANARY}"
    given = ("recipe", "write", "recipe.toml", "--source", address, "--fingerprint", "A" * 40)
    assert check(place, (*given, *BUILD)) == [2]
