"""The view of monitoring: ``status`` of a folder, its pages, its targets, and of what users get."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgrepo.sharing.serve import PublishedFolderServer
from tests.fakes.keys import KeyMaker
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.cli.test_maintain import Operator, operator
from tests.unit.imgrepo.repository import Repository

__all__ = ["operator"]


@pytest.fixture
def url(operator: Operator) -> Iterator[str]:
    """Return the address at which the folder is served."""
    import threading

    with PublishedFolderServer(operator.repository.web, ("127.0.0.1", 0), lambda _line: None) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def armored(keys: KeyMaker, key: str) -> bytes:
    return keys.gpg("--armor", "--export", key)


def test_users_get_what_was_published(operator: Operator, url: str) -> None:
    key = operator.repository.web / "index.gpg"
    assert "all is well" in operator.type(f"status {url}")
    assert "all is well" in operator.type(f"status {url}index.asc --key {key}")
    data = json.loads(operator.type(f"status {url} --json"))
    assert (data["templates"], data["signer"], data["problems"]) == (2, operator.repository.key, [])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", r"/a-\w+\.xz is missing: upload again"),
        ("size", r"/a-\w+\.xz does not have the \d+ bytes"),
        ("pages", r"the pages do not show the index \(a\)"),
        ("expires", "the signature expires at"),
        ("future", "signed in the future"),
        ("rotation", "holds 2 keys, but the index has only 1 signature"),
    ],
)
def test_what_is_wrong_at_the_address_is_found(
    operator: Operator, keys: KeyMaker, url: str, damage: str, words: str
) -> None:
    web, repository = operator.repository.web, operator.repository
    file = web / repository.entry("a").file
    match damage:
        case "missing":
            file.unlink()
        case "size":
            file.write_bytes(file.read_bytes() + b"x")
        case "pages":
            operator.type(f"catalogue {repository.images} WEB")
            assert "all is well" in operator.type(f"status {url}")
            repository.add("a.img", b"new")
            repository.publish()
            operator.type("status WEB", 1)
            assert re.search(words, operator.out)
        case "expires":
            operator.type("refresh WEB -K KEY --expire 3")
        case "future":
            later = f"{datetime.now(UTC) + timedelta(days=40):%Y%m%dT%H%M%S}"
            signed = keys.sign((web / "index").read_bytes(), repository.key, at=later)
            (web / "index.asc").write_bytes(signed)
        case "rotation":
            second = armored(keys, keys.make("Monitored <monitored@example.org>"))
            (web / "index.gpg").write_bytes((web / "index.gpg").read_bytes() + second)
    operator.type(f"status {url}", 1)
    assert re.search(words, operator.out)


def test_addresses_that_serve_no_library_are_errors(operator: Operator, url: str, keys: KeyMaker) -> None:
    stranger = operator.repository.base / "stranger.gpg"
    stranger.write_bytes(keys.export(keys.make("Watcher <watcher@example.org>")))
    for command, code in (
        (f"status {url} --key {stranger}", 3),
        (f"status {url}nothing/", 1),
        (f"status {url} --verify", 2),
        (f"status WEB --key {stranger}", 2),
        ("status ftp://example.org/", 2),
        ("status http://127.0.0.1:1/", 1),
    ):
        operator.type(command, code)
        assert operator.err.startswith("pybuilder-repo: error: "), operator.err


def test_a_server_that_sends_no_parts_is_not_blamed(operator: Operator) -> None:
    with WebFolder(operator.repository.web) as server:
        assert "all is well" in operator.type(f"status {server.url}/")


def test_a_target_that_is_behind_is_found(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift\nexec /bin/sh -c "$*"\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(ssh))
    target = f"www.example.org:{tmp_path}/there"
    (tmp_path / "there").mkdir()
    operator.type(f"status WEB --to {target}", 1)
    assert f"the target {target} cannot be read" in operator.out
    operator.type(f"upload WEB {target}")
    assert "all is well" in operator.type(f"status WEB --to {target}")
    operator.type("hide WEB a -K KEY")
    operator.type(f"status WEB --to {target}", 1)
    assert f"the target {target} does not have this index: pybuilder-repo upload" in operator.out


def test_metrics_are_whole_and_say_of_a_failure(operator: Operator, url: str, tmp_path: Path) -> None:
    file = tmp_path / "images.prom"

    def values() -> dict[str, float]:
        text = file.read_text()
        pattern = r'(pybuilder_library_\w+)\{library="[^"\n]*"(?:,fingerprint="[0-9A-F]{40}")?\} (\d+)'
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        found = [re.fullmatch(pattern, line) for line in lines]
        assert all(found), text
        return {match[1].removeprefix("pybuilder_library_"): float(match[2]) for match in found if match}

    for place in ("WEB", url):
        operator.type(f"status {place} --metrics {file}")
        assert (values()["templates"], values()["problems"]) == (2, 0)
        assert abs(values()["checked_timestamp_seconds"] - time.time()) < 300
    operator.type("refresh WEB -K KEY --expire 3")
    operator.type(f"status WEB --metrics {file}", 1)
    assert values()["problems"] == 1
    days = (values()["expires_timestamp_seconds"] - values()["signed_timestamp_seconds"]) / 86400
    assert round(days) == 3
    (operator.repository.web / "index.asc").write_text("nothing")
    operator.type(f"status WEB --metrics {file}", 3)
    assert values().keys() == {"checked_timestamp_seconds", "problems"}
    assert values()["problems"] == 1
    operator.type(f"status WEB --metrics {tmp_path}/none/images.prom", 1)


def test_keys_for_clients_are_never_dropped_silently(
    operator: Operator, keys: KeyMaker, repository: Repository
) -> None:
    key_file = repository.web / "index.gpg"
    next_key = keys.make("Next <next@example.org>")
    key_file.write_bytes(key_file.read_bytes() + armored(keys, next_key))
    both = keys.pin(repository.key, next_key).fingerprints

    def fingerprints() -> set[str]:
        return set(re.findall(r"key: +([0-9A-F]{40})", operator.type("status WEB", 1)))

    for command in ("hide WEB a -K KEY", "refresh WEB -K KEY"):
        operator.type(command)
        assert fingerprints() == both
    with KeyMaker() as elsewhere:
        unknown = elsewhere.make("Unknown <unknown@example.org>")
        key_file.write_bytes(key_file.read_bytes() + armored(elsewhere, unknown))
    before = repository.snapshot()
    operator.type("refresh WEB -K KEY", 1)
    assert f"also holds the key {unknown}" in operator.err
    assert f"gpg --import {key_file}" in operator.err
    assert repository.snapshot() == before
    key_file.unlink()
    operator.type(f"rotate-key WEB --from KEY --to {next_key}")
    operator.type(f"rotate-key WEB --from KEY --to {next_key} --finish")
    assert re.findall(r"key: +([0-9A-F]{40})", operator.type("status WEB")) == [next_key]


def test_a_clock_that_is_behind_the_newest_file_signs_nothing(
    operator: Operator, repository: Repository
) -> None:
    file = repository.web / repository.entry("b").file
    os.utime(file, times=(time.time() + 3 * 86400,) * 2)
    before = repository.snapshot()
    operator.type("hide WEB a -K KEY", 1)
    assert "this machine's clock has not reached" in operator.err
    assert f"touch {file}" in operator.err
    assert repository.snapshot() == before
    file.touch()
    operator.type("hide WEB a -K KEY")
