"""Passwords: selectors such as ``file:PATH`` and ``random``, and hashes, made and checked within limits.

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
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.customize.secrecy import variable_name
from imgbuilder.customize.values import read_given
from imgbuilder.errors import ToolError, UsageError
from imgbuilder.events import Reporter, info
from imgbuilder.host.variation import RandomBytes

_ROUNDS = 100_000
"""Rounds of SHA-crypt: 20 times crypt(5)'s default; a login under emulation still takes about a second."""
_LIBCRYPT = ("libcrypt.so.1", "libcrypt.so.2")
"""The library's name in Debian and in Fedora."""
_SALT_BYTES = 24
_SALT_LENGTH, _SALT_LETTERS = 16, "./" + string.digits + string.ascii_uppercase + string.ascii_lowercase
"""The salt of SHA-crypt, crypt(5)."""

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


def hash_password(password: str, crypto: Crypto, random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """Hash a password with a random salt."""
    secret = password.encode(errors="surrogateescape")
    if crypto is Crypto.YESCRYPT:
        return _yescrypt(secret, random_bytes)
    from passlib.hash import sha256_crypt, sha512_crypt  # late: few commands hash passwords

    scheme = sha256_crypt if crypto is Crypto.SHA256 else sha512_crypt
    salt = "".join(_SALT_LETTERS[byte % 64] for byte in random_bytes(_SALT_LENGTH))
    return str(scheme.using(rounds=_ROUNDS, salt=salt).hash(secret))


def yescrypt_available() -> bool:
    """Tell whether this host can make yescrypt hashes."""
    library = _library()
    return library is not None and _yescrypt_setting(library, secrets.token_bytes) is not None


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


def _yescrypt(secret: bytes, random_bytes: RandomBytes) -> str:
    library = _library()
    setting = None if library is None else _yescrypt_setting(library, random_bytes)
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


def _yescrypt_setting(library: ctypes.CDLL, random_bytes: RandomBytes) -> bytes | None:
    result = library.crypt_gensalt(b"$y$", 0, random_bytes(_SALT_BYTES), _SALT_BYTES)
    return result if isinstance(result, bytes) and result.startswith(b"$y$") else None


def _passlib_checks() -> dict[str, Callable[[bytes, str], bool]]:
    """Return the checks by the hashes' prefixes, for hosts whose libcrypt is not libxcrypt."""
    from passlib.hash import md5_crypt, sha256_crypt, sha512_crypt  # late: few commands hash passwords

    return {"$1$": md5_crypt.verify, "$5$": sha256_crypt.verify, "$6$": sha512_crypt.verify}


_MAX_LENGTH = 512
"""Longest password in bytes that PAM accepts (PAM_MAX_RESP_SIZE)."""

_ALPHABET = "".join(sorted(set(string.ascii_letters + string.digits) - set("O0oIl1")))
"""56 characters that are not mistaken for each other: 5.8 bits each."""

_RANDOM_LENGTH = 21
"""Characters of a random password: 121 bits."""

_SELECTORS = "password:TEXT, file:PATH, secret:NAME, random, disabled, locked or locked:SELECTOR"


_PLAIN = re.compile(r"(?:lock(?:ed)?:)*password:")


class PasswordSource(enum.Enum):
    """The source of a password."""

    TEXT = "text"
    SECRET = "secret"  # noqa: S105 - a word
    """A ``--secret``; the selector's text is its name."""
    RANDOM = "random"
    DISABLED = "disabled"


@dataclass(frozen=True)
class PasswordSelector:
    """The password that an account gets.

    Attributes:
        text: The password for ``PasswordSource.TEXT``, with bytes that are not UTF-8 as surrogate escapes;
            the secret's name for ``PasswordSource.SECRET``.
        locked: Whether password logins are locked as well (``!!`` in front of the hash).
    """

    source: PasswordSource
    text: str = field(default="", repr=False)
    locked: bool = False

    def __post_init__(self) -> None:
        if self.source is PasswordSource.TEXT:
            _check_password(self.text)

    def shadow_field(
        self, password: str | None, crypto: Crypto, random_bytes: RandomBytes = secrets.token_bytes
    ) -> str:
        """Return the second field of the account's line in ``/etc/shadow``, shadow(5)."""
        value = "*" if password is None else hash_password(password, crypto, random_bytes)
        return f"!!{value}" if self.locked else value

    def report_random(self, user: str, password: str | None, on_event: Reporter) -> None:
        """Report a password if it is a random one."""
        if self.source is PasswordSource.RANDOM and password is not None:
            info(on_event, f"Setting random password of {user} to {password}")

    def password(
        self, secrets: Mapping[str, str], random_bytes: RandomBytes = secrets.token_bytes
    ) -> str | None:
        """Return the password, generated now if it is a random one; None if the account gets none."""
        if self.source is PasswordSource.RANDOM:
            return random_password(random_bytes)
        if self.source is PasswordSource.SECRET:
            if self.text not in secrets:
                raise UsageError(
                    f"the secret {self.text!r} for the password is missing",
                    hint=f"add --secret {self.text}=env:VARIABLE or --secret {self.text}=file:PATH",
                )
            _check_password(secrets[self.text])
            return secrets[self.text]
        return self.text if self.source is PasswordSource.TEXT else None


def holds_password(text: str) -> bool:
    """Tell whether a selector contains a password."""
    return _PLAIN.match(text) is not None


def parse_selector(text: str) -> PasswordSelector:
    """Parse a password selector; the first line of a file is read at once, before any work.

    Raises:
        UsageError: It is not a selector, or the password is empty or unusable. The text is never quoted.
    """
    word, colon, rest = text.partition(":")
    if word == "password" and colon:
        return PasswordSelector(PasswordSource.TEXT, rest)
    if word == "file" and colon:
        return PasswordSelector(PasswordSource.TEXT, _first_line(Path(rest)))
    if word == "secret" and colon:
        return PasswordSelector(PasswordSource.SECRET, variable_name(rest))
    if word in ("locked", "lock") and colon:
        inner = parse_selector(rest)
        return PasswordSelector(inner.source, inner.text, locked=True)
    if not colon:
        if word == "random":
            return PasswordSelector(PasswordSource.RANDOM)
        if word in ("disabled", "disable"):
            return PasswordSelector(PasswordSource.DISABLED)
        if word in ("locked", "lock"):
            return PasswordSelector(PasswordSource.DISABLED, locked=True)
    raise UsageError("the password selector is not valid", hint=f"give one of: {_SELECTORS}")


def selector(value: object) -> PasswordSelector:
    """Accept a selector passed by a Python program (docs/api.md); other values are not quoted."""
    if not isinstance(value, PasswordSelector):
        raise UsageError(
            "a password selector is expected here", hint='make one with parse_selector("random")'
        )
    return value


def optional_selector(value: object) -> PasswordSelector | None:
    """Accept a selector or None."""
    return None if value is None else selector(value)


def crypto(value: object) -> Crypto:
    """Accept a kind of password hash passed by a Python program."""
    if not isinstance(value, Crypto):
        raise UsageError("a password hash is expected here", hint="for example Crypto.SHA512")
    return value


def parse_crypto(text: str) -> Crypto:
    """Parse the name of a kind of password hash that is strong enough and that this host can make."""
    if text == "md5":
        raise UsageError(
            "md5 password hashes are broken and are not made",
            hint="use sha512, which every Linux of the last 15 years knows",
        )
    try:
        crypto = Crypto(text)
    except ValueError:
        choices = ", ".join(member.value for member in Crypto)
        raise UsageError(f"{text!r} is not a password hash", hint=f"give one of: {choices}") from None
    if crypto is Crypto.YESCRYPT and not yescrypt_available():
        raise UsageError("this host's libcrypt cannot make yescrypt hashes", hint="use sha512")
    return crypto


def random_password(random_bytes: RandomBytes = secrets.token_bytes) -> str:
    """Generate a password of at least 120 random bits without ambiguous characters."""
    letters = ""
    while len(letters) < _RANDOM_LENGTH:
        (byte,) = random_bytes(1)
        if byte < 256 // len(_ALPHABET) * len(_ALPHABET):  # all letters are equally likely
            letters += _ALPHABET[byte % len(_ALPHABET)]
    return letters


def _check_password(text: str) -> None:
    if not text:
        raise UsageError("the password is empty", hint=f"give one of: {_SELECTORS}")
    if any(character in text for character in "\0\r\n"):
        raise UsageError("the password contains a NUL or a line break")
    if len(text.encode(errors="surrogateescape")) > _MAX_LENGTH:
        raise UsageError(f"the password is longer than {_MAX_LENGTH} bytes")


def _first_line(path: Path) -> str:
    line = read_given(path, "the password file", lambda file: file.readline(_MAX_LENGTH + 3))
    password = line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="surrogateescape")
    if not password:
        raise UsageError(f"the first line of the password file {path} is empty")
    return password
