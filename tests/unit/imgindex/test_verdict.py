"""Meaning of gpgv's status lines: the verdict table of row S38, with canned scripts."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from imgindex.errors import BadSignatureError, NotSignedError, TrustError, WrongKeyError
from imgindex.trust import TrustedKeys
from imgindex.verdict import AcceptedSignature, judge

KEY = "A" * 24 + "0123456789ABCDEF"
SUB = "B" * 24 + "1111111111111111"
OTHER = "C" * 24 + "2222222222222222"
PIN = TrustedKeys(frozenset({KEY}), b"")
TIME = 1_700_000_000


def good(key: str = KEY, user: str = "x") -> str:
    return f"GOODSIG {key[-16:]} {user}"


def valid(
    key: str = KEY,
    primary: str | None = None,
    *,
    time: str = str(TIME),
    expires: str = "0",
    kind: str = "22",
    digest: str = "10",
    sig_class: str = "01",
) -> str:
    return f"VALIDSIG {key} 2023-11-14 {time} {expires} 4 0 {kind} {digest} {sig_class} {primary or key}"


def unknown(key: str = OTHER) -> tuple[str, str]:
    return f"ERRSIG {key[-16:]} 22 10 01 {TIME} 9 {key}", f"NO_PUBKEY {key[-16:]}"


def script(*lines: str) -> str:
    return "".join(f"[GNUPG:] {line}\n" for line in lines)


GOOD = ("NEWSIG", "KEY_CONSIDERED X 0", "SIG_ID x y 1", good(), valid())


def judged(
    lines: tuple[str, ...], code: int = 0, pin: TrustedKeys = PIN, *, extra: bool = False
) -> AcceptedSignature:
    return judge(script(*lines), code, replace(pin, extra_signatures=extra), where="test")


def test_good() -> None:
    assert judged(("PLAINTEXT 74 0 ", *GOOD)) == AcceptedSignature(
        KEY, KEY, datetime.fromtimestamp(TIME, UTC), None
    )


def test_times() -> None:
    signature = judged(("NEWSIG", good(), valid(time="20231114T221320", expires=str(TIME + 60))))
    assert signature.signed_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert signature.expires_at == datetime.fromtimestamp(TIME + 60, UTC)


@pytest.mark.row("V4")
def test_subkey_by_its_primary_or_by_itself() -> None:
    """V4: field 1 or field 10 is a pinned fingerprint."""
    lines = ("NEWSIG", good(SUB), valid(SUB, KEY))
    assert judged(lines).primary_fingerprint == KEY
    assert judged(lines, pin=TrustedKeys(frozenset({SUB}), b"")).fingerprint == SUB
    with pytest.raises(WrongKeyError):
        judged(lines, pin=TrustedKeys(frozenset({OTHER}), b""))


@pytest.mark.parametrize("digest", ["8", "9", "10"])
@pytest.mark.parametrize("kind", ["1", "19", "22", "27", "28"])
def test_strong_algorithms(kind: str, digest: str) -> None:
    assert judged(("NEWSIG", good(), valid(kind=kind, digest=digest)))


def test_lower_case_answers_are_understood() -> None:
    assert judged(("NEWSIG", good(KEY.lower()), valid(KEY.lower()))).fingerprint == KEY


def test_user_id_may_say_what_it_wants() -> None:
    lines = ("NEWSIG", good(OTHER, f"VALIDSIG {KEY}"), valid(OTHER))
    with pytest.raises(WrongKeyError):
        judged(lines)


@pytest.mark.row("V5")
def test_extra_signatures() -> None:
    """V5."""
    lines = (*GOOD, "NEWSIG", *unknown())
    with pytest.raises(WrongKeyError, match="also signed by key C"):
        judged(lines, 2)
    assert judged(lines, 2, extra=True).fingerprint == KEY
    assert judged(("NEWSIG", *unknown(), *GOOD), 2, extra=True).fingerprint == KEY
    # A key that gpgv knows but the source does not pin counts as an unknown one.
    known = (*GOOD, "NEWSIG", good(OTHER), valid(OTHER))
    with pytest.raises(WrongKeyError):
        judged(known)
    assert judged(known, extra=True).fingerprint == KEY


def test_newest_of_two_pinned_signatures() -> None:
    pin = TrustedKeys(frozenset({KEY, OTHER}), b"")
    lines = ("NEWSIG", good(OTHER), valid(OTHER, time=str(TIME + 1)), *GOOD)
    assert judged(lines, pin=pin).fingerprint == OTHER
    assert judged(("NEWSIG", *lines[3:], *lines[:3])[1:], pin=pin).fingerprint == OTHER


def test_wrong_key_names_the_keys() -> None:
    with pytest.raises(WrongKeyError) as caught:
        judged(("NEWSIG", *unknown()), 2)
    assert OTHER in caught.value.message
    assert KEY in caught.value.message
    assert caught.value.hint


def test_unusable_keys_of_the_pin() -> None:
    lines = ("NEWSIG", good(SUB), valid(SUB, KEY))
    for bad in (KEY, SUB):
        with pytest.raises(BadSignatureError, match=f"{bad} is too weak"):
            judged(lines, pin=TrustedKeys(frozenset({KEY}), b"", unusable=((bad, "too weak"),)))
    assert judged(lines, pin=TrustedKeys(frozenset({KEY}), b"", unusable=((OTHER, "too weak"),)))


REFUSED: list[tuple[str, tuple[str, ...], int, type[TrustError], str]] = [
    ("empty answer", (), 0, NotSignedError, "no signature"),
    ("empty answer, failed", (), 2, NotSignedError, "no signature"),
    ("plain text only", ("PLAINTEXT 74 0",), 0, NotSignedError, "no signature"),
    ("no data", ("NODATA 3", "NODATA 4"), 2, BadSignatureError, "cannot read"),
    ("altered", ("NEWSIG", "BADSIG 0123456789ABCDEF x"), 1, BadSignatureError, "altered"),
    ("altered, exit 0", ("NEWSIG", "BADSIG 0123456789ABCDEF x"), 0, BadSignatureError, "altered"),
    ("good then altered", (*GOOD, "NEWSIG", "BADSIG 0123456789ABCDEF x"), 1, BadSignatureError, "altered"),
    ("altered then good", ("NEWSIG", "BADSIG 0123456789ABCDEF x", *GOOD), 1, BadSignatureError, "altered"),
    ("altered by unknown", (*GOOD, "NEWSIG", "BADSIG 2222222222222222 x"), 0, BadSignatureError, "altered"),
    ("good and altered in one", (*GOOD, "BADSIG 0123456789ABCDEF x"), 0, BadSignatureError, "altered"),
    ("expired key", ("NEWSIG", "EXPKEYSIG 0123456789ABCDEF x", valid()), 0, BadSignatureError, "expired"),
    (
        "revoked key",
        ("NEWSIG", "REVKEYSIG 0123456789ABCDEF x", valid()),
        0,
        BadSignatureError,
        "been revoked",
    ),
    ("expired signature", ("NEWSIG", "EXPSIG 0123456789ABCDEF x", valid()), 1, BadSignatureError, "too old"),
    (
        "expired signature, exit 0",
        ("NEWSIG", "EXPSIG 0123456789ABCDEF x", valid()),
        0,
        BadSignatureError,
        "too old",
    ),
    (
        "good and expired",
        (*GOOD, "NEWSIG", "EXPKEYSIG 0123456789ABCDEF x", valid()),
        0,
        BadSignatureError,
        "expired",
    ),
    (
        "both verdicts in one",
        (*GOOD, "EXPKEYSIG 0123456789ABCDEF x"),
        0,
        BadSignatureError,
        "one clear verdict",
    ),
    ("two good in one", (*GOOD, good()), 0, BadSignatureError, "one clear verdict"),
    ("two valid in one", (*GOOD, valid()), 0, BadSignatureError, "one clear verdict"),
    ("good without valid", ("NEWSIG", good()), 0, BadSignatureError, "does not confirm"),
    ("valid without good", ("NEWSIG", valid()), 0, BadSignatureError, "one clear verdict"),
    ("empty group", ("NEWSIG",), 0, BadSignatureError, "one clear verdict"),
    ("good without key", ("NEWSIG", "GOODSIG", valid()), 0, BadSignatureError, "one clear verdict"),
    ("short valid", ("NEWSIG", good(), f"VALIDSIG {KEY}"), 0, BadSignatureError, "does not confirm"),
    ("good and valid differ", ("NEWSIG", good(OTHER), valid()), 0, BadSignatureError, "two keys"),
    ("short key id", ("NEWSIG", f"GOODSIG {KEY[-8:]} x", valid()), 0, BadSignatureError, "two keys"),
    ("cut fingerprint", ("NEWSIG", good(), valid(KEY[:39])), 0, BadSignatureError, "no fingerprint"),
    ("no primary", ("NEWSIG", good(), valid(primary="-")), 0, BadSignatureError, "no fingerprint"),
    ("sha-1", ("NEWSIG", good(), valid(digest="2")), 0, BadSignatureError, "weak digest SHA-1"),
    ("md5", ("NEWSIG", good(), valid(digest="1")), 0, BadSignatureError, "weak digest MD5"),
    ("sha-224", ("NEWSIG", good(), valid(digest="11")), 0, BadSignatureError, "weak digest SHA-224"),
    ("unknown digest", ("NEWSIG", good(), valid(digest="99")), 0, BadSignatureError, "weak digest"),
    (
        "sha-1 refused by gpgv",
        ("NEWSIG", f"ERRSIG {KEY[-16:]} 1 2 01 {TIME} 5 {KEY}"),
        2,
        BadSignatureError,
        "SHA-1",
    ),
    (
        "bad key",
        ("NEWSIG", f"ERRSIG {KEY[-16:]} 1 10 01 {TIME} 6 {KEY}"),
        2,
        BadSignatureError,
        "self-signature",
    ),
    (
        "unknown reason",
        ("NEWSIG", f"ERRSIG {KEY[-16:]} 1 10 01 {TIME} 4 {KEY}"),
        2,
        BadSignatureError,
        "cannot check",
    ),
    ("short error", ("NEWSIG", f"ERRSIG {KEY[-16:]}"), 2, BadSignatureError, "cannot check"),
    ("binary class", ("NEWSIG", good(), valid(sig_class="00")), 0, BadSignatureError, "class 00"),
    ("certificate class", ("NEWSIG", good(), valid(sig_class="13")), 0, BadSignatureError, "class 13"),
    ("dsa", ("NEWSIG", good(), valid(kind="17")), 0, BadSignatureError, "kind"),
    ("unknown key", ("NEWSIG", *unknown()), 2, WrongKeyError, OTHER),
    ("no fingerprint", ("NEWSIG", unknown()[0][:-41], unknown()[1]), 2, WrongKeyError, OTHER[-16:]),
    ("two unknown keys", ("NEWSIG", *unknown(), "NEWSIG", *unknown(SUB)), 2, WrongKeyError, SUB),
    ("not pinned", ("NEWSIG", good(OTHER), valid(OTHER)), 0, WrongKeyError, OTHER),
    ("good with no_pubkey", (*GOOD, "NO_PUBKEY 0123456789ABCDEF"), 2, BadSignatureError, "contradicts"),
    ("good with exp line", (*GOOD, "EXPX 1"), 0, BadSignatureError, "contradicts"),
    ("good, exit 1", GOOD, 1, BadSignatureError, "status 1"),
    ("good, exit 2", GOOD, 2, BadSignatureError, "status 2"),
    ("good, exit 127", GOOD, 127, BadSignatureError, "status 127"),
    ("good, killed", GOOD, -9, BadSignatureError, "status -9"),
    ("two messages", (*GOOD, "ERROR proc_pkt.plaintext 89_BAD_DATA"), 2, BadSignatureError, "ERROR proc_pkt"),
    ("error, exit 0", ("ERROR x 1", *GOOD), 0, BadSignatureError, "ERROR"),
    ("failure", (*GOOD, "FAILURE gpg-exit 33554433"), 0, BadSignatureError, "FAILURE"),
    ("unexpected", (*GOOD, "UNEXPECTED 0"), 0, BadSignatureError, "UNEXPECTED"),
    ("outside any signature", (good(), valid()), 0, BadSignatureError, "outside"),
    ("valid outside", (valid(), *GOOD), 0, BadSignatureError, "outside"),
    ("bad time", ("NEWSIG", good(), valid(time="soon")), 0, BadSignatureError, "readable time"),
    (
        "bad iso time",
        ("NEWSIG", good(), valid(time="20231399T000000")),
        0,
        BadSignatureError,
        "readable time",
    ),
    ("bad expiry", ("NEWSIG", good(), valid(expires="-1")), 0, BadSignatureError, "readable time"),
    ("no keyword", (*GOOD, ""), 0, BadSignatureError, "cannot be read"),
]


@pytest.mark.row("S38", "V4", "V5")
@pytest.mark.parametrize(
    ("lines", "code", "error", "words"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED]
)
@pytest.mark.parametrize("extra", [False, True])
def test_refused(lines: tuple[str, ...], code: int, error: type[TrustError], words: str, extra: bool) -> None:
    """V4, V5: what must not be accepted, line by line."""
    with pytest.raises(TrustError) as caught:
        judged(lines, code, extra=extra)
    assert type(caught.value) is error
    assert words in caught.value.message
    assert caught.value.message.startswith("test: ")


@pytest.mark.row("S38")
@pytest.mark.parametrize("noise", ["gpgv: Good signature\n", "GOODSIG\n", " [GNUPG:] X\n", "\x00\n"])
def test_lines_without_prefix(noise: str) -> None:
    with pytest.raises(BadSignatureError, match="cannot be read"):
        judge(script(*GOOD) + noise, 0, PIN, where="test")


def test_extra_exit_code_must_have_its_reason() -> None:
    with pytest.raises(BadSignatureError, match="status 0"):
        judged((*GOOD, "NEWSIG", *unknown()), 0, extra=True)
