"""Our own strict reading of a signature that is a file of its own (RFC 9580 sections 6 and 10.4).

gpgv takes many things for a signature file: a message with its own text
inside would verify that text, and not the file that it was meant for. Here the
file holds signature packets and nothing else, or it is refused.
"""

from __future__ import annotations

import base64
import binascii
import re

from imgindex.clearsign import MAX_ARMOR_SIZE, MAX_SIGNATURES, count_signatures
from imgindex.errors import BadSignatureError, NotSignedError

_ARMOR = re.compile(
    rb"-----BEGIN PGP SIGNATURE-----\n(?:(?:Version|Comment|Charset|MessageID): [ -~]*\n)*\n"
    rb"((?:[A-Za-z0-9+/]{1,76}={0,2}\n)+)(?:=[A-Za-z0-9+/]{4}\n)?"
    rb"-----END PGP SIGNATURE-----\n*"
)


def signature_packets(data: bytes, *, where: str) -> bytes:
    """Take the signatures out of a signature file, armored or binary.

    Args:
        data: The whole file.
        where: What it signs, for error messages.

    Returns:
        One to four signature packets; whether they are good is gpgv's to say.

    Raises:
        NotSignedError: The file is empty.
        BadSignatureError: It is too large, or holds something else than signatures.
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
