"""Pins and signatures with the real gpg; the attack rows are in ``tests/attack``."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from imgindex import gpg
from imgindex.environment import withhold
from imgindex.errors import SigningError, ToolError, UsageError
from imgindex.gpg import GpgVerifier, trusted_keys_from_file, trusted_keys_from_keyring
from imgindex.signer import GpgSigner
from tests.fakes.keys import KeyMaker

TEXT = "[debian-12]\nfile=a.xz\nnotes=one\n \n two\n\n"
SIGNED_TEXT = "[debian-12]\nfile=a.xz\nnotes=one\n\n two\n\n"


@pytest.fixture(scope="module")
def key(keys: KeyMaker) -> str:
    return keys.make("Unit Test <unit@example.org>")


@pytest.fixture(scope="module")
def signer(keys: KeyMaker) -> GpgSigner:
    return GpgSigner(keys.home, ask=False)


@pytest.fixture(autouse=True)
def nothing_read() -> None:
    gpg._ask_gpg.cache_clear()


@pytest.fixture
def other_home() -> Iterator[KeyMaker]:
    with KeyMaker() as maker:
        yield maker


def test_sign_and_verify(keys: KeyMaker, key: str, signer: GpgSigner) -> None:
    signed = signer.clearsign(TEXT, key)
    assert b"Hash: SHA512\n" in signed
    verified = GpgVerifier().verify(signed, keys.pin(key), where="test")
    assert verified.text == SIGNED_TEXT
    assert (verified.fingerprint, verified.primary_fingerprint, verified.expires_at) == (key, key, None)


def test_signature_with_an_end(keys: KeyMaker, key: str) -> None:
    signed = GpgSigner(keys.home, ask=False, valid_for=timedelta(days=3)).clearsign(TEXT, key)
    verified = GpgVerifier().verify(signed, keys.pin(key), where="test")
    assert verified.expires_at == verified.signed_at + timedelta(days=3)


def test_signer_prefers_the_signing_subkey(other_home: KeyMaker) -> None:
    primary = other_home.make()
    sub = other_home.add_subkey(primary)
    signer = GpgSigner(other_home.home, ask=False)
    assert signer.check_key(primary) == sub
    assert signer.check_key(primary + "!") == primary
    verified = GpgVerifier().verify(signer.clearsign(TEXT, primary), other_home.pin(primary), where="test")
    assert (verified.fingerprint, verified.primary_fingerprint) == (sub, primary)
    # The exported key has the primary key too, whichever key was named.
    (other_home.home / "out.asc").write_bytes(signer.export_public_key(sub))
    assert trusted_keys_from_file(other_home.home / "out.asc", where="test").fingerprints == {primary, sub}


def test_signer_ignores_gpg_conf(other_home: KeyMaker) -> None:
    wanted, other = other_home.make("a <a@example.org>"), other_home.make("b <b@example.org>")
    (other_home.home / "gpg.conf").write_text(f"local-user {other}\ndigest-algo SHA1\n")
    signed = GpgSigner(other_home.home, ask=False).clearsign(TEXT, wanted)
    assert GpgVerifier().verify(signed, other_home.pin(wanted), where="test").fingerprint == wanted


@pytest.mark.parametrize("name", ["unit@example.org", "Unit Test", "long key id", "spaced"])
def test_check_key_by_other_names(key: str, signer: GpgSigner, name: str) -> None:
    named = {"long key id": key[-16:], "spaced": key.lower()}.get(name, name)
    assert signer.check_key(named) == key


@pytest.mark.row("R3")
@pytest.mark.parametrize("name", ["", "missing@example.org", "0" * 40, "--list-keys", "a\nb"])
def test_missing_key(signer: GpgSigner, name: str) -> None:
    with pytest.raises(SigningError) as caught:
        signer.check_key(name)
    assert caught.value.hint


@pytest.mark.row("R3")
def test_ambiguous_expired_and_revoked_keys(other_home: KeyMaker) -> None:
    user = "Same <same@example.org>"
    old = other_home.make(user, expire="1y", at="20200101T000000")
    signer = GpgSigner(other_home.home, ask=False)
    with pytest.raises(SigningError, match="expired"):
        signer.clearsign(TEXT, user)
    revoked = other_home.make(user)
    other_home.revoke(revoked)
    with pytest.raises(SigningError, match=f"{old} has expired; key {revoked} is revoked"):
        signer.check_key(user)
    first = other_home.make(user)
    assert signer.check_key(user) == first
    second = other_home.make(user)
    assert signer.check_key(user) == first, "it is not asked for again"
    with pytest.raises(SigningError, match="several") as caught:
        GpgSigner(other_home.home, ask=False).check_key(user)
    assert first in caught.value.message
    assert second in caught.value.message


@pytest.mark.row("R3")
def test_public_key_alone_cannot_sign(keys: KeyMaker, key: str, other_home: KeyMaker) -> None:
    other_home.gpg("--import", data=keys.export(key))
    with pytest.raises(SigningError, match="no secret key"):
        GpgSigner(other_home.home, ask=False).check_key(key)


@pytest.mark.row("R4")
def test_locked_key_is_an_error_and_no_wait(other_home: KeyMaker) -> None:
    command = ["gpg", "--homedir", str(other_home.home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
    command += ["--passphrase", "secret", "--quick-generate-key", "locked", "ed25519", "sign", "0"]
    subprocess.run(command, check=True, capture_output=True)
    # Another agent, which does not know the passphrase and notes when it asks for it.
    subprocess.run(["gpgconf", "--homedir", str(other_home.home), "--kill", "gpg-agent"], check=True)
    asked, pinentry = other_home.home / "asked", other_home.home / "pinentry"
    pinentry.write_text(f"#!/bin/sh\n: >{asked}\nexit 1\n")
    pinentry.chmod(0o700)
    (other_home.home / "gpg-agent.conf").write_text(f"pinentry-program {pinentry}\n")

    with pytest.raises(SigningError, match="cannot sign") as caught:
        GpgSigner(other_home.home, ask=False).clearsign(TEXT, "locked")
    assert "locked" in str(caught.value.hint)
    assert not asked.exists()
    with pytest.raises(SigningError, match="cannot sign"):
        GpgSigner(other_home.home, ask=True).clearsign(TEXT, "locked")
    assert asked.exists()


@pytest.mark.row("S22")
@pytest.mark.parametrize(
    "text", ["x" * 19_901 + "\n", "a\r\nb\n", "a\x00b\n", "a\x1b\n", "-----BEGIN PGP SIGNATURE-----\n"]
)
def test_signer_refuses_what_clients_refuse(key: str, signer: GpgSigner, text: str) -> None:
    with pytest.raises(SigningError, match="cannot be signed"):
        signer.clearsign(text, key)


@pytest.mark.row("R10")
@pytest.mark.parametrize(
    "text", ["- x\n--\n", "From me\n", "no newline", "\n", "", "\u00e4\n\n\n", "x" * 8190 + "\n"]
)
def test_odd_texts_are_signed(keys: KeyMaker, key: str, signer: GpgSigner, text: str) -> None:
    verified = GpgVerifier().verify(signer.clearsign(text, key), keys.pin(key), where="test")
    assert verified.text.rstrip("\n") == text.rstrip("\n")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.row("S30")
@pytest.mark.parametrize("armor", [False, True])
def test_key_file(keys: KeyMaker, key: str, tmp_path: Path, armor: bool) -> None:
    pin = trusted_keys_from_file(write(tmp_path / "k", keys.export(key, armor=armor)), where="test")
    assert pin.fingerprints == {key}
    assert pin.keyring[0] >= 0x80
    assert (pin.unusable, pin.sha1_self_signatures) == ((), False)
    assert GpgVerifier().verify(keys.sign(TEXT, key), pin, where="test").text == SIGNED_TEXT


@pytest.mark.row("S30")
def test_several_keys_and_armor_blocks(other_home: KeyMaker, tmp_path: Path) -> None:
    first, second = other_home.make("a"), other_home.make("b", "rsa2048")
    sub, crypt = other_home.add_subkey(first), other_home.add_subkey(first, "cv25519", usage="encr")
    expected = {first, second, sub}
    both = other_home.export(first, armor=True) + other_home.export(second, armor=True)
    assert crypt not in expected
    assert (
        trusted_keys_from_file(write(tmp_path / "a", other_home.export()), where="test").fingerprints
        == expected
    )
    pin = trusted_keys_from_file(write(tmp_path / "b", both), where="test")
    assert pin.fingerprints == expected
    for signing in (first, second, sub):
        assert GpgVerifier().verify(other_home.sign(TEXT, signing), pin, where="test").fingerprint == signing


@pytest.mark.row("S30")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"not a key\n", "no usable"),
        (b"\x99\x01\x0d\x04junk", "no usable"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "no usable"),
        (b"x" * 1_000_001, "too large"),
    ],
)
def test_no_key_in_the_file(tmp_path: Path, content: bytes, problem: str) -> None:
    with pytest.raises(UsageError, match=problem) as caught:
        trusted_keys_from_file(write(tmp_path / "k", content), where="my.conf")
    assert caught.value.message.startswith("my.conf: ")
    assert caught.value.hint


@pytest.mark.row("S30")
@pytest.mark.parametrize("armor", [False, True])
def test_secret_key(keys: KeyMaker, key: str, tmp_path: Path, armor: bool) -> None:
    secret = keys.gpg(*(["--armor"] if armor else []), "--export-secret-keys", key)
    with pytest.raises(UsageError, match="secret key"):
        trusted_keys_from_file(write(tmp_path / "k", secret), where="test")
    with pytest.raises(UsageError, match="secret key"):
        trusted_keys_from_file(write(tmp_path / "k", keys.export(key, armor=armor) + secret), where="test")


@pytest.mark.row("S30")
def test_signed_file_is_no_key(keys: KeyMaker, key: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no usable"):
        trusted_keys_from_file(write(tmp_path / "k", keys.sign(TEXT, key)), where="test")


@pytest.mark.row("S30")
def test_missing_unreadable_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        trusted_keys_from_file(tmp_path / "missing", where="test")
    with pytest.raises(UsageError, match="Is a directory"):
        trusted_keys_from_file(tmp_path, where="test")
    with pytest.raises(UsageError, match="not an ordinary file"):
        trusted_keys_from_file(Path("/dev/null"), where="test")


@pytest.mark.row("S30")
def test_world_writable(keys: KeyMaker, key: str, tmp_path: Path) -> None:
    path = write(tmp_path / "k", keys.export(key))
    path.chmod(0o646)
    with pytest.raises(UsageError, match="every user may change"):
        trusted_keys_from_file(path, where="test")


def test_expired_key_can_be_pinned(other_home: KeyMaker) -> None:
    # Distributions ship key files whose keys have expired; only their use is an error.
    old = other_home.make(expire="1y", at="20200101T000000")
    assert other_home.pin(old).fingerprints == {old}


def test_pin_from_user_keyring(keys: KeyMaker, key: str) -> None:
    pin = trusted_keys_from_keyring(key.lower(), gpg_home=keys.home)
    assert pin.fingerprints == {key}
    assert GpgVerifier().verify(keys.sign(TEXT, key), pin, where="test").fingerprint == key


def test_pin_from_default_user_keyring(keys: KeyMaker, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNUPGHOME", str(keys.home))
    assert trusted_keys_from_keyring(key).fingerprints == {key}


def test_key_not_in_user_keyring(other_home: KeyMaker, key: str) -> None:
    with pytest.raises(UsageError, match="not in your keyring") as caught:
        trusted_keys_from_keyring(key, gpg_home=other_home.home)
    assert "gpg --import" in str(caught.value.hint)
    with pytest.raises(UsageError, match="full key fingerprint"):
        trusted_keys_from_keyring("unit@example.org", gpg_home=other_home.home)


def test_missing_programs(keys: KeyMaker, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signed, pin = keys.sign(TEXT, key), keys.pin(key)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="gpgv is not installed") as caught:
        GpgVerifier().verify(signed, pin, where="test")
    assert "pybuilder doctor" in str(caught.value.hint)
    with pytest.raises(ToolError, match="gpg is not installed"):
        trusted_keys_from_keyring(key)
    with pytest.raises(ToolError, match="gpg is not installed"):
        GpgSigner(ask=False)


def test_missing_signer_home(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="gpg does not work"):
        GpgSigner(tmp_path / "missing", ask=False)


def test_nothing_is_left_behind(
    keys: KeyMaker, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    modes: list[int] = []
    original = subprocess.run

    def spy(command: list[str], **options: object) -> object:
        (folder,) = tmp_path.iterdir()
        modes.append(stat.S_IMODE(folder.stat().st_mode))
        return original(command, **options)  # type: ignore[call-overload]

    signed, file = keys.sign(TEXT, key), write(keys.home / "nothing.gpg", keys.export(key))
    monkeypatch.setattr(subprocess, "run", spy)
    GpgVerifier().verify(signed, trusted_keys_from_file(file, where="test"), where="test")
    assert modes == [0o700] * 3
    assert list(tmp_path.iterdir()) == []
    if sys.platform == "linux":
        agents = [
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)
        ]
        assert not [agent for agent in agents if b"gpg-agent" in agent and bytes(tmp_path) in agent]


def test_neither_gpg_nor_gpgv_gets_a_secret_of_the_environment(
    keys: KeyMaker, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, pin = tmp_path / "seen", keys.pin(key)
    for name in ("gpg", "gpgv"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nenv >>{seen}\nexec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYBUILDER_TEST_TOKEN", "canary-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-2")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:canary-3@proxy.example")
    monkeypatch.setenv("http_proxy", "http://proxy.example")
    withhold("PYBUILDER_TEST_TOKEN")
    signed = GpgSigner(keys.home, ask=False).clearsign(TEXT, key)
    GpgVerifier().verify(signed, pin, where="test")
    trusted_keys_from_keyring(key, gpg_home=keys.home)
    environments = seen.read_text()
    assert environments.count("http_proxy=http://proxy.example") >= 4
    assert "canary" not in environments
