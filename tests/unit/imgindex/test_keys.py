"""Reading gpg's key listings, and choosing the key that signs."""

from __future__ import annotations

from typing import Any

import pytest

from imgindex.keys import choose_signing_key, make_trusted_keys, read_key_list

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
