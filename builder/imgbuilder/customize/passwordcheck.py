"""Whether a password is the one of a hash that a stranger wrote: with a limit to the work it asks for."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable

from imgbuilder.customize import yescrypt

_LETTERS = r"[./0-9A-Za-z]"
_SHA = re.compile(rf"\$[56]\$(?:rounds=([0-9]{{1,9}})\$)?[^$:!*\n]{{0,16}}\${_LETTERS}{{43,86}}")
_MD5 = re.compile(rf"\$1\$[^$:!*\n]{{0,8}}\${_LETTERS}{{22}}")
_BCRYPT = re.compile(rf"\$2[abxy]\$([0-9]{{2}})\${_LETTERS}{{53}}")
_YESCRYPT = re.compile(rf"\$g?y\$j(?:75|85|[7-9AB]T)\${_LETTERS}{{1,86}}\${_LETTERS}{{43}}")
"""yescrypt's own cost parameters from 1 to 7, crypt(5); 5 is the usual one."""
_DES = re.compile(rf"{_LETTERS}{{13}}")
_MOST_ROUNDS = 1_000_000
_MOST_COST = 12


def can_try(hashed: str) -> bool:
    """Tell whether a hash of crypt(5) is of a kind that is known here, and asks for bearable work."""
    rounds, cost = _SHA.fullmatch(hashed), _BCRYPT.fullmatch(hashed)
    if rounds is not None:
        return int(rounds[1] or 0) <= _MOST_ROUNDS
    if cost is not None:
        return int(cost[1]) <= _MOST_COST
    return any(kind.fullmatch(hashed) for kind in (_MD5, _YESCRYPT, _DES))


def matches(password: str, hashed: str) -> bool | None:
    """Tell whether a password is the one of a hash.

    Args:
        password: The password.
        hashed: Its hash, crypt(5).

    Returns:
        Whether it is; None when this host cannot tell, or it would take too long.
    """
    if not can_try(hashed) or "\0" in password:
        return None
    secret, known = password.encode(errors="surrogateescape"), hashed.encode(errors="surrogateescape")
    made = yescrypt.crypt(secret, known)
    if made is not None:
        return hmac.compare_digest(made, known)
    verify = _other_ways().get(hashed[:3])
    return None if verify is None else _verified(verify, secret, hashed)


def _verified(verify: Callable[[bytes, str], bool], secret: bytes, hashed: str) -> bool | None:
    try:
        return bool(verify(secret, hashed))
    except ValueError:  # it looks like a hash, and is none
        return None


def _other_ways() -> dict[str, Callable[[bytes, str], bool]]:
    """Return how hashes are tried where the system's libcrypt is another one."""
    from passlib.hash import md5_crypt, sha256_crypt, sha512_crypt  # late: only few commands hash passwords

    return {"$1$": md5_crypt.verify, "$5$": sha256_crypt.verify, "$6$": sha512_crypt.verify}
