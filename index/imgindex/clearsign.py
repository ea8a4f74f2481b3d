"""Strict reading of clear-signed files and detached signatures (RFC 9580 sections 6, 7 and 10.4).

gpg forgives much (``docs/threat-model.md`` V2): text around the frame, other headers, lines of which
it signs only the beginning. Each of these was an attack on readers that saw a different text than gpg
did (F2, F3). Here the frame is exact or the file is refused, and the text found here must later equal
that of gpgv (V6). A signature file holds signature packets and nothing else: gpgv would also take a
message with a text in it, and verify that text instead of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from imgindex.errors import BadSignatureError, NotSignedError, TrustError
from imgindex.lexer import LEAST_BYTES_PER_LINE, MAX_TEXT_SIZE, decode_text, shorten
from imgindex.trust import UnverifiedText

MAX_FILE_SIZE = MAX_TEXT_SIZE
"""Largest file in bytes that is read (V1); fetch no more than this plus one byte."""

MAX_LINE_SIZE = 19_900
"""Longest line in bytes; gpg signs only the first 19,995 bytes of a line, or a few fewer (F3)."""

MAX_ARMOR_SIZE = 16 * 1024
"""Largest signature block in bytes."""

MAX_FRAME_LINES = 1000
"""Most lines that the frame adds to those of the text; an armor of the largest size has fewer."""

MAX_SIGNATURES = 4
"""Most signatures in a block: each costs gpgv milliseconds (F10)."""

_BEGIN = "-----BEGIN PGP SIGNED MESSAGE-----"
_BEGIN_SIGNATURE = "-----BEGIN PGP SIGNATURE-----"
_END_SIGNATURE = "-----END PGP SIGNATURE-----"
_HASH_HEADER = re.compile(r"Hash: ([A-Z0-9-]+(?:, ?[A-Z0-9-]+)*)")
_LIKE_A_MESSAGE = ("-----BEGIN PGP", "-----END PGP")
_ARMOR_HEADER = re.compile(r"(?:Version|Comment|Charset|MessageID): .*")
_BASE64_LINE = re.compile(r"[A-Za-z0-9+/]{1,76}={0,2}")
_CHECKSUM_LINE = re.compile(r"=[A-Za-z0-9+/]{4}")
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")
_STRONG_DIGESTS = frozenset({"SHA256", "SHA384", "SHA512"})
_WEAK_DIGESTS = frozenset({"MD5", "SHA1", "RIPEMD160", "SHA224"})
_SIGNATURE_TAG = 2
_ARMOR = re.compile(
    rb"-----BEGIN PGP SIGNATURE-----\n(?:(?:Version|Comment|Charset|MessageID): [ -~]*\n)*\n"
    rb"((?:[A-Za-z0-9+/]{1,76}={0,2}\n)+)(?:=[A-Za-z0-9+/]{4}\n)?"
    rb"-----END PGP SIGNATURE-----\n*"
)
_AGAIN = "download it again; if it stays, tell the publisher"


class SignedMessage(NamedTuple):
    """The content of the frame; not yet verified.

    Attributes:
        text: The signed text: dashes unescaped, blanks at line ends cut.
        signatures: Number of signatures.
        first_line: Line of the file in which the text begins.
    """

    text: str
    signatures: int
    first_line: int


def split(data: bytes, *, where: str, limit: int = MAX_FILE_SIZE) -> SignedMessage:
    """Take a clear-signed file apart, or refuse it.

    Args:
        data: The whole file.
        where: The source, for error messages.
        limit: Most bytes that it may have.

    Returns:
        The text and the number of signatures; gpgv decides if they are good.

    Raises:
        NotSignedError: The file is not a clear-signed message.
        BadSignatureError: It is one, but not exactly in the plain form of the standard.
    """
    if len(data) > limit:
        raise BadSignatureError(f"{where}: the signed index is larger than {limit:,} bytes")
    if not data.startswith(_BEGIN.encode()):
        raise _why_not_signed(data, where)
    _check_bytes(data, where)
    most = limit // LEAST_BYTES_PER_LINE + MAX_FRAME_LINES
    if data.count(b"\n") > most:
        raise BadSignatureError(f"{where}: the signed index has more than {most:,} lines")
    try:
        lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSignatureError(f"{where}: line {line}: the signed text is not valid UTF-8") from None
    return _Splitter(lines, where).split()


def unverified_text(data: bytes, *, where: str, limit: int = MAX_FILE_SIZE) -> UnverifiedText:
    """Read a file without verification; a signature on it is removed unread.

    Args:
        data: The whole file: a plain index, or a clear-signed one.
        where: The source, for error messages.
        limit: Most bytes that it may have.

    Raises:
        BadSignatureError: The frame of a clear-signed file is malformed.
        IndexSyntaxError: The file is too large or not UTF-8.
    """
    if data.startswith(_BEGIN.encode()):
        message = split(data, where=where, limit=limit)
        return UnverifiedText(message.text, message.first_line)
    return UnverifiedText(decode_text(data, where=where, limit=limit))


def _check_bytes(data: bytes, where: str) -> None:
    found = _FORBIDDEN.search(data)
    if found is None:
        return
    if found[0] == b"\r" and data.count(b"\r\n") == data.count(b"\n"):
        raise BadSignatureError(
            f"{where}: its lines end with CR LF: the signed index was changed after signing",
            hint="if you publish it, serve the file exactly as gpg wrote it",
        )
    line = data.count(b"\n", 0, found.start()) + 1
    what = "a carriage return" if found[0] == b"\r" else f"the control byte 0x{found[0][0]:02x}"
    raise BadSignatureError(
        f"{where}: line {line}: there is {what}, which a signed index may not have",
        hint="if you publish it: pybuilder-repo validate finds this before it is signed",
    )


class _Splitter:
    """Reads the lines of one clear-signed file from top to bottom."""

    def __init__(self, lines: list[str], where: str) -> None:
        self._lines = lines
        self._where = where
        self._next = 0

    def split(self) -> SignedMessage:
        for number, line in enumerate(self._lines, 1):
            if len(line) > MAX_LINE_SIZE or len(line.encode("utf-8")) > MAX_LINE_SIZE:
                raise self._malformed(
                    f"the line is longer than {MAX_LINE_SIZE:,} bytes",
                    number,
                    hint="gpg signs only the beginning of such a line, so nothing proves the rest; tell the "
                    "publisher to break the text into lines before it is signed (JSON: python3 -m json.tool)",
                )
        if self._take() != _BEGIN:
            raise self._malformed("the first line of the frame has something at its end")
        self._headers()
        first_line = self._next + 1
        text = self._text()
        signatures = self._armor()
        if any(self._lines[self._next :]):
            raise self._malformed("there is something after the signed message", self._next + 1)
        return SignedMessage(text, signatures, first_line)

    def _malformed(
        self, problem: str, number: int | None = None, *, hint: str | None = None
    ) -> BadSignatureError:
        line = self._next if number is None else number
        return BadSignatureError(f"{self._where}: line {line}: {problem}; the file is refused", hint=hint)

    def _take(self) -> str:
        if self._next >= len(self._lines):
            raise self._malformed("the signed message is cut short", hint=_AGAIN)
        self._next += 1
        return self._lines[self._next - 1]

    def _headers(self) -> None:
        seen = False
        while line := self._take():
            header = _HASH_HEADER.fullmatch(line)
            if header is None:
                raise self._malformed(f"not a Hash: header of the signed message: {shorten(line)}")
            for digest in re.split(", ?", header[1]):
                if digest in _WEAK_DIGESTS:
                    raise self._malformed(f"the signature uses the weak digest {digest}")
                if digest not in _STRONG_DIGESTS:
                    raise self._malformed(f"unknown digest {shorten(digest)}")
            seen = True
        if not seen:
            raise self._malformed("the Hash: header is missing")

    def _text(self) -> str:
        text: list[str] = []
        while (line := self._take()) != _BEGIN_SIGNATURE:
            plain = line
            if line.startswith("-"):
                plain = line[2:]
                if not line.startswith("- "):
                    raise self._malformed(f"a dash at the start of a line is not escaped: {shorten(line)}")
                if plain.startswith(_LIKE_A_MESSAGE):
                    raise self._malformed(f"a line looks like that of an OpenPGP message: {shorten(line)}")
            # Blanks at the end are not signed (RFC 9580 section 7.2), and gpgv cuts them as well.
            text.append(plain.rstrip(" \t"))
        return "".join(f"{line}\n" for line in text)

    def _armor(self) -> int:
        begin = self._next
        while line := self._take():
            if not _ARMOR_HEADER.fullmatch(line):
                raise self._malformed(f"not a header of the signature: {shorten(line)}")
        body: list[str] = []
        checksum_seen = False
        while (line := self._take()) != _END_SIGNATURE:
            if _CHECKSUM_LINE.fullmatch(line) and not checksum_seen:
                checksum_seen = True
            elif _BASE64_LINE.fullmatch(line) and not checksum_seen:
                body.append(line)
            else:
                raise self._malformed(f"not a line of a signature: {shorten(line)}")
        if sum(len(line) + 1 for line in self._lines[begin - 1 : self._next]) > MAX_ARMOR_SIZE:
            raise self._malformed(f"the signature is larger than {MAX_ARMOR_SIZE:,} bytes")
        try:
            packets = base64.b64decode("".join(body), validate=True)
        except binascii.Error:
            raise self._malformed("the signature is not valid base64") from None
        count = count_signatures(packets)
        if count is None or count == 0:
            raise self._malformed("the signature block holds something else than signatures")
        if count > MAX_SIGNATURES:
            raise self._malformed(f"there are {count} signatures; at most {MAX_SIGNATURES} are allowed")
        return count


def signature_packets(data: bytes, *, where: str) -> bytes:
    """Return the signatures of a signature file, armored or binary.

    Args:
        data: The whole file.
        where: The signed file, for error messages.

    Returns:
        One to four signature packets; gpgv decides if they are good.

    Raises:
        NotSignedError: The file is empty.
        BadSignatureError: It is too large, or holds anything but signatures.
    """
    if not data.strip():
        raise NotSignedError(f"{where}: its signature file is empty")
    if len(data) > MAX_ARMOR_SIZE:
        raise BadSignatureError(f"{where}: its signature file is larger than {MAX_ARMOR_SIZE:,} bytes")
    packets = data
    if data.startswith(b"-----"):
        armor = _ARMOR.fullmatch(data.replace(b"\r\n", b"\n"))
        try:
            packets = base64.b64decode(armor[1].replace(b"\n", b""), validate=True) if armor else b""
        except binascii.Error:
            packets = b""
    count = count_signatures(packets)
    if not count:
        raise BadSignatureError(f"{where}: its signature file holds something else than signatures")
    if count > MAX_SIGNATURES:
        raise BadSignatureError(f"{where}: it has {count} signatures; at most {MAX_SIGNATURES} are allowed")
    return packets


def count_signatures(packets: bytes) -> int | None:
    """Count OpenPGP signature packets (RFC 9580 section 4.2); None if there are other packets."""
    count = position = 0
    while position < len(packets):
        header = packets[position]
        if not header & 0x80:
            return None
        if header & 0x40:
            tag = header & 0x3F
            first = int.from_bytes(packets[position + 1 : position + 2])
            if first < 192:
                start, length = 2, first
            elif first < 224:
                start, length = (
                    3,
                    ((first - 192) << 8) + int.from_bytes(packets[position + 2 : position + 3]) + 192,
                )
            elif first == 255:
                start, length = 6, int.from_bytes(packets[position + 2 : position + 6])
            else:
                return None
        else:
            tag = (header >> 2) & 0x0F
            if header & 3 == 3:
                return None
            size = 1 << (header & 3)
            start, length = 1 + size, int.from_bytes(packets[position + 1 : position + 1 + size])
        position += start + length
        if tag != _SIGNATURE_TAG or position > len(packets):
            return None
        count += 1
    return count


def _why_not_signed(data: bytes, where: str) -> TrustError:
    """Make the error for a file that does not begin like a signed index."""
    begin = data.lstrip()[:512].lower()
    hint = "use the address of the signed index, which is usually named index.asc"
    if re.search(rb"^-----BEGIN PGP SIGNED MESSAGE-----", data, re.MULTILINE):
        return BadSignatureError(
            f"{where}: there is unsigned text before the signed message; the file is refused", hint=_AGAIN
        )
    if not begin:
        what = "an empty file"
    elif begin.startswith((b"<!doctype", b"<html", b"<?xml")) or b"<html" in begin:
        what = "a web page"
        hint = (
            "open the address in a browser: it may be an error or log-in page, or the list of a folder in "
            "which index.asc is meant"
        )
    elif begin.startswith(b"-----begin pgp signature"):
        what = "a detached signature without the text"
    elif begin.startswith((b"-----begin pgp public key", b"-----begin pgp private key")):
        what = "an OpenPGP key"
    elif begin.startswith(b"-----begin pgp message"):
        what = "an OpenPGP message that is not clear-signed"
        hint = "the publisher has to sign the index with: gpg --clearsign"
    elif data[0] >= 0x80 or b"\x00" in data[:512]:
        what = "a binary file"
    elif (
        re.match(rb"\[[a-z0-9._-]+\][ \t]*\r?$", begin.lstrip(b"\xef\xbb\xbf"), re.MULTILINE)
        or begin[:1] == b"#"
    ):
        what = "an index without a signature"
        hint = "ask the publisher to sign it, or use the address of the signed index, usually index.asc"
    else:
        what = "some other text"
    return NotSignedError(f"{where}: this is {what}, not a signed index", hint=hint)
