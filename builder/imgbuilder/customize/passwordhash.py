"""Password hashes: making them, and checking a password against a hash of unknown origin within limits.

yescrypt hashes are made by the system's own libcrypt (libxcrypt, crypt(3)), which every current distribution
has: no maintained package offers yescrypt for Python.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hmac
import re
import secrets
from collections.abc import Callable

from imgbuilder.errors import ToolError

_ROUNDS = 100_000
"""Rounds of SHA-crypt: 20 times crypt(5)'s default; a login under emulation still takes about a second."""
_LIBCRYPT = ("libcrypt.so.1", "libcrypt.so.2")
"""The library's name in Debian and in Fedora."""
_SALT_BYTES = 24

_LETTERS = r"[./0-9A-Za-z]"
_SHA = re.compile(rf"\$[56]\$(?:rounds=([0-9]{{1,9}})\$)?[^$:!*\n]{{0,16}}\${_LETTERS}{{43,86}}")
_MD5 = re.compile(rf"\$1\$[^$:!*\n]{{0,8}}\${_LETTERS}{{22}}")
_BCRYPT = re.compile(rf"\$2[abxy]\$([0-9]{{2}})\${_LETTERS}{{53}}")
_YESCRYPT = re.compile(rf"\$g?y\$j(?:75|85|[7-9AB]T)\${_LETTERS}{{1,86}}\${_LETTERS}{{43}}")
"""yescrypt with its cost parameters 1 to 7, crypt(5); 5 is the usual one."""
_DES = re.compile(rf"{_LETTERS}{{13}}")
_MOST_ROUNDS = 1_000_000
_MOST_COST = 12


class Crypto(enum.Enum):
    """Kinds of password hashes, crypt(5)."""

    SHA256 = "sha256"
    SHA512 = "sha512"
    YESCRYPT = "yescrypt"


def hash_password(password: str, crypto: Crypto) -> str:
    """Hash a password with a fresh random salt.

    Raises:
        ToolError: The host's libcrypt cannot make yescrypt hashes.
    """
    secret = password.encode(errors="surrogateescape")
    if crypto is Crypto.YESCRYPT:
        return _yescrypt(secret)
    from passlib.hash import sha256_crypt, sha512_crypt  # late: few commands hash passwords

    scheme = sha256_crypt if crypto is Crypto.SHA256 else sha512_crypt
    return str(scheme.using(rounds=_ROUNDS).hash(secret))


def yescrypt_available() -> bool:
    """Tell whether this host can make yescrypt hashes."""
    library = _library()
    return library is not None and _yescrypt_setting(library) is not None


def can_try(hashed: str) -> bool:
    """Tell whether a hash of crypt(5) is of a known kind whose check takes bearable time."""
    rounds, cost = _SHA.fullmatch(hashed), _BCRYPT.fullmatch(hashed)
    if rounds is not None:
        return int(rounds[1] or 0) <= _MOST_ROUNDS
    if cost is not None:
        return int(cost[1]) <= _MOST_COST
    return any(kind.fullmatch(hashed) for kind in (_MD5, _YESCRYPT, _DES))


def matches(password: str, hashed: str) -> bool | None:
    """Tell whether a password has the given hash, crypt(5); None when this host cannot find out."""
    if not can_try(hashed) or "\0" in password:
        return None
    secret, known = password.encode(errors="surrogateescape"), hashed.encode(errors="surrogateescape")
    made = _crypt(secret, known)
    if made is not None:
        return hmac.compare_digest(made, known)
    verify = _passlib_checks().get(hashed[:3])
    if verify is None:
        return None
    try:
        return bool(verify(secret, hashed))
    except ValueError:  # it only looks like a hash
        return None


def _yescrypt(secret: bytes) -> str:
    library = _library()
    setting = None if library is None else _yescrypt_setting(library)
    if library is not None and setting is not None:
        result = library.crypt(secret, setting)
        if isinstance(result, bytes) and result.startswith(b"$y$"):
            return result.decode("ascii")
    raise ToolError("this host's libcrypt cannot make yescrypt hashes", hint="use --password-crypto sha512")


def _crypt(secret: bytes, setting: bytes) -> bytes | None:
    """Hash a password with the kind, cost and salt of an existing hash; None when libcrypt cannot."""
    library = _library()
    result = None if library is None else library.crypt(secret, setting)
    return result if isinstance(result, bytes) and not result.startswith(b"*") else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in _LIBCRYPT:
        try:
            library = ctypes.CDLL(name)
            library.crypt.restype = ctypes.c_char_p
            library.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
            library.crypt_gensalt.restype = ctypes.c_char_p
            library.crypt_gensalt.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int]
        except (OSError, AttributeError):  # not installed, or glibc's old one without salts
            continue
        return library
    return None


def _yescrypt_setting(library: ctypes.CDLL) -> bytes | None:
    result = library.crypt_gensalt(b"$y$", 0, secrets.token_bytes(_SALT_BYTES), _SALT_BYTES)
    return result if isinstance(result, bytes) and result.startswith(b"$y$") else None


def _passlib_checks() -> dict[str, Callable[[bytes, str], bool]]:
    """Return the checks by the hashes' prefixes, for hosts whose libcrypt is not libxcrypt."""
    from passlib.hash import md5_crypt, sha256_crypt, sha512_crypt  # late: few commands hash passwords

    return {"$1$": md5_crypt.verify, "$5$": sha256_crypt.verify, "$6$": sha512_crypt.verify}
