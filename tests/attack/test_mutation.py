"""Random changes of one signed index: whatever is accepted says exactly what was signed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from imgindex.errors import TrustError
from imgindex.gpg import GpgVerifier
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys
from tests.fakes.keys import KeyMaker, signature_packets, with_packets

TEXT = (
    f"[debian-12]\nname=Debian 12\nfile=debian-12.xz\narch=x86_64\nchecksum[sha512]={'ab' * 64}\nsize=4096\n"
    f"notes=A.\n B.\n\n[d-13]\nfile=d.xz\narch=x86_64\nchecksum[sha512]={'cd' * 64}\nsize=512\n\n"
)
COMMENTED = f"# Ours.\n\n# One.\n{TEXT}# The end.\n"
CHUNKS = 10
MUTANTS = int(os.environ.get("PYBUILDER_MUTANTS", "3000"))
"""Number per run; ``make fuzz`` tries 100,000."""

SEED = 20240612

PIECES: tuple[bytes, ...] = (
    *(b" ", b"\t", b"\n", b"\r", b"\r\n", b"\x0b", b"\x0c", b"\x00", b"-", b"- ", b"#", b"=", b"\n\n"),
    *(b"[evil]\n", b"file=evil.xz\n", b" " * 20_100 + b"\r[evil]\r", b"\xc2\x85", b"\xe2\x80\xa8"),
    *(b"Hash: SHA256\n", b"-----BEGIN PGP SIGNATURE-----\n", b"-----END PGP SIGNATURE-----\n"),
    b"-----BEGIN PGP SIGNED MESSAGE-----\n",
)


@dataclass(frozen=True)
class Base:
    """A good file that is changed.

    Attributes:
        data: The signed file.
        pin: The keys of its source.
        text: What was signed.
    """

    data: bytes
    pin: TrustedKeys
    text: str


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(PIECES) + data[place:]


def insert_at_line_end(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    lines[rng.randrange(len(lines))] += rng.choice(PIECES)
    return b"\n".join(lines)


def delete(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randint(1, 40) :]


def swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def repeat_part(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    end = rng.randrange(start, len(data)) + 1
    return data[:end] + data[start:end] + data[end:]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def change_packets(data: bytes, rng: random.Random) -> bytes:
    """Change bytes of the signature itself, in a frame that stays well-formed: all of these reach gpgv."""
    try:
        packets = bytearray(signature_packets(data))
    except (ValueError, IndexError):
        return flip_bit(data, rng)  # an earlier change has broken the frame
    if not packets:
        return data
    match rng.randrange(4):
        case 0:
            packets[rng.randrange(len(packets))] ^= 1 << rng.randrange(8)
        case 1:
            packets += packets[: rng.randrange(len(packets)) + 1]
        case 2:
            del packets[rng.randrange(len(packets)) :]
        case _:
            place = rng.randrange(len(packets) + 1)
            packets[place:place] = rng.randbytes(rng.randint(1, 8))
    return with_packets(data, bytes(packets))


def escape_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = b"- " + lines[number]
    return b"\n".join(lines)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bit,
    insert,
    insert_at_line_end,
    delete,
    swap_lines,
    repeat_part,
    truncate,
    escape_line,
    change_packets,
)


@pytest.fixture(scope="session")
def bases(keys: KeyMaker) -> list[Base]:
    """Good files of different kinds: one signature, two, and one by a subkey."""
    one, two = keys.make("mutation"), keys.make("mutation, second")
    sub = keys.add_subkey(two)
    return [
        Base(keys.sign(text, *signers), keys.pin(*pinned), text)
        for text, signers, pinned in (
            (TEXT, [one], [one]),
            (COMMENTED, [one, two], [one, two]),
            (TEXT, [sub], [two]),
        )
    ]


@pytest.mark.row("F4", "V6", "V7")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_accepted_means_equal(bases: list[Base], chunk: int) -> None:
    """V6, V7: what is accepted is the signed text, and all that is read."""
    verifier = GpgVerifier()
    expected = [
        parse_index(verifier.verify(base.data, base.pin, where="test"), where="test") for base in bases
    ]
    rng = random.Random(SEED + chunk)
    accepted = refused = 0
    for number in range(MUTANTS // CHUNKS):
        kind = rng.randrange(len(bases))
        base, mutant = bases[kind], bases[kind].data
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            mutant = rng.choice(CHANGES)(mutant, rng) or b"x"
        try:
            verified = verifier.verify(mutant, base.pin, where="test")
        except TrustError:
            refused += 1
            continue
        accepted += 1
        assert verified.text == base.text, f"chunk {chunk}, mutant {number}"
        assert parse_index(verified, where="test") == expected[kind]
    # Blanks at line ends, escaped dashes and trailing newlines are harmless: some must be accepted,
    # or this test would prove nothing.
    assert accepted >= MUTANTS // CHUNKS // 100
    assert refused >= MUTANTS // CHUNKS // 2
