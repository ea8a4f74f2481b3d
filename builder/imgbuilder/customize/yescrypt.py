"""yescrypt hashes by the system's own libcrypt (libxcrypt), which every current distribution has.

No maintained package offers yescrypt for Python; libxcrypt is what the
guest's own login uses, crypt(3) and crypt_gensalt(3).
"""

from __future__ import annotations

import ctypes
import functools
import secrets

from imgbuilder.errors import ToolError

_NAMES = ("libcrypt.so.1", "libcrypt.so.2")
"""Debian's and Fedora's name of the same library."""

_SALT_BYTES = 24


def available() -> bool:
    """Tell whether this host can make yescrypt hashes."""
    library = _library()
    return library is not None and _setting(library) is not None


def hash_password(secret: bytes) -> str:
    """Hash a password with a fresh random salt.

    Args:
        secret: The password; must not hold NUL.

    Raises:
        ToolError: The host's libcrypt cannot do it.
    """
    library = _library()
    setting = None if library is None else _setting(library)
    if library is not None and setting is not None:
        result = library.crypt(secret, setting)
        if isinstance(result, bytes) and result.startswith(b"$y$"):
            return result.decode("ascii")
    raise ToolError("this host's libcrypt cannot make yescrypt hashes", hint="use --password-crypto sha512")


def crypt(secret: bytes, setting: bytes) -> bytes | None:
    """Hash a password as an existing hash says, of any kind that the system knows.

    Args:
        secret: The password; must not hold NUL.
        setting: The existing hash; how much work it asks for must have been judged before.

    Returns:
        The hash; None when the host's libcrypt is another one, or does not know the kind.
    """
    library = _library()
    result = None if library is None else library.crypt(secret, setting)
    return result if isinstance(result, bytes) and not result.startswith(b"*") else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            library.crypt.restype = ctypes.c_char_p
            library.crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
            library.crypt_gensalt.restype = ctypes.c_char_p
            library.crypt_gensalt.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int]
        except (OSError, AttributeError):  # not installed; or glibc's old one without salts
            continue
        return library
    return None


def _setting(library: ctypes.CDLL) -> bytes | None:
    result = library.crypt_gensalt(b"$y$", 0, secrets.token_bytes(_SALT_BYTES), _SALT_BYTES)
    return result if isinstance(result, bytes) and result.startswith(b"$y$") else None
