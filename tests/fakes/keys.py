"""Throw-away OpenPGP keys for tests: made in milliseconds, in a home of their own, gone afterwards.

The home lies directly below /tmp, because the path of gpg-agent's socket may
not be longer than 108 characters. Its agent ends and the home goes with
``close``, or when the tests are killed.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

from imgindex.gpg import trusted_keys_from_file
from imgindex.trust import TrustedKeys

NEEDED_PROGRAMS = ("gpg", "gpgv", "gpgconf")


_GUARD = 'cat >/dev/null; gpgconf --homedir "$0" --kill all; rm -rf "$0"'


class HomeGuard:
    """Stops the agent of a GnuPG home and removes the home: on request, or when this process is gone.

    gpg starts its agent in a session of its own, so that it outlives tests that are killed.
    """

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            ["sh", "-c", _GUARD, str(home)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def release(self) -> None:
        """Stop the agent and remove the home now; nothing is done the second time."""
        self._process.communicate()


class KeyMaker:
    """A private GnuPG home with its keys. Use as a context manager, or call ``close``.

    Keys are named by their full fingerprints. ``at`` is a moment for gpg to believe in, such as
    ``20200101T000000``.
    """

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="keys.", dir="/tmp"))
        self._guard = HomeGuard(self.home)

    def __enter__(self) -> KeyMaker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the agent of this home and remove it."""
        self._guard.release()

    @cached_property
    def publisher(self) -> str:
        """A key for the tests that need a publisher and no certain one."""
        return self.make("publisher")

    def gpg(self, *arguments: str, data: bytes = b"", at: str | None = None) -> bytes:
        """Run gpg in this home; returns its standard output, and fails the test if gpg fails."""
        command = ["gpg", "--homedir", str(self.home), "--batch", "--no-tty", "--quiet", "--yes"]
        command += ["--pinentry-mode", "loopback", "--passphrase", ""]
        if at is not None:
            command += ["--faked-system-time", at]
        done = subprocess.run([*command, *arguments], input=data, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(
        self,
        user_id: str = "Publisher <publisher@example.org>",
        kind: str = "ed25519",
        *,
        usage: str = "sign",
        expire: str = "0",
        at: str | None = None,
        options: tuple[str, ...] = (),
    ) -> str:
        """Make a key and return its fingerprint. ``expire`` is as for gpg: ``0``, ``1y``, ``1d``."""
        return self._made(*options, "--quick-generate-key", user_id, kind, usage, expire, at=at)

    def add_subkey(
        self,
        primary: str,
        kind: str = "ed25519",
        *,
        usage: str = "sign",
        expire: str = "0",
        at: str | None = None,
    ) -> str:
        """Add a subkey and return its fingerprint."""
        return self._made("--quick-add-key", primary, kind, usage, expire, at=at)

    def _made(self, *arguments: str, at: str | None) -> str:
        status = self.gpg("--status-fd", "1", *arguments, at=at).decode()
        new: str
        (new,) = re.findall(r"^\[GNUPG:\] KEY_CREATED \w ([0-9A-F]+)", status, re.MULTILINE)
        return new

    def sign(
        self,
        text: str | bytes,
        *keys: str,
        digest: str = "SHA512",
        at: str | None = None,
        options: tuple[str, ...] = (),
    ) -> bytes:
        """Clear-sign with exactly these keys."""
        data = text.encode() if isinstance(text, str) else text
        signers = [argument for key in keys for argument in ("--local-user", f"{key}!")]
        return self.gpg(*options, *signers, "--digest-algo", digest, "--clearsign", data=data, at=at)

    def revoke(self, key: str) -> None:
        """Revoke a primary key with the certificate that gpg made for it."""
        certificate = (self.home / "openpgp-revocs.d" / f"{key}.rev").read_bytes()
        self.gpg("--import", data=certificate.replace(b"\n:-----", b"\n-----"))

    def revoke_subkey(self, primary: str, number: int) -> None:
        """Revoke the subkey with this number, counted from 1."""
        answers = f"key {number}\nrevkey\ny\n0\n\ny\nsave\n"
        self.gpg("--command-fd", "0", "--edit-key", primary, data=answers.encode())

    def export(self, *keys: str, armor: bool = False) -> bytes:
        """Export public keys."""
        return self.gpg(*(["--armor"] if armor else []), "--export", *keys)

    def pin(self, *keys: str) -> TrustedKeys:
        """Return a pin of whole keys, made by the product from an exported key file."""
        file = self.home / "pin.gpg"
        file.write_bytes(self.export(*keys))
        return trusted_keys_from_file(file, where="test")


def signature_packets(signed: bytes) -> bytes:
    """Return the binary signature packets of a clear-signed file."""
    block = signed.decode().split("-----BEGIN PGP SIGNATURE-----\n\n")[1].split("\n-----END")[0]
    return base64.b64decode("".join(line for line in block.split("\n") if not line.startswith("=")))


def with_packets(signed: bytes, packets: bytes) -> bytes:
    """Return a clear-signed file with other signature packets (the optional checksum left out)."""
    head = signed.decode().split("-----BEGIN PGP SIGNATURE-----")[0]
    encoded = base64.b64encode(packets).decode()
    lines = "\n".join(encoded[start : start + 64] for start in range(0, len(encoded), 64))
    return f"{head}-----BEGIN PGP SIGNATURE-----\n\n{lines}\n-----END PGP SIGNATURE-----\n".encode()


@pytest.fixture(scope="session")
def keys() -> Iterator[KeyMaker]:
    """One home for a whole test session; import this fixture in a ``conftest.py``."""
    for program in NEEDED_PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    with KeyMaker() as maker:
        yield maker
