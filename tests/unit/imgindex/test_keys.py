"""Reading gpg's key listings, and choosing the key that signs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from imgindex import gpg
from imgindex.errors import UsageError
from imgindex.gpg import trusted_keys_from_file, trusted_keys_from_keyring
from imgindex.keys import KeyMemory, choose_signing_key, make_trusted_keys, read_key_list
from imgindex.trust import TrustedKeys
from tests.fakes.keys import KeyMaker

PRIMARY = "A" * 24 + "0123456789ABCDEF"
SUB = "B" * 24 + "1111111111111111"
CRYPT = "C" * 24 + "2222222222222222"


def record(
    kind: str, fingerprint: str, *, validity: str = "-", bits: int = 255, algorithm: int = 22, caps: str
) -> str:
    return (
        f"{kind}:{validity}:{bits}:{algorithm}:{fingerprint[-16:]}:1:::-:::{caps}:::::ed25519:::0:\n"
        f"fpr:::::::::{fingerprint}:\n"
    )


def self_signature(digest: int, kind: str = "13x", key: str = PRIMARY) -> str:
    return f"sig:?::22:{key[-16:]}:1::::x:{kind}:::::{digest}:\n"


def listing(*, digest: int = 10, sub_digest: int = 10, **sub: Any) -> str:
    return (
        record("pub", PRIMARY, caps="cSC")
        + "uid:-::::1::X::Alice <a@example.org>::::::::::0:\n"
        + self_signature(digest)
        + record("sub", SUB, **{"caps": "s", **sub})
        + self_signature(sub_digest, "18x")
        + record("sub", CRYPT, caps="e", bits=512, algorithm=16)
    )


def test_keys_of_a_listing() -> None:
    primary, sub, crypt = read_key_list(listing())
    assert (primary.fingerprint, primary.is_primary, primary.can_sign) == (PRIMARY, True, False)
    assert (sub.fingerprint, sub.primary_fingerprint, sub.can_sign) == (SUB, PRIMARY, True)
    assert (primary.self_digests, sub.self_digests, crypt.can_sign) == ({"10"}, {"10"}, False)
    assert not primary.secret
    assert read_key_list(listing().replace("pub:", "sec:"))[0].secret


@pytest.mark.parametrize(
    "text", ["", "\n", "tru::1:\n", "fpr:::::::::X:\n", "pub:-\n", "sig:\n", "pub\nfpr\nsig"]
)
def test_nothing_in_it(text: str) -> None:
    assert read_key_list(text) == []


@pytest.mark.row("S14")
@pytest.mark.parametrize(
    ("sub", "reason"),
    [
        ({"validity": "r"}, "revoked"),
        ({"algorithm": 1, "bits": 1024}, "RSA with 1024 bits"),
        ({"algorithm": 1, "bits": 2047}, "RSA with 2047 bits"),
        ({"algorithm": 19, "bits": 224}, "ECDSA with 224 bits"),
        ({"algorithm": 17, "bits": 3072}, "kind"),
    ],
)
def test_keys_that_are_never_accepted(sub: dict[str, Any], reason: str) -> None:
    pin = make_trusted_keys(frozenset({PRIMARY}), b"", read_key_list(listing(**sub)))
    ((fingerprint, why),) = pin.unusable
    assert fingerprint == SUB
    assert reason in why


@pytest.mark.row("S14")
@pytest.mark.parametrize(
    "sub",
    [{"algorithm": 1, "bits": 2048}, {"algorithm": 19, "bits": 256}, {"algorithm": 27}, {"validity": "e"}],
)
def test_keys_strong_enough(sub: dict[str, Any]) -> None:
    assert make_trusted_keys(frozenset({PRIMARY}), b"", read_key_list(listing(**sub))).unusable == ()


def test_sha1_self_signatures_are_noticed() -> None:
    def noticed(text: str) -> bool:
        return make_trusted_keys(frozenset(), b"", read_key_list(text)).sha1_self_signatures

    assert not noticed(listing())
    assert noticed(listing(digest=2))
    assert noticed(listing(sub_digest=2))
    foreign = self_signature(10, key=CRYPT)
    assert noticed(listing(digest=2).replace("sub:", foreign + "sub:", 1))
    assert not noticed(listing(digest=2).replace("sub:", self_signature(8) + "sub:", 1))


def secret(
    trust: str = "u", cap: str = "scSC", token: str = "", subkeys: tuple[tuple[str, str, str, str], ...] = ()
) -> dict[str, Any]:
    """A key as python-gnupg lists it; subkeys are (fingerprint, trust, capabilities, token)."""
    return {
        "fingerprint": PRIMARY,
        "trust": trust,
        "cap": cap,
        "token": token,
        "date": "100",
        "subkeys": [[fingerprint[-16:], None, fingerprint, None] for fingerprint, *_ in subkeys],
        "subkey_info": {
            fingerprint[-16:]: {"trust": state, "cap": caps, "token": mark, "date": str(10 + number)}
            for number, (fingerprint, state, caps, mark) in enumerate(subkeys)
        },
    }


def test_the_newest_signing_subkey_is_chosen() -> None:
    two = ((SUB, "u", "s", ""), (CRYPT, "u", "s", ""))
    assert choose_signing_key(secret(), "", exact=False) == (PRIMARY, "")
    assert choose_signing_key(secret(subkeys=two), "", exact=False) == (CRYPT, "")
    assert choose_signing_key(secret(subkeys=two), SUB, exact=False) == (SUB, "")
    assert choose_signing_key(secret(subkeys=two), PRIMARY, exact=False) == (CRYPT, "")
    assert choose_signing_key(secret(subkeys=two), PRIMARY, exact=True) == (PRIMARY, "")
    assert choose_signing_key(secret(subkeys=((SUB, "u", "e", ""),)), "", exact=False) == (PRIMARY, "")


@pytest.mark.row("R3")
@pytest.mark.parametrize(
    ("key", "wanted", "exact", "problem"),
    [
        (secret("e"), "", False, "expired"),
        (secret("r"), "", False, "revoked"),
        (secret(cap="scSCD"), "", False, "disabled"),
        (secret(cap="cC"), "", False, "not for signing"),
        (secret(token="#"), "", False, "elsewhere"),
        (secret(subkeys=((SUB, "e", "s", ""),)), SUB, False, "expired"),
        (secret(subkeys=((SUB, "r", "s", ""),)), SUB, False, "revoked"),
        (secret(subkeys=((SUB, "u", "s", "#"),)), SUB, False, "elsewhere"),
        (secret(subkeys=((SUB, "u", "e", ""),)), SUB, False, "not for signing"),
        (secret(cap="cSC", subkeys=((SUB, "u", "s", ""),)), PRIMARY, True, "not for signing"),
        (secret(cap="cSC", subkeys=((SUB, "e", "s", ""),)), "", False, "expired"),
    ],
)
def test_keys_that_cannot_sign(key: dict[str, Any], wanted: str, exact: bool, problem: str) -> None:
    chosen, why = choose_signing_key(key, wanted, exact=exact)
    assert chosen is None
    assert problem in why


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


def the_record(memory: KeyMemory) -> Path:
    (found,) = memory.folder.iterdir()
    return found


def test_the_second_time_gpg_is_not_asked(
    file: Path, memory: KeyMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = pin(file, memory)
    assert first == trusted_keys_from_file(file, where="test")
    assert memory.folder.stat().st_mode & 0o777 == 0o700
    assert the_record(memory).stat().st_mode & 0o777 == 0o600
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
    path = the_record(memory)
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
    path = the_record(memory)
    content = json.loads(path.read_bytes())
    content["keys"][0][field] = value
    path.write_text(json.dumps(content))
    assert memory.recall(file.read_bytes()) is None
    assert pin(file, memory) == good


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_record_that_others_may_write_does_not_count(file: Path, memory: KeyMemory, mode: int) -> None:
    pin(file, memory)
    the_record(memory).chmod(mode)
    assert memory.recall(file.read_bytes()) is None


def test_a_link_or_a_pipe_does_not_count(file: Path, memory: KeyMemory, tmp_path: Path) -> None:
    good = pin(file, memory)
    path = the_record(memory)
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
    os.utime(the_record(memory), (moment, moment))
    assert memory.recall(file.read_bytes()) is None


def test_a_folder_that_cannot_be_written_is_no_error(file: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    memory = KeyMemory(tmp_path / "taken" / "keys")
    assert pin(file, memory) == trusted_keys_from_file(file, where="test")
