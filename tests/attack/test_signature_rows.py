"""Rows S1 to S39: may this one file be believed? ``test_accept_rule`` has more files, one by one.

Every file is made here with fresh keys by the real gpg, changed as an attacker
would change it, and judged by the real gpgv through the product's own verifier.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from imgindex import gpg
from imgindex.clearsign import unverified_text
from imgindex.errors import (
    BadSignatureError,
    NotSignedError,
    PybuilderError,
    ToolError,
    TrustError,
    UsageError,
    WrongKeyError,
)
from imgindex.gpg import GpgVerifier, trusted_keys_from_file, trusted_keys_from_keyring
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys, VerifiedText, full_fingerprint
from tests.fakes.attacks import BEGIN_SIGNATURE, EVIL, TEXT, World
from tests.fakes.keys import KeyMaker, signature_packets, with_packets

SIGNED_TEXT = TEXT.replace("\n \n", "\n\n")


@pytest.fixture(scope="session")
def world(keys: KeyMaker) -> World:
    return World(keys)


def accept(data: bytes, pin: TrustedKeys, *, extra: bool = False) -> VerifiedText:
    verified = GpgVerifier().verify(data, replace(pin, extra_signatures=extra), where="test")
    assert verified.text == SIGNED_TEXT
    assert [entry.os_version for entry in parse_index(verified, where="test").entries] == [
        "debian-12",
        "debian-13",
    ]
    return verified


def refuse(
    data: bytes,
    pin: TrustedKeys,
    error: type[PybuilderError] = TrustError,
    words: str = "",
    *,
    extra: bool = False,
) -> None:
    with pytest.raises(error) as caught:
        GpgVerifier().verify(
            data, replace(pin, extra_signatures=extra), where="https://example.org/index.asc"
        )
    assert words in caught.value.message
    assert "https://example.org/index.asc" in caught.value.message


@pytest.mark.row("S1")
def test_good(world: World) -> None:
    verified = accept(world.good, world.pin)
    assert (verified.fingerprint, verified.primary_fingerprint) == (world.key, world.key)
    for digest in ("SHA256", "SHA384", "SHA512"):
        accept(world.keys.sign(TEXT, world.key, digest=digest), world.pin)


@pytest.mark.row("S2")
def test_one_signed_byte_changed(world: World) -> None:
    refuse(world.good.replace(b"size=40960", b"size=41960"), world.pin, BadSignatureError, "altered")
    start = world.good.index(b"\n\n") + 2
    for place in range(start, world.good.index(BEGIN_SIGNATURE), 7):
        changed = bytearray(world.good)
        changed[place] ^= 1
        if bytes(changed).replace(b"\n ", b"\n") != world.good.replace(b"\n ", b"\n"):
            refuse(bytes(changed), world.pin, BadSignatureError)


@pytest.mark.row("S2")
def test_lines_moved_or_taken(world: World) -> None:
    lines = world.good.split(b"\n")
    end = lines.index(BEGIN_SIGNATURE)
    for number in range(3, end - 1):
        refuse(b"\n".join(lines[:number] + lines[number + 1 :]), world.pin, BadSignatureError)
        refuse(b"\n".join([*lines[:number], b"x=1", *lines[number:]]), world.pin, BadSignatureError)


@pytest.mark.row("S3")
def test_unlisted_key(world: World) -> None:
    refuse(world.keys.sign(TEXT, world.evil_key), world.pin, WrongKeyError, world.evil_key)


@pytest.mark.row("S4", "V3")
def test_key_in_the_users_own_keyring(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """V3: gpgv sees the keys of this source alone."""
    monkeypatch.setenv("GNUPGHOME", str(world.keys.home))
    monkeypatch.setenv("HOME", str(world.keys.home))
    refuse(world.keys.sign(TEXT, world.evil_key), world.pin, WrongKeyError)
    accept(world.good, world.pin)


@pytest.mark.row("S5")
def test_key_of_another_source(world: World) -> None:
    other = world.keys.pin(world.rsa_key)
    signed = world.keys.sign(TEXT, world.rsa_key)
    accept(signed, other)
    refuse(signed, world.pin, WrongKeyError)
    refuse(world.good, other, WrongKeyError)
    # A key that is in the keyring for another reason is not pinned by that.
    both = TrustedKeys(frozenset({world.key}), world.keys.export(world.key, world.rsa_key))
    refuse(signed, both, WrongKeyError)


@pytest.mark.row("S6")
def test_revoked_key(world: World) -> None:
    key = world.keys.make("revoked")
    signed = world.keys.sign(TEXT, key)
    before = world.keys.pin(key)
    accept(signed, before)
    world.keys.revoke(key)
    pin = world.keys.pin(key)
    assert pin.unusable == ((key, "revoked"),)
    refuse(signed, pin, BadSignatureError, "revoked")
    # gpgv alone says so too, and the pin alone as well.
    refuse(signed, TrustedKeys(pin.fingerprints, pin.keyring), BadSignatureError, "revoked")
    refuse(
        signed,
        TrustedKeys(pin.fingerprints, before.keyring, unusable=pin.unusable),
        BadSignatureError,
        "revoked",
    )


@pytest.mark.row("S7")
def test_expired_key(world: World) -> None:
    key = world.keys.make("expired", expire="1y", at="20200101T000000")
    signed = world.keys.sign(TEXT, key, at="20200601T000000")
    refuse(signed, world.keys.pin(key), BadSignatureError, "expired")


@pytest.mark.row("S8")
def test_expired_signature(world: World) -> None:
    key = world.keys.make("old but valid", at="20200101T000000")
    signed = world.keys.sign(TEXT, key, at="20200601T000000", options=("--default-sig-expire", "1d"))
    refuse(
        signed,
        world.keys.pin(key),
        BadSignatureError,
        "too old, signed at 2020-06-01 00:00:",  # gpg's clock runs
    )
    accept(world.keys.sign(TEXT, key, options=("--default-sig-expire", "1d")), world.keys.pin(key))


@pytest.mark.row("S9", "S10")
def test_signing_subkeys(world: World) -> None:
    primary = world.keys.make("with subkeys")
    sub, sibling = world.keys.add_subkey(primary), world.keys.add_subkey(primary)
    by_sub, by_sibling = world.keys.sign(TEXT, sub), world.keys.sign(TEXT, sibling)

    primary_pinned = trusted_keys_from_keyring(primary, gpg_home=world.keys.home)
    for signed, fingerprint in ((by_sub, sub), (by_sibling, sibling)):
        verified = accept(signed, primary_pinned)
        assert (verified.fingerprint, verified.primary_fingerprint) == (fingerprint, primary)

    sub_pinned = trusted_keys_from_keyring(sub, gpg_home=world.keys.home)
    accept(by_sub, sub_pinned)
    refuse(by_sibling, sub_pinned, WrongKeyError)
    refuse(world.keys.sign(TEXT, primary), sub_pinned, WrongKeyError)


@pytest.mark.row("S11")
def test_expired_subkey(world: World) -> None:
    primary = world.keys.make("with expired subkey", at="20200101T000000")
    sub = world.keys.add_subkey(primary, expire="1m", at="20200102T000000")
    signed = world.keys.sign(TEXT, sub, at="20200103T000000")
    refuse(signed, world.keys.pin(primary), BadSignatureError, "expired")
    accept(world.keys.sign(TEXT, primary), world.keys.pin(primary))


@pytest.mark.row("S11")
def test_revoked_subkey(world: World) -> None:
    primary = world.keys.make("with revoked subkey")
    sub = world.keys.add_subkey(primary)
    signed = world.keys.sign(TEXT, sub)
    accept(signed, world.keys.pin(primary))
    world.keys.revoke_subkey(primary, 1)
    pin = world.keys.pin(primary)
    refuse(signed, pin, BadSignatureError, "revoked")
    refuse(signed, TrustedKeys(pin.fingerprints, pin.keyring), BadSignatureError, "revoked")
    accept(world.keys.sign(TEXT, primary), pin)


@pytest.mark.row("S12")
def test_sha1(world: World) -> None:
    pin = world.keys.pin(world.rsa_key)
    signed = world.keys.sign(TEXT, world.rsa_key, digest="SHA1")
    refuse(signed, pin, BadSignatureError, "weak digest")
    refuse(signed.replace(b"Hash: SHA1", b"Hash: SHA256"), pin, BadSignatureError, "weak digest")
    refuse(signed.replace(b"Hash: SHA1", b"Hash: SHA256,SHA1"), pin, BadSignatureError, "weak digest")


@pytest.mark.row("S12")
def test_key_with_sha1_self_signature_but_strong_signature(world: World) -> None:
    """The key of libguestfs.org is like this; gpgv calls it bad when set to reject SHA-1."""
    key = world.keys.make("of 2011", "rsa2048", options=("--cert-digest-algo", "SHA1"))
    pin = world.keys.pin(key)
    assert pin.sha1_self_signatures
    accept(world.keys.sign(TEXT, key), pin)
    signed = world.keys.sign(TEXT, key, digest="SHA1")
    refuse(signed, pin, BadSignatureError, "weak digest")
    strict = TrustedKeys(pin.fingerprints, pin.keyring)
    refuse(world.keys.sign(TEXT, key), strict, BadSignatureError, "self-signature")


@pytest.mark.row("S13")
def test_md5(world: World) -> None:
    pin = world.keys.pin(world.rsa_key)
    signed = world.keys.sign(TEXT, world.rsa_key, digest="MD5", options=("--allow-weak-digest-algos",))
    refuse(signed, pin, BadSignatureError)
    refuse(signed.replace(b"\n\n", b"\nHash: SHA256\n\n", 1), pin, BadSignatureError)
    refuse(signed.replace(b"Hash: MD5\n", b"Hash: SHA256\n"), pin, BadSignatureError)


@pytest.mark.row("S14")
@pytest.mark.parametrize("kind", ["rsa1024", "dsa1024", "dsa2048"])
def test_weak_keys(world: World, kind: str) -> None:
    key = world.keys.make(f"weak {kind}", kind)
    signed = world.keys.sign(TEXT, key)
    refuse(signed, world.keys.pin(key), BadSignatureError, "weak")
    refuse(signed, trusted_keys_from_keyring(key, gpg_home=world.keys.home), BadSignatureError, "weak")


@pytest.mark.row("S14")
@pytest.mark.parametrize(
    "kind", ["ed25519", "nistp256", "nistp384", "nistp521", "brainpoolP256r1", "rsa2048"]
)
def test_keys_strong_enough(world: World, kind: str) -> None:
    key = world.keys.make(f"strong {kind}", kind)
    accept(world.keys.sign(TEXT, key), world.keys.pin(key))


@pytest.mark.row("S15")
def test_good_and_unknown_signature(world: World) -> None:
    for order in ((world.key, world.evil_key), (world.evil_key, world.key)):
        signed = world.keys.sign(TEXT, *order)
        refuse(signed, world.pin, WrongKeyError, "also signed")
        assert accept(signed, world.pin, extra=True).fingerprint == world.key
    refuse(world.keys.sign(TEXT, world.evil_key, world.rsa_key), world.pin, WrongKeyError, extra=True)


@pytest.mark.row("S16")
def test_old_and_new_pinned_keys(world: World) -> None:
    pin = world.keys.pin(world.key, world.rsa_key)
    for signers in ((world.key,), (world.rsa_key,), (world.key, world.rsa_key)):
        accept(world.keys.sign(TEXT, *signers), pin)


@pytest.mark.row("S17", "V5")
@pytest.mark.parametrize("extra", [False, True])
def test_good_and_bad_signature(world: World, extra: bool) -> None:
    """V5: any bad signature refuses."""
    good, bad = signature_packets(world.good), signature_packets(world.keys.sign("other\n", world.key))
    for packets in (good + bad, bad + good, bad, good + bad + good):
        refuse(with_packets(world.good, packets), world.pin, BadSignatureError, "altered", extra=extra)
    # The same as blocks of their own, before and after.
    block = world.keys.sign("other\n", world.key).split(b"other\n")[1]
    refuse(world.good + block, world.pin, BadSignatureError, extra=extra)
    refuse(
        world.good.replace(BEGIN_SIGNATURE, block + BEGIN_SIGNATURE),
        world.pin,
        BadSignatureError,
        extra=extra,
    )


@pytest.mark.row("S21")
def test_long_line_tails(world: World) -> None:
    """gpg signs no byte past column 19,995 of a line (F3)."""
    lines = world.good.split(b"\n")
    ends = [
        b"\r",
        b"\x0b",
        b"\x0c",
        b"\x1c",
        b"\x1d",
        b"\x1e",
        b"\x85",
        "\u0085".encode(),
        "\u2028".encode(),
        b"",
    ]
    tried = 0
    for number in range(len(lines)):
        for end in ends:
            tail = b" " * 20_100 + end + b"[evil]" + end + b"file=evil.xz" + end
            refuse(b"\n".join([*lines[:number], lines[number] + tail, *lines[number + 1 :]]), world.pin)
            tried += 1
    assert tried >= 250


@pytest.mark.row("S21")
def test_short_line_tails(world: World) -> None:
    lines = world.good.split(b"\n")
    for number in range(len(lines) - 1):
        for end in (b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x00", b"\x7f"):
            refuse(b"\n".join([*lines[:number], lines[number] + end, *lines[number + 1 :]]), world.pin)


@pytest.mark.row("S22")
def test_signed_line_longer_than_gpg_signs(world: World) -> None:
    signed = world.keys.sign(f"[a]\nnotes={'A' * 20_100}\n", world.key)
    for data in (signed, signed.replace(b"AAA\n", b"AXA\n")):
        refuse(data, world.pin, BadSignatureError, "longer")


@pytest.mark.row("S24")
def test_blanks_in_the_frame(world: World) -> None:
    good = world.good
    for blank in (b" ", b"\t", b"  \t"):
        refuse(good.replace(b"\n\n", b"\n" + blank + b"\n", 1), world.pin, BadSignatureError)
        for line in (b"-----BEGIN PGP SIGNED MESSAGE-----", BEGIN_SIGNATURE, b"-----END PGP SIGNATURE-----"):
            refuse(good.replace(line, line + blank), world.pin)
            refuse(good.replace(line, blank + line), world.pin)
    head, armor = good.split(BEGIN_SIGNATURE)
    refuse(head + BEGIN_SIGNATURE + armor.replace(b"\n\n", b"\n \n", 1), world.pin, BadSignatureError)
    refuse(good.replace(b"\n", b"\r\n"), world.pin, BadSignatureError, "CR LF")


@pytest.mark.row("S24")
def test_blanks_at_the_ends_of_signed_lines_change_nothing(world: World) -> None:
    lines = world.good.split(b"\n")
    for number in range(3, lines.index(BEGIN_SIGNATURE)):
        for blank in (b" ", b"\t \t"):
            accept(b"\n".join([*lines[:number], lines[number] + blank, *lines[number + 1 :]]), world.pin)


@pytest.mark.row("S25")
def test_dashes(world: World) -> None:
    lines = world.good.split(b"\n")
    end = lines.index(BEGIN_SIGNATURE)
    accept(b"\n".join([*lines[:3], *(b"- " + line for line in lines[3:end]), *lines[end:]]), world.pin)
    for number in range(3, end):
        escaped = [*lines[:number], b"- " + lines[number], *lines[number + 1 :]]
        accept(b"\n".join(escaped), world.pin)
        # A dash before a line of one blank makes a well-formed escaped empty line.
        for wrong in (b"-", b"--", b"-\t", b"- - ") if lines[number] != b" " else (b"--", b"-\t", b"- - "):
            refuse(b"\n".join([*lines[:number], wrong + lines[number], *lines[number + 1 :]]), world.pin)
        for line in (b"- -----BEGIN PGP SIGNATURE-----", b"-x", b"- -----END PGP SIGNATURE-----"):
            refuse(b"\n".join([*lines[:number], line, *lines[number:]]), world.pin, BadSignatureError)
    dashes = world.keys.sign("-----BEGIN PGP SIGNATURE-----\n", world.key)
    refuse(dashes, world.pin, BadSignatureError, "looks like")


@pytest.mark.row("S26")
@pytest.mark.parametrize(
    "command", ["--sign", "--armor --sign", "--store", "--detach-sign", "--armor --detach-sign"]
)
def test_other_openpgp_files(world: World, command: str) -> None:
    data = world.keys.gpg("--local-user", world.key, *command.split(), data=TEXT.encode())
    refuse(data, world.pin, NotSignedError, "not a signed index")


@pytest.mark.row("S26")
@pytest.mark.parametrize(
    "data", [b"", b"\n", TEXT.encode(), b"<!DOCTYPE html>\n<html>404</html>\n", b"\x00" * 99]
)
def test_other_files(world: World, data: bytes) -> None:
    refuse(data, world.pin, NotSignedError, "not a signed index")


@pytest.mark.row("S26")
@pytest.mark.parametrize("armor", [False, True])
def test_key_block(world: World, armor: bool) -> None:
    refuse(world.keys.export(world.key, armor=armor), world.pin, NotSignedError, "not a signed index")


@pytest.mark.row("S27")
def test_fake_status_text(world: World) -> None:
    fake = (
        "[GNUPG:] NEWSIG\n"
        f"[GNUPG:] GOODSIG {world.key[-16:]} x\n"
        f"[GNUPG:] VALIDSIG {world.key} 2026-01-01 1767225600 0 4 0 22 10 01 {world.key}\n"
    )
    refuse(world.keys.sign(fake + TEXT, world.evil_key), world.pin, WrongKeyError)
    refuse(
        world.keys.sign(TEXT, world.evil_key, options=("--set-filename", "x\n" + fake)),
        world.pin,
        WrongKeyError,
    )
    refuse(world.keys.gpg("--store", data=fake.encode()), world.pin, NotSignedError)
    # gpg allows no newline here; gpgv escapes what a hostile implementation may write.
    notation = ("--sig-notation", f"x@example.org=%0A{fake}".replace("\n", "%0A"))
    refuse(world.keys.sign(TEXT, world.evil_key, options=notation), world.pin, WrongKeyError)
    # What a key may say about itself does no harm on a good signature either.
    accept(world.keys.sign(TEXT, world.key, options=notation), world.pin)


@pytest.mark.row("S28")
def test_user_id_with_status_text(world: World) -> None:
    key = world.keys.make(f"x VALIDSIG {world.key} [GNUPG:] GOODSIG <a@example.org>")
    refuse(world.keys.sign(TEXT, key), world.pin, WrongKeyError)
    both = TrustedKeys(world.pin.fingerprints, world.keys.export(world.key, key))
    refuse(world.keys.sign(TEXT, key), both, WrongKeyError)
    accept(world.keys.sign(TEXT, key), world.keys.pin(key))


@pytest.mark.row("S29")
def test_only_full_fingerprints_name_a_key(world: World) -> None:
    key = world.key
    spaced = " ".join(key[start : start + 4] for start in range(0, 40, 4))
    for good in (key, key.lower(), spaced, "0x" + key):
        assert full_fingerprint(good) == key
        accept(world.good, trusted_keys_from_keyring(good, gpg_home=world.keys.home))
    for bad in (key[-8:], key[-16:], key[:39], key + "0", "good@example.org", ""):
        with pytest.raises(UsageError):
            trusted_keys_from_keyring(bad, gpg_home=world.keys.home)


@pytest.mark.row("S30")
def test_key_files_never_mean_unsigned(world: World, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    for content in (world.keys.export(world.key), world.keys.export(world.key, armor=True)):
        key_file.write_bytes(content)
        accept(world.good, trusted_keys_from_file(key_file, where="test"))
    for bad in (b"", b"junk", world.good, world.keys.gpg("--export-secret-keys", world.key)):
        key_file.write_bytes(bad)
        with pytest.raises(UsageError):
            trusted_keys_from_file(key_file, where="test")


@pytest.mark.row("S30")
def test_pin_without_keys_accepts_nothing(world: World) -> None:
    refuse(world.good, TrustedKeys(frozenset(), b""), TrustError)
    refuse(world.good, TrustedKeys(frozenset({world.key}), b""), TrustError)
    refuse(world.good, TrustedKeys(frozenset(), world.pin.keyring), WrongKeyError)
    armored = TrustedKeys(world.pin.fingerprints, world.keys.export(world.key, armor=True))
    refuse(world.good, armored, TrustError)


@pytest.mark.row("S31", "S32")
def test_signature_of_a_template(world: World) -> None:
    """A template's detached signature is of class 00; put into a frame it proves nothing."""
    for text in (
        TEXT,
        TEXT.removesuffix("\n"),
        SIGNED_TEXT.removesuffix("\n"),
        SIGNED_TEXT.replace("\n", "\r\n"),
    ):
        detached = world.keys.gpg("--local-user", world.key, "--detach-sign", data=text.encode())
        refuse(with_packets(world.good, detached), world.pin, BadSignatureError)
        refuse(
            with_packets(world.good, signature_packets(world.good) + detached), world.pin, BadSignatureError
        )
        refuse(detached, world.pin, NotSignedError)
    # Without any line end both classes sign the same bytes; only the class distinguishes them.
    line = "x=1"
    detached = world.keys.gpg("--local-user", world.key, "--detach-sign", data=line.encode())
    refuse(with_packets(world.keys.sign(line, world.key), detached), world.pin, BadSignatureError)


