"""The memory of key files, which never says more than gpg did."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from imgindex import gpg
from imgindex.errors import UsageError
from imgindex.gpg import trusted_keys_from_file, trusted_keys_from_keyring
from imgindex.keys import KeyMemory
from imgindex.trust import TrustedKeys
from tests.fakes.keys import KeyMaker


@pytest.fixture
def memory(tmp_path: Path) -> KeyMemory:
    return KeyMemory(tmp_path / "keys")


@pytest.fixture
def file(tmp_path: Path, keys: KeyMaker) -> Path:
    key = keys.make("remembered")
    keys.add_subkey(key)
    path = tmp_path / "key.asc"
    path.write_bytes(keys.export(key, armor=True))
    return path


def pin(path: Path, memory: KeyMemory) -> TrustedKeys:
    return trusted_keys_from_file(path, where="test", memory=memory)


def no_gpg(patch: pytest.MonkeyPatch) -> None:
    """Let every start of gpg fail the test."""

    def ask(_data: bytes) -> None:
        raise AssertionError("gpg was asked")

    patch.setattr(gpg, "_ask_gpg", ask)


def record(memory: KeyMemory) -> Path:
    (found,) = memory.folder.iterdir()
    return found


def test_the_second_time_gpg_is_not_asked(
    file: Path, memory: KeyMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pin(file, memory)
    assert first == trusted_keys_from_file(file, where="test")
    assert memory.folder.stat().st_mode & 0o777 == 0o700
    assert record(memory).stat().st_mode & 0o777 == 0o600
    no_gpg(monkeypatch)
    assert pin(file, memory) == first
    with pytest.raises(AssertionError):
        trusted_keys_from_file(file, where="test")


def test_keys_of_the_users_keyring(
    keys: KeyMaker, memory: KeyMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = keys.make("in a keyring")
    sub = keys.add_subkey(primary)
    pins = [trusted_keys_from_keyring(name, gpg_home=keys.home, memory=memory) for name in (primary, sub)]
    assert [sorted(one.fingerprints) for one in pins] == [[primary], [sub]]
    with monkeypatch.context() as patch:
        no_gpg(patch)
        assert pins == [
            trusted_keys_from_keyring(name, gpg_home=keys.home, memory=memory) for name in (primary, sub)
        ]
    # A key that was revoked meanwhile is exported with its revocation: other bytes, another record.
    keys.revoke(primary)
    after = trusted_keys_from_keyring(primary, gpg_home=keys.home, memory=memory)
    assert after.unusable[0] == (primary, "revoked")


def test_another_file_is_looked_at(file: Path, memory: KeyMemory, keys: KeyMaker) -> None:
    before = pin(file, memory)
    other = keys.make("another")
    file.write_bytes(keys.export(other))
    assert pin(file, memory).fingerprints == {other} != before.fingerprints
    assert len(list(memory.folder.iterdir())) == 2


def test_a_secret_key_is_refused_each_time_and_never_kept(
    file: Path, memory: KeyMemory, keys: KeyMaker
) -> None:
    key = keys.make("secret")
    file.write_bytes(keys.gpg("--export-secret-keys", key))
    for _ in range(2):
        with pytest.raises(UsageError, match="secret"):
            pin(file, memory)
    assert not memory.folder.exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"", b"{", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000,
        b'{"version": 2, "keys": [], "keyring": ""}',
    ],
)  # fmt: skip
def test_a_damaged_record_is_made_anew(file: Path, memory: KeyMemory, damage: bytes) -> None:
    good = pin(file, memory)
    path = record(memory)
    whole = path.read_bytes()
    path.write_bytes(damage)
    assert pin(file, memory) == good
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fingerprint", 1), ("secret", "no"), ("kind", "22"), ("bits", None), ("kind", True),
        ("self_digests", [8]), ("self_digests", 8), ("capabilities", None), ("more", 1),
    ],
)  # fmt: skip
def test_a_record_with_a_wrong_type_is_made_anew(
    file: Path, memory: KeyMemory, field: str, value: object
) -> None:
    good = pin(file, memory)
    path = record(memory)
    content = json.loads(path.read_bytes())
    content["keys"][0][field] = value
    path.write_text(json.dumps(content))
    assert memory.recall(file.read_bytes()) is None
    assert pin(file, memory) == good


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_record_that_others_may_write_does_not_count(file: Path, memory: KeyMemory, mode: int) -> None:
    pin(file, memory)
    record(memory).chmod(mode)
    assert memory.recall(file.read_bytes()) is None


def test_a_link_or_a_pipe_does_not_count(file: Path, memory: KeyMemory, tmp_path: Path) -> None:
    good = pin(file, memory)
    path = record(memory)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert memory.recall(file.read_bytes()) is None
    path.unlink()
    os.mkfifo(path)
    assert memory.recall(file.read_bytes()) is None
    assert pin(file, memory) == good


@pytest.mark.parametrize("days", [-31, 31])
def test_after_a_month_gpg_is_asked_again(file: Path, memory: KeyMemory, days: int) -> None:
    pin(file, memory)
    moment = time.time() + days * 86400
    os.utime(record(memory), (moment, moment))
    assert memory.recall(file.read_bytes()) is None


def test_a_folder_that_cannot_be_written_is_no_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    memory = KeyMemory(tmp_path / "taken" / "keys")
    assert pin(file, memory) == trusted_keys_from_file(file, where="test")
