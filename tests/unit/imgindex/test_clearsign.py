"""The frame of a clear-signed file: rule V2, without any real signature."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgindex.clearsign import MAX_FILE_SIZE, split, unverified_text
from imgindex.errors import BadSignatureError, IndexSyntaxError, NotSignedError, TrustError
from tests.fakes.fuzz import examples

PACKET = b"\x88\x05\x04\x01\x00\x16\x08"
BEGIN = "-----BEGIN PGP SIGNED MESSAGE-----"
BEGIN_SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
END = "-----END PGP SIGNATURE-----"


def armor(packets: bytes = PACKET) -> str:
    encoded = base64.b64encode(packets).decode()
    return "".join(f"{encoded[start : start + 64]}\n" for start in range(0, len(encoded), 64))


def signed(body: str = "[a]\nx=1\n", *, headers: str = "Hash: SHA512\n", packets: bytes = PACKET) -> str:
    return f"{BEGIN}\n{headers}\n{body}{BEGIN_SIGNATURE}\n\n{armor(packets)}=abcd\n{END}\n"


def refuse(text: str | bytes, problem: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(BadSignatureError) as caught:
        split(data, where="test")
    assert caught.value.message.startswith("test: ")
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("[a]\nx=1\n", "[a]\nx=1\n"),
        ("\n", "\n"),
        ("", ""),
        ("a \t\n \n\tb\n", "a\n\n\tb\n"),
        ("- - x\n- -----y\n- From z\n", "- x\n-----y\nFrom z\n"),
        ("\u00e4\u2028\n", "\u00e4\u2028\n"),
        ("x" * 19_900 + "\n", "x" * 19_900 + "\n"),
    ],
)
def test_text_is_unescaped_and_without_blanks_at_line_ends(body: str, text: str) -> None:
    assert split(signed(body).encode(), where="test").text == text


@pytest.mark.row("V2")
@pytest.mark.parametrize(
    "text",
    [
        signed(),
        signed().rstrip("\n"),
        signed() + "\n\n\n",
        signed(headers="Hash: SHA256\n"),
        signed(headers="Hash: SHA384,SHA512\n"),
        signed(headers="Hash: SHA256, SHA512\n"),
        signed(headers="Hash: SHA256\nHash: SHA512\n"),
        signed().replace(f"{BEGIN_SIGNATURE}\n", f"{BEGIN_SIGNATURE}\nVersion: GnuPG v1\nComment: x\n"),
        signed().replace("=abcd\n", ""),
        signed(packets=b"\xc2\x05\x04\x01\x00\x16\x08"),
        signed(packets=b"\xc2\xff\x00\x00\x00\x01\x04"),
        signed(packets=b"\xc2\xc0\x00" + b"x" * 192),
        signed(packets=b"\x89\x00\x01\x04"),
        signed(packets=b"\x8a\x00\x00\x00\x01\x04"),
    ],
)
def test_good_frames(text: str) -> None:
    """Harmless variants are read."""
    message = split(text.encode(), where="test")
    assert (message.text, message.signatures) == ("[a]\nx=1\n", 1)


def test_four_signatures_are_the_most() -> None:
    assert split(signed(packets=PACKET * 4).encode(), where="test").signatures == 4
    refuse(signed(packets=PACKET * 5), "5 signatures")


@pytest.mark.row("V2")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (signed().replace(BEGIN, BEGIN + " "), "first line"),
        (signed().replace("\n", "\r\n"), "CR LF"),
        # gpg signs control bytes as well, so the file need not have been changed.
        (signed("a\rb\n"), "line 4: there is a carriage return, which a signed"),
        (signed("a\r\nb\r\n"), "line 4: there is a carriage return, which a signed"),
        (signed("x\n" * 501_100), "more than 501,000 lines"),
        (signed("a\x0bb\n"), "0x0b, which a signed index may not have"),
        (signed("a\x0cb\n"), "0x0c"),
        (signed("a\x1cb\n"), "0x1c"),
        (signed("a\x00b\n"), "0x00"),
        (signed("a\x7fb\n"), "0x7f"),
        (signed().encode().replace(b"x=1", b"x=\x85"), "UTF-8"),
        (signed().encode().replace(b"x=1", b"x=\xed\xa0\x80"), "UTF-8"),
        (signed("x" * 19_901 + "\n"), "longer"),
        (signed("\u00e4" * 9_951 + "\n"), "longer"),
        (signed(headers=""), "Hash: header is missing"),
        (signed(headers="Hash: MD5\n"), "weak digest MD5"),
        (signed(headers="Hash: SHA1\n"), "weak digest SHA1"),
        (signed(headers="Hash: SHA512\nHash: MD5\n"), "weak digest"),
        (signed(headers="Hash: SHA512,SHA1\n"), "weak digest"),
        (signed(headers="Hash: FOO\n"), "unknown digest"),
        (signed(headers="Hash: SHA512 \n"), "not a Hash"),
        (signed(headers="hash: SHA512\n"), "not a Hash"),
        (signed(headers="Hash: SHA512\nNotDashEscaped: yes\n"), "not a Hash"),
        (signed(headers="Hash: SHA512\nComment: [evil]\n"), "not a Hash"),
        (signed(headers="Hash: SHA512\n- x\n"), "not a Hash"),
        (signed(headers="Hash: SHA512\n" + "X" * 30_000 + "\n"), "longer"),
        (signed(headers="Hash: SHA512\n \n"), "not a Hash"),
        (signed("-x\n"), "dash"),
        (signed("-\n"), "dash"),
        (signed("- -----BEGIN PGP SIGNATURE-----\n"), "looks like"),
        (signed("- -----END PGP SIGNATURE-----\n"), "looks like"),
        (signed("- -----BEGIN PGP SIGNED MESSAGE-----\n"), "looks like"),
        (signed(f"{BEGIN}\n"), "dash"),
        (signed(f"{BEGIN_SIGNATURE} \n"), "dash"),
        (signed() + "x\n", "after"),
        (signed() + " \n", "after"),
        (signed() + signed(), "after"),
        (signed() + f"{BEGIN_SIGNATURE}\n\n{armor()}{END}\n", "after"),
        ("[evil]\n" + signed(), "before"),
        ("\n" + signed(), "before"),
        (signed().replace(f"{END}\n", f"{END} \n"), "not a line"),
        (signed().replace(f"{BEGIN_SIGNATURE}\n\n", f"{BEGIN_SIGNATURE}\n"), "not a header"),
        (signed().replace("=abcd\n", "=abcd\n\n"), "not a line"),
        (signed().replace("=abcd\n", "=abcd\nAAAA\n"), "not a line"),
        (signed().replace("=abcd\n", "A\n=abcd\n"), "base64"),
        (signed().split("=abcd")[0], "cut short"),
        (signed().split(BEGIN_SIGNATURE)[0], "cut short"),
        (BEGIN, "cut short"),
        (BEGIN + "\n", "cut short"),
        (f"{BEGIN}\nHash: SHA512\n\n", "cut short"),
        (signed(packets=b""), "something else"),
        (signed(packets=b"\x04"), "something else"),
        (signed(packets=PACKET[:-1]), "something else"),
        (signed(packets=PACKET + b"\xcb\x01x"), "something else"),
        (signed(packets=b"\x8b\x04"), "something else"),
        (signed(packets=b"\xc2\xe1\x04"), "something else"),
        (signed(packets=PACKET * 2500), "larger than 16,384"),
        ((signed("x\n" * (MAX_FILE_SIZE // 2))), "larger than 5,000,000"),
    ],
)
def test_malformed_frames(text: str | bytes, problem: str) -> None:
    """V2."""
    refuse(text, problem)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\n \n", "an empty file"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"  <HTML>", "a web page"),
        (b"<!-- --><html>", "a web page"),
        (b"[debian-12]\nfile=x\n", "an index without a signature"),
        (b"# comment\n[debian-12]\n", "an index without a signature"),
        (b"-----BEGIN PGP SIGNATURE-----\n", "a detached signature"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n", "an OpenPGP key"),
        (b"-----BEGIN PGP MESSAGE-----\n", "not clear-signed"),
        (b"\xa3\x01\x02", "a binary file"),
        (b"PK\x03\x04\x00", "a binary file"),
        (b"hello\n", "some other text"),
        (b"\xef\xbb\xbf" + signed().encode(), "a binary file"),
        (b" -----BEGIN PGP SIGNED MESSAGE-----\n", "some other text"),
    ],
)
def test_files_that_are_not_signed_at_all(data: bytes, what: str) -> None:
    with pytest.raises(NotSignedError) as caught:
        split(data, where="https://example.org/index")
    assert what in caught.value.message
    assert caught.value.message.startswith("https://example.org/index: ")
    assert caught.value.hint


def test_unverified_text() -> None:
    assert unverified_text(signed("[a]\n").encode(), where="test").text == "[a]\n"
    assert unverified_text(b"[a]\n", where="test").text == "[a]\n"
    with pytest.raises(BadSignatureError):
        unverified_text(signed("-x\n").encode(), where="test")
    with pytest.raises(IndexSyntaxError):
        unverified_text(b"\xff", where="test")


PIECES = st.sampled_from(
    [
        BEGIN,
        BEGIN_SIGNATURE,
        END,
        "Hash: SHA512",
        "\n",
        "\n\n",
        " ",
        "- ",
        "-",
        "[a]",
        "iA==",
        "=abcd",
        "\r",
        "\x00",
    ]
)


@pytest.mark.timeout(7200)
@settings(max_examples=examples(60), deadline=None)
@given(st.one_of(st.binary(), st.lists(PIECES, max_size=20).map(lambda pieces: "".join(pieces).encode())))
def test_any_bytes_are_a_message_or_a_trust_error(data: bytes) -> None:
    for file in (data, BEGIN.encode() + b"\nHash: SHA512\n\n" + data):
        try:
            split(file, where="test")
        except TrustError:
            continue


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20).map(lambda line: line.rstrip())
    )
)
@example(["-----BEGIN PGP"])
def test_escaped_text_comes_back(lines: list[str]) -> None:
    lines = [line for line in lines if not line.startswith(("-----BEGIN PGP", "-----END PGP"))]
    text = "".join(f"{line}\n" for line in lines)
    body = "".join(f"- {line}\n" for line in lines)
    assert split(signed(body).encode(), where="test").text == text


@pytest.mark.parametrize("text", [signed().split("=abcd")[0], "[evil]\n" + signed()])
def test_a_damaged_download_has_a_next_step(text: str) -> None:
    with pytest.raises(BadSignatureError) as caught:
        split(text.encode(), where="test")
    assert caught.value.hint == "download it again; if it stays, tell the publisher"