GOOD_STATUS = (
    "printf '[GNUPG:] NEWSIG\\n[GNUPG:] GOODSIG {id} x\\n"
    "[GNUPG:] VALIDSIG {key} 2026-01-01 1767225600 0 4 0 22 10 01 {key}\\n' >&$status"
)


@pytest.mark.row("S38", "V6")
@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 0", NotSignedError),
        ("exit 2", NotSignedError),
        ("kill -KILL $$", ToolError),
        ("kill -SEGV $$", ToolError),
        ("echo '[GNUPG:] NEWSIG' >&$status", BadSignatureError),
        ("head -c 1000 /dev/urandom >&$status", BadSignatureError),
        (GOOD_STATUS.replace(">&$status", ""), NotSignedError),
        (GOOD_STATUS.replace(">&$status", ">&2"), NotSignedError),
        (GOOD_STATUS, BadSignatureError),
        (GOOD_STATUS + "; : >$out", BadSignatureError),
        (GOOD_STATUS + "; printf '[evil]\\n' >$out", BadSignatureError),
        (GOOD_STATUS + "; sed -n '/^\\[/,/^$/p' $file >$out", BadSignatureError),
        (GOOD_STATUS + "; cp $file $out", BadSignatureError),
        (GOOD_STATUS + "; cat $folder/expected >$out; exit 1", BadSignatureError),
        (GOOD_STATUS + "; cat $folder/expected >$out; kill -KILL $$", ToolError),
    ],
)
def test_gpgv_that_misbehaves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[PybuilderError]
) -> None:
    """V6: among them gpgv that writes a different text from what we read."""
    install_stub(tmp_path, script.replace("{key}", world.key).replace("{id}", world.key[-16:]))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(error):
        GpgVerifier().verify(world.good, world.pin, where="test")


