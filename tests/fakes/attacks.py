"""Crafted indexes under the row IDs of the threat model: who must be refused, and who must not.

``World`` makes fresh keys; ``attacks`` and ``good_variants`` yield cases, each a file and the keys of its
source, that any reader of indexes can be tried with. Nothing here knows how a reader works.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from imgindex.trust import TrustedKeys
from tests.fakes.keys import KeyMaker, signature_packets, with_packets

SHA512 = "0123456789abcdef" * 8
TEXT = (
    "# The templates of example.org\n\n[debian-12]\nname=Debian 12\nfile=debian-12.xz\narch=x86_64\n"
    f"checksum[sha512]={SHA512}\nrevision=3\nsize=4096\nnotes=A note.\n \n Its end.\n\n"
    f"[debian-13]\nfile=debian-13.xz\narch=x86_64\nchecksum[sha512]={SHA512[::-1]}\nsize=40960\n\n"
)
EVIL = f"[evil]\nfile=evil.xz\narch=x86_64\nchecksum[sha512]={SHA512}\nsize=512\n"
BEGIN = b"-----BEGIN PGP SIGNED MESSAGE-----"
BEGIN_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
END_SIGNATURE = b"-----END PGP SIGNATURE-----"


@dataclass(frozen=True)
class Case:
    """One file, and the source that serves it.

    Attributes:
        row: ID of its row, such as ``S18``.
        name: What is special about it.
        data: The file.
        pin: The keys of the source.
        before: A file of the same source that was accepted before; None at first use.
    """

    row: str
    name: str
    data: bytes
    pin: TrustedKeys
    before: bytes | None = None


class World:
    """The keys of all cases, and a good file by the first of them.

    Args:
        keys: A private GnuPG home.
    """

    def __init__(self, keys: KeyMaker) -> None:
        self.keys = keys
        self.key = keys.make("Good <good@example.org>")
        self.evil_key = keys.make("Evil <evil@example.org>")
        self.rsa_key = keys.make("Old <old@example.org>", "rsa2048")
        self.pin = keys.pin(self.key)
        self.rsa_pin = keys.pin(self.rsa_key)
        self.good = self.sign(TEXT)

    def sign(self, text: str | bytes) -> bytes:
        """Sign with the good key."""
        return self.keys.sign(text, self.key)


def section(**changes: str | None) -> str:
    """Return a section of good fields, changed, added to or (None) left out; ``__`` stands for brackets."""
    fields: dict[str, str | None] = {
        "file": "a.xz",
        "arch": "x86_64",
        "size": "4096",
        "checksum[sha512]": SHA512,
    }
    name = changes.pop("section", None) or "a"
    for key, value in changes.items():
        base, _, subkey = key.partition("__")
        fields[f"{base}[{subkey}]" if subkey else base] = value
    lines = [f"{key}={value}" for key, value in fields.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, "", ""])


def attacks(world: World) -> Iterator[Case]:
    """Yield all files that must be refused."""
    for make in (_altered, _keys, _digests, _spliced, _around, _frame, _other_files, _fakes, _old):
        yield from make(world)
    for row, name, text in bad_texts():
        yield Case(row, name, world.sign(text), world.pin)


def _lines(data: bytes) -> tuple[list[bytes], range]:
    """Return the lines of a signed file, and the numbers of those that are signed."""
    lines = data.split(b"\n")
    return lines, range(lines.index(b"") + 1, lines.index(BEGIN_SIGNATURE))


def _altered(world: World) -> Iterator[Case]:
    lines, signed = _lines(world.good)
    start = world.good.index(b"\n\n") + 2
    for place in range(start, world.good.index(BEGIN_SIGNATURE), 29):
        flipped = bytearray(world.good)
        flipped[place] ^= 4
        yield Case("S2", f"bit of byte {place}", bytes(flipped), world.pin)
    for number in signed:
        if lines[number].strip():
            yield Case(
                "S2", f"without line {number}", b"\n".join(lines[:number] + lines[number + 1 :]), world.pin
            )
    for new in (b"x=1", b"# c", EVIL.encode()):
        yield Case("S2", f"with {new[:9]!r}", b"\n".join([*lines[:5], new, *lines[5:]]), world.pin)
    packets = bytearray(signature_packets(world.good))
    for place in range(0, len(packets), 9):
        changed = bytearray(packets)
        changed[place] ^= 1
        yield Case("S2", f"signature, byte {place}", with_packets(world.good, bytes(changed)), world.pin)


def _keys(world: World) -> Iterator[Case]:
    keys, pin = world.keys, world.pin
    yield Case("S3", "unlisted key", keys.sign(TEXT, world.evil_key), pin)
    both = TrustedKeys(pin.fingerprints, keys.export(world.key, world.evil_key))
    yield Case("S4", "unlisted key in the keyring", keys.sign(TEXT, world.evil_key), both)
    yield Case("S5", "key of another source", keys.sign(TEXT, world.rsa_key), pin)
    yield Case("S5", "the other way round", world.good, world.rsa_pin)
    revoked = keys.make("revoked")
    signed = keys.sign(TEXT, revoked)
    keys.revoke(revoked)
    yield Case("S6", "revoked", signed, keys.pin(revoked))
    yield Case("S6", "revoked, by gpgv alone", signed, replace(keys.pin(revoked), unusable=()))
    expired = keys.make("expired", expire="1y", at="20200101T000000")
    yield Case("S7", "expired", keys.sign(TEXT, expired, at="20200601T000000"), keys.pin(expired))
    old = keys.make("old", at="20200101T000000")
    data = keys.sign(TEXT, old, at="20200601T000000", options=("--default-sig-expire", "1d"))
    yield Case("S8", "expired signature", data, keys.pin(old))
    primary = keys.make("subkeys", at="20200101T000000")
    one = keys.add_subkey(primary, at="20200101T000000")
    two = keys.add_subkey(primary, expire="1m", at="20200102T000000")
    only_one = replace(keys.pin(primary), fingerprints=frozenset({one}))
    sibling = keys.add_subkey(primary)
    yield Case("S10", "sibling subkey", keys.sign(TEXT, sibling), only_one)
    yield Case("S10", "primary key", keys.sign(TEXT, primary), only_one)
    yield Case("S11", "expired subkey", keys.sign(TEXT, two, at="20200103T000000"), keys.pin(primary))
    by_one = keys.sign(TEXT, one)
    keys.revoke_subkey(primary, 1)
    yield Case("S11", "revoked subkey", by_one, keys.pin(primary))
    for kind in ("rsa1024", "dsa1024", "dsa2048"):
        weak = keys.make(kind, kind)
        yield Case("S14", kind, keys.sign(TEXT, weak), keys.pin(weak))
    yield Case("S15", "good and unknown key", keys.sign(TEXT, world.key, world.evil_key), pin)
    yield Case("S15", "unknown and good key", keys.sign(TEXT, world.evil_key, world.key), pin)
    rotation = replace(pin, extra_signatures=True)
    yield Case("S15", "unknown keys, rotation", keys.sign(TEXT, world.evil_key, world.rsa_key), rotation)
    yield Case("S30", "no keys at all", world.good, TrustedKeys(frozenset(), b""))
    yield Case("S30", "no keyring", world.good, TrustedKeys(pin.fingerprints, b""))
    yield Case(
        "S30",
        "armored keyring",
        world.good,
        TrustedKeys(pin.fingerprints, keys.export(world.key, armor=True)),
    )
    yield Case("S30", "no fingerprint", world.good, TrustedKeys(frozenset(), pin.keyring))


def _digests(world: World) -> Iterator[Case]:
    for digest, row, options in (("SHA1", "S12", ()), ("MD5", "S13", ("--allow-weak-digest-algos",))):
        signed = world.keys.sign(TEXT, world.rsa_key, digest=digest, options=options)
        header = f"Hash: {digest}\n".encode()
        for shown in (header, b"Hash: SHA256\n", b"Hash: SHA256," + header[6:], b"Hash: SHA512\n" + header):
            yield Case(row, f"{digest} shown as {shown!r}", signed.replace(header, shown), world.rsa_pin)


def _spliced(world: World) -> Iterator[Case]:
    other = world.sign(EVIL)
    good, bad = signature_packets(world.good), signature_packets(other)
    unknown = signature_packets(world.keys.sign(EVIL, world.evil_key))
    detached = world.keys.gpg("--local-user", world.key, "--detach-sign", data=TEXT.encode())
    lists = {
        "bad": bad,
        "good bad": good + bad,
        "bad good": bad + good,
        "good bad good": good + bad + good,
        "unknown good": unknown + good,
        "detached": detached,
        "good detached": good + detached,
        "nothing": b"",
        "half": good[: len(good) // 2],
        "a key": good + world.keys.export(world.key),
    }
    for name, packets in lists.items():
        row = "S32" if "detached" in name else "S17"
        yield Case(row, name, with_packets(world.good, packets), world.pin)
        if name not in {"nothing", "half", "unknown good"}:
            rotation = replace(world.pin, extra_signatures=True)
            yield Case(row, f"{name}, rotation", with_packets(world.good, packets), rotation)
    for count in (5, 130, 300, 5000):
        yield Case("S39", f"{count} signatures", with_packets(world.good, good * count), world.pin)
    evil = world.keys.sign(EVIL, world.evil_key)
    orders = {
        "good evil": (world.good, evil),
        "evil good": (evil, world.good),
        "good good": (world.good,) * 2,
    }
    for name, (first, second) in (
        orders | {"evil evil": (evil, evil), "good other": (world.good, other)}
    ).items():
        yield Case("S20", name, first + second, replace(world.pin, extra_signatures=True))
        yield Case("S20", f"{name}, no newline between", first.rstrip(b"\n") + second, world.pin)


def _around(world: World) -> Iterator[Case]:
    for before in (
        EVIL.encode(),
        b"\n",
        b"#\n",
        b"x",
        b"-----BEGIN PGP MESSAGE-----\n",
        "\ufeff".encode(),
        b"\0",
    ):
        yield Case("S18", f"{before[:9]!r} before", before + world.good, world.pin)
    for after in (
        b"\n" + EVIL.encode(),
        EVIL.encode(),
        b" ",
        b"\n\n#",
        b"\0",
        END_SIGNATURE + b"\n",
        b"\n- x",
        b"\r",
    ):
        yield Case("S19", f"{after[:9]!r} after", world.good + after, world.pin)
        if not after.startswith(b"\n["):
            stripped = world.good.rstrip(b"\n")
            yield Case("S19", f"{after[:9]!r} after, no newline between", stripped + after, world.pin)
    lines, _signed = _lines(world.good)
    ends = (b"\r", b"\x0b", b"\x0c", b"\x1c", b"\x85", "\u0085".encode(), "\u2028".encode(), b"")
    for number, end in enumerate(ends * 3):
        place = number * len(lines) // (len(ends) * 3)
        tail = b" " * 20_100 + end + b"[evil]" + end + b"file=evil.xz" + end
        changed = [*lines[:place], lines[place] + tail, *lines[place + 1 :]]
        yield Case("S21", f"tail {end!r} of line {place}", b"\n".join(changed), world.pin)
    long = world.sign(f"[a]\nnotes={'A' * 20_100}\n")
    yield Case("S22", "line longer than gpg signs", long, world.pin)
    yield Case("S22", "and its end changed", long.replace(b"AAA\n", b"AXA\n"), world.pin)


def _frame(world: World) -> Iterator[Case]:
    for headers in (
        b"Hash: SHA512\nHash: MD5\n",
        b"Hash: SHA512,MD5\n",
        b"Hash: SHA512\nNotDashEscaped: You need GnuPG\n",
        b"Hash: SHA512\nComment: [evil]\n",
        b"Comment: [evil]\nHash: SHA512\n",
        b"",
        b"Hash: SHA512\n[evil]\n",
        b"Hash: SHA512\n- [evil]\n",
        b"Hash: SHA512\nHash: " + b"X" * 30_000 + b"\n",
        b"Hash:SHA512\n",
        b"Hash: SHA512 \n",
        b"Hash: SHA256\n",
    ):
        yield Case("S23", f"{headers[:40]!r}", world.good.replace(b"Hash: SHA512\n", headers, 1), world.pin)
    for blank in (b" ", b"\t"):
        yield Case(
            "S24", f"{blank!r} as separator", world.good.replace(b"\n\n", b"\n" + blank + b"\n", 1), world.pin
        )
        for line in (BEGIN, BEGIN_SIGNATURE, END_SIGNATURE):
            yield Case("S24", f"{blank!r} after {line!r}", world.good.replace(line, line + blank), world.pin)
            yield Case("S24", f"{blank!r} before {line!r}", world.good.replace(line, blank + line), world.pin)
    yield Case("S24", "CR LF", world.good.replace(b"\n", b"\r\n"), world.pin)
    lines, signed = _lines(world.good)
    middle = signed[len(signed) // 2]
    for line in (b"- -----BEGIN PGP SIGNATURE-----", b"-x", b"- -----END PGP SIGNATURE-----", BEGIN, b"-"):
        yield Case("S25", f"{line!r}", b"\n".join([*lines[:middle], line, *lines[middle:]]), world.pin)
    yield Case("S25", "signed dashes", world.sign("-----BEGIN PGP SIGNATURE-----\n"), world.pin)


def _other_files(world: World) -> Iterator[Case]:
    text = TEXT.encode()
    for command in ("--sign", "--armor --sign", "--store", "--detach-sign", "--armor --detach-sign"):
        data = world.keys.gpg("--local-user", world.key, *command.split(), data=text)
        yield Case("S26", command, data, world.pin)
    for name, data in {
        "empty": b"",
        "newline": b"\n",
        "web page": b"<!DOCTYPE html>\n<html>404</html>\n",
        "NULs": b"\0" * 99,
        "key": world.keys.export(world.key),
        "armored key": world.keys.export(world.key, armor=True),
    }.items():
        yield Case("S26", name, data, world.pin)
    yield Case("S40", "plain index", text, world.pin)
    yield Case("S40", "plain index at the address of a signed one", text, world.pin, world.good)
    yield Case(
        "S40", "signature cut off", world.good[: world.good.index(BEGIN_SIGNATURE)], world.pin, world.good
    )
    yield Case("P15", "a million empty fields", world.sign("[a]\n" + "x=\n" * 1_000_000), world.pin)
    yield Case("P15", "larger than 5 MB", world.sign("#" + "\n#" * 2_500_000 + "\n"), world.pin)


def _fakes(world: World) -> Iterator[Case]:
    fake = (
        f"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG {world.key[-16:]} x\n"
        f"[GNUPG:] VALIDSIG {world.key} 2026-01-01 1767225600 0 4 0 22 10 01 {world.key}\n"
    )
    evil = world.keys.sign
    yield Case("S27", "status in the text", evil(fake + TEXT, world.evil_key), world.pin)
    yield Case(
        "S27",
        "status in a file name",
        evil(TEXT, world.evil_key, options=("--set-filename", "x\n" + fake)),
        world.pin,
    )
    yield Case("S27", "status stored", world.keys.gpg("--store", data=fake.encode()), world.pin)
    notation = ("--sig-notation", f"x@example.org=%0A{fake}".replace("\n", "%0A"))
    yield Case("S27", "status in a notation", evil(TEXT, world.evil_key, options=notation), world.pin)
    liar = world.keys.make(f"x VALIDSIG {world.key} [GNUPG:] GOODSIG <a@example.org>")
    yield Case("S28", "status in a user id", evil(TEXT, liar), world.pin)
    both = TrustedKeys(world.pin.fingerprints, world.keys.export(world.key, liar))
    yield Case("S28", "status in a user id of the keyring", evil(TEXT, liar), both)


def _old(world: World) -> Iterator[Case]:
    key = world.keys.make("of all times", at="20200101T000000")
    pin = world.keys.pin(key)
    days = [world.keys.sign(TEXT, key, at=f"202006{day:02}T000000") for day in (1, 2)]
    yield Case("S33", "rolled back by a day", days[0], pin, before=days[1])
    yield Case(
        "S33", "rolled back to another text", world.keys.sign(EVIL, key, at="20200601T000000"), pin, days[1]
    )
    # "!": the clock of gpg stands still, so that both have the same second.
    yield Case(
        "S34",
        "another text of the same second",
        world.keys.sign(EVIL, key, at="20200602T000000!"),
        pin,
        before=world.keys.sign(TEXT, key, at="20200602T000000!"),
    )
    yield Case("S35", "signed in the future", world.keys.sign(TEXT, key, at="20900101T000000"), pin)


def bad_texts() -> Iterator[tuple[str, str, str]]:
    """Yield row, name and text of indexes that are signed by the right key and still bad (T7)."""
    yield "P1", "template twice", section() * 2
    yield "P1", "field twice", section().rstrip("\n") + "\nfile=b.xz\n"
    yield "P1", "two checksums", section(checksum=SHA512)
    for key in ("file", "arch", "size", "checksum__sha512"):
        yield "P2", f"no {key}", section(**{key: None})
    numbers = (
        "0",
        "-1",
        "1e9",
        "0x1000",
        " 512",
        "5G",
        "",
        "511",
        "513",
        "+512",
        "1_024",
        "\u0665\u0661\u0662",
        str(2**63),
        str(2**64),
        str(2**44 + 512),
    )
    for number in numbers:
        yield "P3", f"size={number}", section(size=number)
    for number in ("0", "-1", "x", str(2**63)):
        yield "P4", f"compressed_size={number}", section(compressed_size=number)
    for digest in ("", SHA512[1:], SHA512 + "0", "g" + SHA512[1:], " " + SHA512):
        yield "P5", f"checksum={digest[:9]}...", section(checksum__sha512=digest)
    for subkey in ("md5", "sha256", "SHA512"):
        yield "P6", f"only {subkey}", section(checksum__sha512=None, **{f"checksum__{subkey}": SHA512})
    paths = (
        "../x",
        "a/../b",
        "/etc/passwd",
        "http://x/y",
        "file:///x",
        "//h/x",
        "a//b",
        ".",
        "",
        "%2e%2e/x",
        "a\\b",
        "x?y",
        "x#y",
        "a b",
        "u@h",
        "x" * 256,
        "-x",
        "\u00e4",
    )
    for path in paths:
        yield "P7", f"file={path[:20]}", section(file=path)
        yield (
            "P7",
            f"file[zstd]={path[:20]}",
            section(file__zstd=path, compressed_size__zstd="1", **{"checksum__zstd.sha512": SHA512}),
        )
    for name in ("../x", "a b", "-o", ".x", "a]x", "x" * 101, "\u00e4"):
        yield "P8", f"[{name[:20]}]", section(section=name)
    for arch in ("../../x", "", "a b", "-a"):
        yield "P9", f"arch={arch}", section(arch=arch)
    for revision in ("../x", str(2**63), "1.5", "-1", "0x1", ""):
        yield "P9", f"revision={revision}", section(revision=revision)
    for disk_format in ("json:{}", "vmdk", "RAW", "", "auto"):
        yield "P10", f"format={disk_format}", section(format=disk_format)
    for device in ("/dev/sda;rm", "sda", "/dev/../etc/passwd", "--x", "/dev/sda x"):
        yield "P11", f"expand={device}", section(expand=device)
        yield "P11", f"lvexpand={device}", section(lvexpand=device)
    yield "P12", "field first", "file=x\n" + section()
    yield "P12", "no field", section() + "junk\n"
    yield "P12", "continuation first", "[a]\n x\n"
    for name, bad in {
        "ESC": "\x1b[2J",
        "CSI": "\x9b2J",
        "U+2028": "\u2028[evil]",
        "U+0085": "\x85[evil]",
    }.items():
        yield "P16", name, section(name=f"a{bad}b")
    yield "P17", "alias of two", section(section="a", aliases="x") + section(section="b", aliases="x")
    for given in ("file__zstd", "compressed_size__zstd", "checksum__zstd.sha512"):
        value = {"file__zstd": "a.zst", "compressed_size__zstd": "1"}.get(given, SHA512)
        yield "D8", f"{given} alone", section(**{given: value})


def good_variants(world: World) -> Iterator[Case]:
    """Yield files that must be accepted: such as come from honest publishers and honest servers."""
    keys, good, pin = world.keys, world.good, world.pin
    yield Case("S1", "good", good, pin)
    for digest in ("SHA256", "SHA384"):
        yield Case("S1", digest, keys.sign(TEXT, world.key, digest=digest), pin)
    yield Case("S1", "again", good, pin, before=good)
    lines, signed = _lines(good)
    primary = keys.make("honest subkeys")
    sub = keys.add_subkey(primary)
    yield Case("S9", "signing subkey", keys.sign(TEXT, sub), keys.pin(primary))
    yield Case(
        "S10",
        "its fingerprint alone",
        keys.sign(TEXT, sub),
        replace(keys.pin(primary), fingerprints=frozenset({sub})),
    )
    sha1 = keys.make("of 2011", "rsa2048", options=("--cert-digest-algo", "SHA1"))
    yield Case("S12", "key with a SHA-1 self-signature", keys.sign(TEXT, sha1), keys.pin(sha1))
    for kind in ("nistp256", "nistp384", "nistp521", "brainpoolP256r1", "rsa2048", "rsa3072"):
        strong = keys.make(f"strong {kind}", kind)
        yield Case("S14", kind, keys.sign(TEXT, strong), keys.pin(strong))
    rotation = replace(pin, extra_signatures=True)
    yield Case("S15", "unknown second key, rotation", keys.sign(TEXT, world.key, world.evil_key), rotation)
    yield Case("S15", "unknown first key, rotation", keys.sign(TEXT, world.evil_key, world.key), rotation)
    both = keys.pin(world.key, world.rsa_key)
    for signers in ((world.key,), (world.rsa_key,), (world.key, world.rsa_key)):
        yield Case("S16", f"{len(signers)} of two pinned keys", keys.sign(TEXT, *signers), both)
    yield Case(
        "S8",
        "signature that expires later",
        keys.sign(TEXT, world.key, options=("--default-sig-expire", "1d")),
        pin,
    )
    yield Case("S19", "newlines at the end", good + b"\n\n", pin)
    yield Case("S19", "no newline at the end", good.rstrip(b"\n"), pin)
    for blank in (b" ", b"\t", b"  \t"):
        changed = [line + blank if number in signed else line for number, line in enumerate(lines)]
        yield Case("S24", f"{blank!r} after signed lines", b"\n".join(changed), pin)
    yield Case("S24", "blanks cut", b"\n".join(line.rstrip() for line in lines), pin)
    escaped = [b"- " + line if number in signed else line for number, line in enumerate(lines)]
    yield Case("S25", "all lines escaped", b"\n".join(escaped), pin)
    for header in (b"Version: GnuPG v1\n", b"Comment: made by hand\n"):
        yield Case(
            "S23",
            f"{header!r} in the armor",
            good.replace(BEGIN_SIGNATURE + b"\n", BEGIN_SIGNATURE + b"\n" + header),
            pin,
        )
    yield Case("S23", "armor without checksum", with_packets(good, signature_packets(good)), pin)
    yield Case("S39", "four signatures", with_packets(good, signature_packets(good) * 4), pin)
    notation = ("--sig-notation", "x@example.org=[GNUPG:] GOODSIG")
    yield Case("S27", "odd notation on a good signature", keys.sign(TEXT, world.key, options=notation), pin)
    for row, name, text in good_texts():
        yield Case(row, name, world.sign(text), pin)


def good_texts() -> Iterator[tuple[str, str, str]]:
    """Yield row, name and text of good indexes."""
    yield "P2", "smallest entry", section()
    yield "P1", "same name, other architecture", section() + section(arch="aarch64")
    yield "P3", "smallest and largest size", section(section="b", size="512") + section(size=str(2**44))
    yield "P5", "upper-case checksum", section(checksum__sha512=SHA512.upper())
    yield "P5", "bare checksum", section(checksum__sha512=None, checksum=SHA512)
    yield "P7", "path in a folder", section(file="dir/sub.d/a_b-c+d~e,f=g.xz")
    yield "P9", "largest revision", section(revision=str(2**63 - 1))
    yield "P10", "qcow2", section(format="qcow2", expand="/dev/sda3", lvexpand="/dev/vg/root")
    yield "P13", "notes in languages", section(notes="a\n \n b\n\n c", notes__de="", notes__pt_BR="\u00e7")
    yield "P13", "comments and empty lines", "# a\n\n" + section().replace("\n", "\n# c\n\n") + "# z\n"
    yield "P13", "no empty line between sections", section().rstrip("\n") + "\n" + section(section="b")
    yield "P14", "unknown fields", section(unknown="1", file__br="x", X_9="\u20ac")
    yield (
        "P17",
        "alias of another template's name",
        section(aliases="b c") + section(section="b", hidden="true"),
    )
    yield "P13", "dashes and status words in notes", section(notes="- x\n -----BEGIN\n [GNUPG:] GOODSIG")
    yield "P13", "no templates yet", "# soon\n"
    zstd = {"file__zstd": "a.zst", "compressed_size__zstd": "1", "checksum__zstd.sha512": SHA512}
    yield "D8", "zstd", section(**zstd)
