"""Runs gpg and gpgv; the only module of this package that does (``signer`` uses python-gnupg).

gpgv decides about signatures. It gets exactly the keys that count and never sees the
user's keyring (S4), and its answer counts only as ``imgindex.verdict`` reads it. The
text that it writes is used only after that: it writes the text of bad signatures as
well (F6).
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from imgindex.clearsign import MAX_FILE_SIZE, signature_packets, split
from imgindex.environment import plain_environment
from imgindex.errors import BadSignatureError, ToolError, UsageError
from imgindex.keys import ListedKey, make_trusted_keys, read_key_file, read_key_list
from imgindex.lexer import decode_text
from imgindex.trust import VerifiedText, full_fingerprint
from imgindex.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgindex.keys import KeyMemory
    from imgindex.trust import TrustedKeys
    from imgindex.verdict import AcceptedSignature

_LIMIT = 30
"""Seconds that one gpg or gpgv may take (V3)."""

_SLOWEST = 10_000_000
"""Bytes per second that gpgv reads at least of a large file."""


class GpgVerifier:
    """Implements ``imgindex.trust.Verifier`` with gpgv: rules V2 to V6 of ``docs/threat-model.md``."""

    def verify(
        self, data: bytes, trusted: TrustedKeys, *, where: str, limit: int = MAX_FILE_SIZE
    ) -> VerifiedText:
        """Apply the accept rule; see ``imgindex.trust.Verifier.verify``.

        Raises:
            TrustError: The bytes are not accepted.
            ToolError: gpgv is missing, was killed or took too long; nothing is accepted then.
        """
        message = split(data, where=where, limit=limit)
        with _private_folder() as folder:
            (folder / "index.asc").write_bytes(data)
            output = folder / "text"
            signature = _ask_gpgv(
                folder, trusted, ["--output", str(output), "--", str(folder / "index.asc")], where=where
            )
            signed = output.read_bytes() if output.is_file() else None
        if signed != message.text.encode("utf-8"):
            raise BadSignatureError(f"{where}: gpgv read a different text in the signed index than we do")
        return VerifiedText(
            text=message.text,
            fingerprint=signature.fingerprint,
            primary_fingerprint=signature.primary_fingerprint,
            signed_at=signature.signed_at,
            expires_at=signature.expires_at,
            first_line=message.first_line,
        )

    def verify_detached(
        self, data: bytes, signature: bytes, trusted: TrustedKeys, *, where: str
    ) -> VerifiedText:
        """Verify a text with a detached signature, such as ``SHA256SUMS`` and ``SHA256SUMS.gpg``.

        Args:
            data: The text, whole.
            signature: The signature, armored or binary.
            trusted: The keys that may have signed it.
            where: The source of the text, for error messages.

        Raises:
            TrustError: It is not signed by one of the keys, by the same rules as for an index.
            ToolError: gpgv is missing, was killed or took too long.
        """
        packets = signature_packets(signature, where=where)
        text = decode_text(data, where=where)
        with _private_folder() as folder:
            (folder / "text").write_bytes(data)
            (folder / "text.sig").write_bytes(packets)
            words = ["--", str(folder / "text.sig"), str(folder / "text")]
            accepted = _ask_gpgv(folder, trusted, words, where=where, detached=True)
        return VerifiedText(
            text=text,
            fingerprint=accepted.fingerprint,
            primary_fingerprint=accepted.primary_fingerprint,
            signed_at=accepted.signed_at,
            expires_at=accepted.expires_at,
        )

    def verify_file(self, file: Path, signature: bytes, trusted: TrustedKeys, *, where: str) -> None:
        """Verify the detached signature of a file of any size, such as that of a template (``sig=``).

        Args:
            file: The file. It is read in place, so that only a file of our own can be verified.
            signature: The signature, armored or binary.
            trusted: The keys that may have signed it.
            where: The signature, for error messages.

        Raises:
            TrustError: It is not signed by one of the keys, by the same rules as for an index.
            ToolError: gpgv is missing, was killed or took too long.
            OSError: The file is missing.
        """
        packets = signature_packets(signature, where=where)
        more_time = file.stat().st_size // _SLOWEST
        with _private_folder() as folder:
            (folder / "file.sig").write_bytes(packets)
            words = ["--", str(folder / "file.sig"), str(file.absolute())]
            _ask_gpgv(folder, trusted, words, where=where, detached=True, more_time=more_time)


def _ask_gpgv(
    folder: Path,
    trusted: TrustedKeys,
    words: Sequence[str],
    *,
    where: str,
    detached: bool = False,
    more_time: int = 0,
) -> AcceptedSignature:
    """Run gpgv on files in a private folder (V3), and judge its answer."""
    (folder / "keyring.gpg").write_bytes(trusted.keyring)
    # SHA-1 is refused here for keys, and in the verdict for the signature itself. A key with only SHA-1
    # self-signatures, such as that of libguestfs.org of 2011, is trusted by its fingerprint alone.
    weak = [] if trusted.sha1_self_signatures else ["--weak-digest", "SHA1"]
    with (folder / "status").open("w+b") as status:
        descriptor = status.fileno()
        arguments = ["--quiet", "--homedir", str(folder), "--status-fd", str(descriptor), *weak]
        arguments += ["--keyring", str(folder / "keyring.gpg"), *words]
        done = _run("gpgv", arguments, pass_fds=(descriptor,), more_time=more_time)
        status.seek(0)
        answer = status.read().decode("utf-8", "replace")
    if done.returncode < 0:
        raise ToolError(f"{where}: gpgv was ended by signal {-done.returncode}", hint="try again")
    return judge(answer, done.returncode, trusted, where=where, detached=detached)


def trusted_keys_from_file(
    path: Path, *, where: str, memory: KeyMemory | None = None, any_owner: bool = False
) -> TrustedKeys:
    """Trust all keys of a key file, armored or binary: primary keys and signing subkeys.

    Args:
        path: The file.
        where: The source that names it, for error messages.
        memory: Remembers files that gpg has read before.
        any_owner: See ``imgindex.files.check_writers``.

    Raises:
        UsageError: The file is missing, empty, writable for every user, holds a secret key, or no key.
            The source never counts as unsigned because of that (S30).
        ToolError: gpg is missing or failed.
    """
    data = read_key_file(path, where, any_owner=any_owner)
    keyring, keys = _inspect(data, memory)
    if any(key.secret for key in keys) or b"PRIVATE KEY BLOCK" in data:
        raise UsageError(
            f"{where}: the key file {path} holds a secret key, which only the publisher may have",
            hint=f"export the public key: gpg --armor --export KEY >{path}",
        )
    if not keys or not keyring:
        raise UsageError(
            f"{where}: there is no usable OpenPGP public key in {path}",
            hint="get the publisher's key file again; gpg --show-keys FILE lists its keys",
        )
    pinned = frozenset(key.fingerprint for key in keys if key.is_primary or key.can_sign)
    return make_trusted_keys(pinned, keyring, keys)


def keys_in_file(path: Path, *, where: str, any_owner: bool = False) -> tuple[ListedKey, ...]:
    """List the keys of a key file, armored or binary."""
    return tuple(_ask_gpg(read_key_file(path, where, any_owner=any_owner))[1])


def trusted_keys_from_keyring(
    fingerprint: str,
    *,
    gpg_home: Path | None = None,
    memory: KeyMemory | None = None,
    command: Sequence[str] = ("gpg",),
) -> TrustedKeys:
    """Trust one key of the user's keyring, as ``--fingerprint`` of virt-builder does.

    Args:
        fingerprint: Full fingerprint of a primary key, or of a subkey, which then alone counts (S10).
        gpg_home: Folder of the keyring; None for the default of gpg.
        memory: Remembers keys that gpg has read before.
        command: The gpg that has the keyring, and options for it.
    """
    wanted = full_fingerprint(fingerprint)
    arguments = [*command[1:], *([] if gpg_home is None else ["--homedir", str(gpg_home)])]
    arguments += ["--batch", "--no-tty", "--quiet", "--no-auto-check-trustdb"]
    arguments += ["--export-options", "export-minimal", "--export", wanted]
    exported = _run(command[0], arguments).stdout
    keyring, keys = _inspect(exported, memory) if exported else (b"", [])
    if not keyring or all(key.fingerprint != wanted for key in keys):
        raise UsageError(
            f"the key {wanted} is not in your keyring",
            hint="get the publisher's key file, check its fingerprint, and run: gpg --import FILE",
        )
    return make_trusted_keys(frozenset({wanted}), keyring, keys)


def _inspect(data: bytes, memory: KeyMemory | None) -> tuple[bytes, list[ListedKey]]:
    """Return the keys that gpg finds in a key file, now or when it last read the same bytes."""
    known = None if memory is None else memory.recall(data)
    if known is not None:
        return known
    keyring, keys = _ask_gpg(data)
    if memory is not None and keys and keyring:
        memory.keep(data, keyring, keys)
    return keyring, keys


@functools.lru_cache(maxsize=16)  # a publisher reads the same few key files at every step
def _ask_gpg(data: bytes) -> tuple[bytes, list[ListedKey]]:
    """Let gpg read keys, armored or not, without keeping them and without starting an agent.

    Returns:
        The public keys as a binary keyring, empty if gpg finds none, and their listing.
    """
    with _private_folder() as folder:
        (folder / "keys").write_bytes(data)
        home = ["--homedir", str(folder), "--no-options", "--batch", "--no-tty", "--quiet", "--no-autostart"]
        # Not with "--trust-model always": an expired key then makes gpg fail for want of a trust database.
        # Not with "import-export", which spares the export: it keeps only the last of several armor blocks.
        arguments = ["--no-auto-check-trustdb", "--with-colons", "--with-sig-list"]
        arguments += ["--import-options", "import-show,import-minimal", "--import", str(folder / "keys")]
        done = _run("gpg", [*home, *arguments])
        keyring = _run("gpg", [*home, "--export"]).stdout
    return keyring, read_key_list(done.stdout.decode("utf-8", "replace"))


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Make a folder with mode 0700 that is removed afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="imgindex.", ignore_cleanup_errors=True)
    except OSError as error:
        raise ToolError(f"cannot make a private folder for gpg: {error}", hint="check TMPDIR") from error
    with folder as name:
        try:
            yield Path(name)
        except OSError as error:
            raise ToolError(f"cannot use the private folder for gpg: {error}", hint="check TMPDIR") from error


def find_gpg(name: str) -> str:
    """Return the path of gpg or gpgv."""
    found = shutil.which(name)
    if found is None:
        raise ToolError(
            f"the program {name} is not installed",
            hint="run: pybuilder doctor, whose last line installs what is missing",
        )
    return found


def _run(
    name: str, arguments: list[str], *, pass_fds: tuple[int, ...] = (), more_time: int = 0
) -> subprocess.CompletedProcess[bytes]:
    """Run gpg or gpgv to its end; the caller checks the exit status."""
    limit = _LIMIT + more_time
    try:
        return subprocess.run(
            [find_gpg(name), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=plain_environment(),
            pass_fds=pass_fds,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{name} did not end within {limit} seconds", hint="try again") from error
    except OSError as error:
        raise ToolError(f"{name} cannot be started: {error.strerror}") from error