@pytest.mark.row("S38")
def test_the_stub_can_succeed(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proves that the rows above fail for their own reason."""
    script = GOOD_STATUS.replace("{key}", world.key).replace("{id}", world.key[-16:])
    install_stub(tmp_path, script + "; cat $folder/expected >$out")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    accept(world.good, world.pin)


@pytest.mark.row("S38")
def test_gpgv_missing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="gpgv is not installed"):
        GpgVerifier().verify(world.good, world.pin, where="test")


@pytest.mark.row("S38")
def test_gpgv_cannot_be_started(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpgv").write_bytes(b"\x7fELF")
    (tmp_path / "gpgv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="cannot be started"):
        GpgVerifier().verify(world.good, world.pin, where="test")


@pytest.mark.row("S38", "V3")
def test_gpgv_takes_too_long(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """V3: after 30 seconds."""
    install_stub(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(gpg, "_LIMIT", 0.3)
    with pytest.raises(ToolError, match="did not end"):
        GpgVerifier().verify(world.good, world.pin, where="test")


def install_stub(folder: Path, script: str) -> None:
    """Put a gpgv on a folder for PATH; it knows the descriptor, the output file and the input file."""
    (folder / "expected").write_text(SIGNED_TEXT)
    (folder / "gpgv").write_text(
        f"#!/bin/bash\nfolder={folder}\nwhile [ $# -gt 1 ]; do case $1 in\n"
        "--status-fd) status=$2 ;; --output) out=$2 ;; esac; shift; done\n"
        f"file=$1\n{script}\n"
    )
    (folder / "gpgv").chmod(stat.S_IRWXU)


@pytest.mark.row("S39")
def test_few_signatures_are_fine(world: World) -> None:
    packets = signature_packets(world.good)
    for count in (1, 2, 4):
        accept(with_packets(world.good, packets * count), world.pin)


@pytest.mark.row("T2")
def test_the_unsigned_reader_takes_the_text_inside_the_frame(world: World) -> None:
    assert unverified_text(world.good, where="test").text == SIGNED_TEXT
    with pytest.raises(BadSignatureError):
        unverified_text(world.good + EVIL.encode(), where="test")
