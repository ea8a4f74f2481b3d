"""The publisher's signatures: python-gnupg manages the key, gpg-agent holds it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from imgindex.clearsign import split
from imgindex.environment import plain_environment
from imgindex.errors import SigningError, ToolError, TrustError
from imgindex.gpg import find_gpg
from imgindex.keys import choose_signing_key

_USER = re.compile(r"(?P<name>[^<>\x00-\x1f\x7f]{5,100}?) *<(?P<mail>[^<>@\s\x00-\x1f]+@[^<>@\s\x00-\x1f]+)>")
"""A user id of a new key; gpg wants at least five characters for the name."""


class GpgSigner:
    """Signs an index with the publisher's own gpg and gpg-agent.

    Args:
        gpg_home: Folder of the secret keys; None for the default of gpg.
        ask: True if gpg-agent may ask for a passphrase; None: if standard input is a terminal. Otherwise a
            key that needs one is an error at once, never a wait (R4).
        valid_for: Validity of signatures; None for ever.
        command: The gpg to use, with options for every call.

    Raises:
        ToolError: gpg is missing or does not work.
    """

    def __init__(
        self,
        gpg_home: Path | None = None,
        *,
        ask: bool | None = None,
        valid_for: timedelta | None = None,
        command: Sequence[str] = ("gpg",),
    ) -> None:
        import gnupg  # late: verification does not need it

        may_ask = sys.stdin.isatty() if ask is None else ask
        self._valid_for = valid_for
        self._found: dict[str, str] = {}
        # Without gpg.conf: a local-user or keyring line there would add or hide keys.
        options = ["--no-options", "--no-auto-check-trustdb", *command[1:]]
        environment = plain_environment()
        if not may_ask:
            options += ["--pinentry-mode", "error"]
        elif "GPG_TTY" not in environment and sys.stdin.isatty():
            environment["GPG_TTY"] = os.ttyname(sys.stdin.fileno())
        try:
            self._gpg = gnupg.GPG(
                gpgbinary=find_gpg(command[0]),
                gnupghome=None if gpg_home is None else str(gpg_home),
                options=options,
                env=environment,
            )
        except (OSError, ValueError) as error:
            raise ToolError(f"gpg does not work: {error}", hint="try: gpg --list-secret-keys") from error

    def check_key(self, key: str) -> str:
        """Find the one secret key that would sign, once for each name.

        Args:
            key: Fingerprint, key id or part of a user id, as gpg takes them; ``!`` after a fingerprint
                excludes its subkeys.

        Returns:
            Full fingerprint of the signing key: a subkey if the key has one for signing.

        Raises:
            SigningError: No secret key matches, or several do, or none of them is usable.
        """
        if key not in self._found:
            self._found[key] = self._find_key(key)
        return self._found[key]

    def _find_key(self, key: str) -> str:
        wanted = key.strip().removesuffix("!")
        if not wanted or wanted.startswith("-") or "\n" in wanted:
            raise SigningError(
                f"{key!r} does not name a key", hint="give the fingerprint of your signing key"
            )
        listed = self._gpg.list_keys(secret=True, keys=[wanted])
        if not listed:
            raise SigningError(
                f"no secret key for {wanted!r} is found",
                hint="your keys are listed by: gpg --list-secret-keys",
            )
        digits = "".join(wanted.split()).upper().removeprefix("0X")
        usable: dict[str, str] = {}
        problems: list[str] = []
        made = datetime.fromtimestamp(max(int(entry["date"]) for entry in listed), UTC)
        for entry in listed:
            if int(entry["date"]) > time.time():
                continue  # gpg 2.4 lists it as usable, and then does not sign with it
            signing, problem = choose_signing_key(entry, digits, exact=key.strip().endswith("!"))
            if signing is None:
                problems.append(f"key {entry['fingerprint']} {problem}")
            else:
                usable[entry["fingerprint"]] = signing
        if not usable and made > datetime.now(UTC):
            raise SigningError(
                f"the key {wanted!r} was made at {made:%Y-%m-%d %H:%M} UTC, which this machine's clock has "
                "not reached",
                hint="set the clock (see: timedatectl)",
            )
        if not usable:
            raise SigningError(
                f"no usable signing key for {wanted!r}: {'; '.join(problems)}",
                hint="extend the key with gpg --quick-set-expire, or use a different one",
            )
        if len(usable) > 1:
            raise SigningError(
                f"several secret keys fit {wanted!r}: {', '.join(sorted(usable))}",
                hint="name one of them by its full fingerprint",
            )
        return usable.popitem()[1]

    def make_key(self, user: str) -> str:
        """Make a signing key that is valid for two years, without a passphrase, so that timers can sign.

        Args:
            user: Name and mail address, such as ``Images <images@example.org>``.

        Returns:
            Its full fingerprint.

        Raises:
            SigningError: The text is not a name and an address, there is such a key already, or gpg failed.
        """
        match = _USER.fullmatch(user)
        if match is None:
            raise SigningError(
                f"{user!r} is not a name with a mail address",
                hint="write it as 'Images <images@example.org>'",
            )
        if self._gpg.list_keys(secret=True, keys=[f"<{match['mail']}>"]):
            raise SigningError(
                f"there is a secret key for {match['mail']} already", hint="use that one, or another address"
            )
        lines = [
            "%no-protection", "Key-Type: EDDSA", "Key-Curve: ed25519", "Key-Usage: sign",
            f"Name-Real: {match['name']}", f"Name-Email: {match['mail']}", "Expire-Date: 2y", "%commit", "",
        ]  # fmt: skip
        made = self._gpg.gen_key("\n".join(lines))
        if not made.fingerprint:
            raise SigningError(f"gpg could not make a key: {str(made.stderr).strip()[-200:]}")
        return str(made.fingerprint)

    def clearsign(self, text: str, key: str, also: Sequence[str] = ()) -> bytes:
        """Clear-sign a text with SHA-512 and exactly the keys that are named.

        Args:
            text: The text; what a client would refuse is refused here (S22).
            key: As for ``check_key``.
            also: Further keys, each of which makes a signature of its own, in the same second.

        Raises:
            SigningError: A key is not usable or is locked, gpg failed, or the text cannot be signed
                in a way that every client accepts.
        """
        fingerprint = self.check_key(key)
        signers = list(dict.fromkeys([fingerprint, *(self.check_key(name) for name in also)]))
        extra: list[str] = []
        if self._valid_for is not None:
            extra = ["--default-sig-expire", f"seconds={int(self._valid_for.total_seconds())}"]
        signed = self._sign(text.encode("utf-8"), signers, extra, clearsign=True)
        try:
            message = split(signed, where="new signature")
        except TrustError as error:
            raise SigningError(f"the text cannot be signed: {error.message}") from error
        expected = "".join(
            f"{line.rstrip(chr(32) + chr(9))}\n" for line in text.removesuffix("\n").split("\n")
        )
        if message.text != expected or message.signatures != len(signers):
            raise SigningError("gpg signed a different text than requested")
        return signed

    def sign_detached(self, data: bytes, fingerprint: str) -> bytes:
        """Return an armored signature of some bytes, which does not expire, by a key of ``check_key``."""
        return self._sign(data, [fingerprint], [], clearsign=False, detach=True)

    def _sign(self, data: bytes, signers: Sequence[str], extra: Sequence[str], **how: bool) -> bytes:
        keys = [word for signer in signers for word in ("--local-user", f"{signer}!")]
        result = self._gpg.sign(data, extra_args=[*keys, "--digest-algo", "SHA512", *extra], **how)
        signed = bytes(result.data)
        if result.returncode != 0 or result.fingerprint not in signers or not signed:
            raise _signing_failed(", ".join(signers), str(result.stderr))
        return signed

    def public_key(self, fingerprint: str) -> bytes:
        """Return any public key of the publisher's keyring, armored; empty when it is not there."""
        return str(self._gpg.export_keys(fingerprint, armor=True)).encode("ascii")

    def export_public_key(self, key: str) -> bytes:
        """Return the public key that belongs to a signing key, armored, for the clients' key files."""
        fingerprint = self.check_key(key)
        # Without "!", so that the primary key and its other subkeys are included.
        armored = self.public_key(fingerprint)
        if not armored:
            raise SigningError(f"gpg cannot export the public key {fingerprint}")
        return armored


def _signing_failed(fingerprint: str, messages: str) -> SigningError:
    lines = [line for line in messages.splitlines() if line.startswith("gpg: ")]
    reason = lines[-1].removeprefix("gpg: ") if lines else "gpg gave no reason"
    hint = "try it by hand: gpg --clearsign --local-user KEY FILE"
    if "pinentry" in messages.lower() or "No passphrase" in messages or "No secret key" in messages:
        hint = "the key may be locked: unlock it once in a terminal, or let gpg-agent keep its passphrase"
    if "Time conflict" in messages:
        hint = "a key was made at a time that this machine's clock has not reached; set it (see: timedatectl)"
    return SigningError(f"key {fingerprint} cannot sign: {reason}", hint=hint)
