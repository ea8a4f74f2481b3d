"""The meaning of an index; rows P1 to P19 of the threat model, named by their IDs."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgindex.errors import IndexSyntaxError
from imgindex.fields import is_known_field, strip_line_ends
from imgindex.model import Comment, Entry, ExtraField, FurtherFile, Index, Note
from imgindex.parse import parse_index, parse_usable
from imgindex.trust import UnverifiedText, VerifiedText
from tests.fakes.fuzz import examples

SHA512 = "0123456789abcdef" * 8
GOOD = {"file": "a.xz", "arch": "x86_64", "size": "1073741824", "checksum[sha512]": SHA512}


def section(name: str = "debian-12", /, **changes: str | None) -> str:
    """One section of good fields, changed, added to or (None) left out; ``__`` stands for ``[``, ``]``."""
    fields: dict[str, str | None] = {**GOOD}
    for key, value in changes.items():
        base, _, subkey = key.partition("__")
        fields[f"{base}[{subkey}]" if subkey else base] = value
    lines = [f"{key}={value}" for key, value in fields.items() if value is not None]
    return "\n".join([f"[{name}]", *lines, "", ""])


def verified(text: str) -> VerifiedText:
    return VerifiedText(text, "A" * 40, "A" * 40, datetime(2026, 1, 1, tzinfo=UTC), None)


def parse(text: str) -> Index:
    return parse_index(verified(text), where="test")


def only(text: str) -> Entry:
    (entry,) = parse(text).entries
    return entry


def refuse(text: str, problem: str = "") -> IndexSyntaxError:
    with pytest.raises(IndexSyntaxError) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert caught.value.line is not None
    return caught.value


def test_smallest_entry_has_the_documented_defaults() -> None:
    assert only(section()) == Entry("debian-12", "a.xz", "x86_64", 2**30, sha512=SHA512)
    assert only(section()).revision == 1


def test_full_entry() -> None:
    text = section().rstrip("\n") + (
        "\nname=Debian 12\nosinfo=debian12\nsig=a.xz.sig\nrevision=42\nformat=qcow2\ncompressed_size=77\n"
        "expand=/dev/sda3\nlvexpand=/dev/vg/root\nnotes=Line 1\n\n Line 2\nnotes[de]=Zeile\nhidden=true\n"
        "aliases=a b\nfile[zstd]=a.zst\nx.y=1\n 2\nfile[br]=a.br\ncompressed_size[zstd]=80\n"
        f"checksum[zstd.sha512]={SHA512.upper()}\n"
    )
    assert only(text) == Entry(
        os_version="debian-12",
        file="a.xz",
        arch="x86_64",
        size=2**30,
        name="Debian 12",
        osinfo="debian12",
        sha512=SHA512,
        revision=42,
        format="qcow2",
        compressed_size=77,
        expand="/dev/sda3",
        lvexpand="/dev/vg/root",
        notes=(Note("", "Line 1\n\nLine 2"), Note("de", "Zeile")),
        hidden=True,
        aliases=("a", "b"),
        sig="a.xz.sig",
        zstd=FurtherFile("a.zst", SHA512, 80),
        extra=(ExtraField("x.y", None, "1\n2"), ExtraField("file", "br", "a.br")),
    )


def test_entry_knows_its_line() -> None:
    assert [entry.line for entry in parse("# x\n" + section("a") + section("b")).entries] == [2, 8]


@pytest.mark.row("P1")
def test_duplicate_name_and_arch() -> None:
    error = refuse(section() + section(file="b.xz"), "twice")
    assert error.line == 7
    assert len(parse(section() + section(arch="aarch64")).entries) == 2


@pytest.mark.row("P1")
def test_duplicate_field() -> None:
    assert refuse(section().rstrip("\n") + "\nfile=b.xz\n", "file is given twice").line == 6
    refuse(section(notes__de="1").rstrip("\n") + "\nnotes[de]=2\n", "notes[de] is given twice")
    refuse(section(unknown="1").rstrip("\n") + "\nunknown=2\n", "twice")


@pytest.mark.row("P1")
def test_two_checksums_even_if_equal() -> None:
    refuse(section(checksum=SHA512), "both checksum")


def test_bare_checksum_is_sha512() -> None:
    assert only(section(checksum__sha512=None, checksum=SHA512)).sha512 == SHA512


@pytest.mark.row("P2")
@pytest.mark.parametrize("key", ["file", "arch", "size"])
def test_missing_field(key: str) -> None:
    refuse(
        "".join(line + "\n" for line in section().split("\n") if not line.startswith(f"{key}=")),
        f"{key} missing",
    )


@pytest.mark.row("P2", "V7")
def test_verified_without_checksum_even_with_sig() -> None:
    """V7: one bad entry refuses the index."""
    refuse(section(checksum__sha512=None), "checksum")
    refuse(section(checksum__sha512=None, sig="a.sig"), "checksum")
    refuse(section("good") + section(checksum__sha512=None), "checksum")


def test_unverified_without_checksum_is_read() -> None:
    text = section(checksum__sha512=None)
    (entry,) = parse_index(UnverifiedText(text), where="test").entries
    assert entry.sha512 is None


@pytest.mark.row("P3")
@pytest.mark.parametrize(
    "size",
    [
        "0",
        "-1",
        "+1",
        "1e9",
        "0x200",
        " 512",
        "5G",
        str(2**63),
        str(2**64),
        "\u0661\u0662",
        "511",
        "513",
        "",
        "512.0",
        "1_024",
        "0b1000000000",
        str(16 * 2**40 + 512),
        "9" * 5000,
        "512\n 0",
        "\uff15\uff11\uff12",
    ],
)
def test_size(size: str) -> None:
    refuse(section(size=size), "size")


@pytest.mark.row("P3")
@pytest.mark.parametrize(("text", "size"), [("512", 512), (str(16 * 2**40), 16 * 2**40), ("00512", 512)])
def test_good_sizes(text: str, size: int) -> None:
    assert only(section(size=text)).size == size


@pytest.mark.row("P4")
@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1 2", str(2**63)])
def test_compressed_size(value: str) -> None:
    refuse(section(compressed_size=value), "compressed_size")


@pytest.mark.row("P5")
@pytest.mark.parametrize(
    "checksum",
    ["", SHA512[:-1], SHA512 + "0", "g" + SHA512[1:], SHA512[:60] + " " + SHA512[61:], " " + SHA512],
)
def test_checksum(checksum: str) -> None:
    refuse(section(checksum__sha512=checksum), "SHA-512")


@pytest.mark.row("P5")
def test_upper_case_checksum_is_lowered() -> None:
    assert only(section(checksum__sha512=SHA512.upper())).sha512 == SHA512


@pytest.mark.row("P6")
@pytest.mark.parametrize("subkey", ["md5", "sha256", "SHA512", "zstd.sha512"])
def test_other_checksums_do_not_count(subkey: str) -> None:
    refuse(section(checksum__sha512=None, **{f"checksum__{subkey}": SHA512}), "checksum[sha512] is missing")


BAD_PATHS = (
    "../x",
    "a/../b",
    "a/..",
    "..",
    "/etc/passwd",
    "http://x/y",
    "file:///x",
    "json:x",
    "//h/x",
    "a//b",
    "a/",
    ".",
    "./x",
    "a/./b",
    "",
    "%2e%2e/x",
    "%2E%2E/x",
    "a%2fb",
    "a\\b",
    "x?y",
    "x#y",
    "a b",
    " a",
    "a\tb",
    "-x",
    "a/-x",
    "u@h",
    "\u00e4.xz",
    "x" * 256,
    "/".join(["x" * 100] * 11),
    "x\n y",
)


@pytest.mark.row("P7")
@pytest.mark.parametrize("path", BAD_PATHS)
@pytest.mark.parametrize("key", ["file", "sig"])
def test_paths(key: str, path: str) -> None:
    refuse(section(**{key: path}), key)


@pytest.mark.row("P7")
@pytest.mark.parametrize("path", ["a.xz", "dir/sub.d/a_b-c+d~e,f=g.xz", "...", ".hidden", "x" * 255])
def test_good_paths(path: str) -> None:
    assert only(section(file=path)).file == path


@pytest.mark.row("P8")
@pytest.mark.parametrize("name", ["../x", "a b", "", "-o", ".x", "_x", "a]x", "x" * 101, "x" * 300, "\u00e4"])
def test_section_names(name: str) -> None:
    refuse(section(name))


@pytest.mark.row("P8")
@pytest.mark.parametrize("name", ["a", "9", "x" * 100, "debian-12.1_x"])
def test_good_section_names(name: str) -> None:
    assert only(section(name)).os_version == name


@pytest.mark.row("P9")
@pytest.mark.parametrize("arch", ["../../x", "", "a b", "a/b", "-a", "a.b", "x" * 33, "x86_64 ", "\u00e4"])
def test_arch(arch: str) -> None:
    refuse(section(arch=arch), "arch")


@pytest.mark.row("P9")
@pytest.mark.parametrize(
    "revision", ["../x", str(2**63), "9" * 100, "1.5", "text", "-1", "+1", "0x1", "1_0", "", " 1", "\u0661"]
)
def test_revision(revision: str) -> None:
    refuse(section(revision=revision), "revision")


@pytest.mark.row("P9")
@pytest.mark.parametrize("revision", [0, 1, 2**63 - 1])
def test_good_revisions(revision: int) -> None:
    assert only(section(revision=str(revision))).revision == revision


@pytest.mark.row("P10")
@pytest.mark.parametrize("disk_format", ["json:{}", "vmdk", "RAW", "", "raw ", "qcow", "auto"])
def test_format(disk_format: str) -> None:
    refuse(section(format=disk_format), "format")


@pytest.mark.row("P11")
@pytest.mark.parametrize(
    "device",
    [
        "/dev/sda;rm",
        "",
        "sda3",
        "/dev",
        "/dev/",
        "/dev//sda",
        "/dev/../etc",
        "/dev/a/..",
        "/dev/.",
        "-x",
        "/etc/x",
        "/dev/a/b/c/d",
        "/dev/sda3 --x",
        "/dev/" + "x" * 101,
        "/dev/sda\n 3",
    ],
)
@pytest.mark.parametrize("key", ["expand", "lvexpand"])
def test_devices(key: str, device: str) -> None:
    refuse(section(**{key: device}), key)


@pytest.mark.row("P11")
@pytest.mark.parametrize(
    "device", ["/dev/sda3", "/dev/vg_x/root-1", "/dev/mapper/a--b+c", "/dev/disk/by-id/x"]
)
def test_good_devices(device: str) -> None:
    assert only(section(lvexpand=device)).lvexpand == device


@pytest.mark.row("P12")
def test_lines_that_are_no_fields_name_their_line() -> None:
    assert refuse("file=x\n" + section()).line == 1
    assert refuse(section() + "junk\n").line == 7
    assert refuse("[a]\n x\n").line == 2


@pytest.mark.row("P13")
def test_notes_comments_and_blank_lines() -> None:
    text = "# head\n\n" + section(notes="", notes__de="eins\n# comment\n zwei\n\n drei  \n \n")
    assert only(text).notes == (Note("", ""), Note("de", "eins\nzwei\n\ndrei"))


def test_signing_does_not_change_notes() -> None:
    """Clear-signing cuts blanks at line ends; an index reads the same before and after."""
    text = section(notes="one\n \n two\n  \n \n")
    signed = "".join(line.rstrip(" \t") + "\n" for line in text.removesuffix("\n").split("\n"))
    assert parse(text) == parse(signed)
    assert only(signed).notes == (Note("", "one\n\ntwo"),)


@pytest.mark.row("P14")
def test_unknown_fields_are_kept_in_order() -> None:
    entry = only(section(b="2", a="1", expand__x="3"))
    assert entry.extra == (
        ExtraField("b", None, "2"),
        ExtraField("a", None, "1"),
        ExtraField("expand", "x", "3"),
    )
    assert entry.expand is None


@pytest.mark.row("P16")
@pytest.mark.parametrize("character", ["\x00", "\x1b", "\r", "\x07", "\x7f", "\x9b"])
def test_control_characters(character: str) -> None:
    refuse(section(name__x=f"a{character}b"))


@pytest.mark.parametrize("hidden", ["True", "1", "yes", "", "true\n false"])
def test_hidden_is_true_or_false(hidden: str) -> None:
    refuse(section(hidden=hidden), "hidden")
    assert only(section(hidden="false")).hidden is False


@pytest.mark.parametrize("key", ["osinfo", "aliases"])
def test_texts_have_one_line(key: str) -> None:
    refuse(section(**{key: "a\n b"}), "more than one line")


@pytest.mark.row("P17")
def test_aliases() -> None:
    assert only(section(aliases="a  b ")).aliases == ("a", "b")
    refuse(section(aliases="a\tb"), "alias")
    refuse(section(aliases="x" * 101), "alias")


@pytest.mark.row("P17")
def test_alias_of_two_templates() -> None:
    two = section("a", aliases="x") + section("b", aliases="y x")
    refuse(two, "same alias 'x'")
    assert len(parse(section("a", aliases="x") + section("b", aliases="x", arch="i686")).entries) == 2
    assert len(parse(section("a", aliases="x") + section("x")).entries) == 2


@pytest.mark.row("P15", "P18")
def test_size_is_no_trouble() -> None:
    many = "".join(section(f"n{number}") for number in range(2000))
    assert len(parse(many).entries) == 2000
    notes = section(notes="x\n" + " y\n" * 10_000)
    assert only(notes).notes[0].text.count("\n") == 10_000
    refuse("[" * 1_000_000 + "\n")
    refuse("[a]\n[a" + "\t" * 1_000_000 + "x\n")
    refuse("[a]\nexpand=/dev/" + "a/" * 400_000 + "\n")


@pytest.mark.row("P15")
@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ('"".join(f"[a{number}]\\nfile=a\\narch=x\\nsize=512\\n" for number in range(20_000))', 20_000),
        ('"".join(["[a]\\nfile=a\\narch=x\\nsize=512\\n", *(f"{n:x}=\\n" for n in range(99_990))])', 1),
    ],
    ids=["templates", "fields"],
)
def test_memory_is_a_few_times_the_text_however_many_lines(text: str, entries: int) -> None:
    code = f"""
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
text = {text}
assert len(parse_index(UnverifiedText(text), where="test").entries) == {entries}
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # ru_maxrss begins with the parent's
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 70_000  # KiB, of which an interpreter alone has 20,000


def test_strip_line_ends() -> None:
    assert strip_line_ends(" a \t\n\n b\n \n\n") == " a\n\n b"


def test_known_fields() -> None:
    assert is_known_field("notes", "de")
    assert is_known_field("checksum", "sha512")
    assert is_known_field("checksum", "zstd.sha512")
    assert is_known_field("file", "zstd")
    assert is_known_field("file", "blocks")
    assert not is_known_field("sig", "zstd")
    assert not is_known_field("file", "xz")


FRAGMENTS = st.sampled_from(
    [
        "[a]",
        "[b-1]",
        "[-]",
        "file=",
        "arch=",
        "size=",
        "checksum[sha512]=",
        SHA512,
        "512",
        "x86_64",
        "a.xz",
        "\n",
        " ",
        "\t",
        "=",
        "[",
        "]",
        "#",
        "notes=",
        "notes[de]=",
        "aliases=a b",
        "\x00",
        "\r",
        "\ufeff",
        "\x85",
        "../",
    ]
)


@pytest.mark.row("P19")
@pytest.mark.timeout(7200)
@settings(max_examples=examples(60), deadline=None)
@given(st.one_of(st.text(), st.lists(FRAGMENTS, max_size=40).map("".join)))
def test_any_text_is_an_index_or_a_syntax_error(text: str) -> None:
    for source in (verified(text), UnverifiedText(text)):
        for read in (parse_index, parse_usable):
            try:
                index = read(source, where="test")
            except IndexSyntaxError:
                continue
            assert all(entry.file and entry.size % 512 == 0 for entry in index.entries)
            if isinstance(source, VerifiedText):
                assert all(entry.sha512 for entry in index.entries)


ZSTD: dict[str, str | None] = {
    "file__zstd": "a.zst",
    "compressed_size__zstd": "80",
    "checksum__zstd.sha512": SHA512,
}


BLOCKS: dict[str, str | None] = {key.replace("zstd", "blocks"): value for key, value in ZSTD.items()}


def test_list_of_blocks() -> None:
    entry = only(section(**ZSTD, **BLOCKS))
    assert entry.blocks == FurtherFile("a.zst", SHA512, 80)
    assert not entry.extra
    refuse(section(**BLOCKS), "there is file[blocks], but file[zstd] missing")
    for key in BLOCKS:
        refuse(section(**ZSTD, **{**BLOCKS, key: None}), "missing")
        refuse(section(**ZSTD, **{**BLOCKS, key: "../x"}))


def test_zstd_file() -> None:
    assert only(section(**ZSTD)).zstd == FurtherFile("a.zst", SHA512, 80)
    assert only(section()).zstd is None
    # It is a second file next to the first, never instead of it.
    refuse(section(file=None, **ZSTD), "file missing")
    refuse(section(checksum__sha512=None, **ZSTD), "checksum[sha512] is missing")


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"file__zstd"}, "compressed_size[zstd] and checksum[zstd.sha512] missing"),
        ({"compressed_size__zstd"}, "file[zstd] and checksum[zstd.sha512] missing"),
        ({"checksum__zstd.sha512"}, "file[zstd] and compressed_size[zstd] missing"),
        ({"file__zstd", "checksum__zstd.sha512"}, "but compressed_size[zstd] missing"),
        ({"file__zstd", "compressed_size__zstd"}, "but checksum[zstd.sha512] missing"),
        ({"compressed_size__zstd", "checksum__zstd.sha512"}, "but file[zstd] missing"),
    ],
)
def test_zstd_all_or_nothing(given: set[str], missing: str) -> None:
    text = section(**{key: ZSTD[key] for key in sorted(given)})
    assert refuse(text, missing).line == 6
    with pytest.raises(IndexSyntaxError):
        parse_index(UnverifiedText(text), where="test")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("file__zstd", value) for value in ("../a.zst", "/a.zst", "http://x/a", "a%2fb", "", ".", "a//b")),
        *(("compressed_size__zstd", value) for value in ("0", "-1", "1e3", " 5", "0x5", str(2**63), "")),
        *(
            ("checksum__zstd.sha512", value)
            for value in (SHA512[1:], SHA512 + "0", "g" * 128, "", " " + SHA512)
        ),
        *((key, f"{value}\n x") for key, value in ZSTD.items()),
    ],
)
def test_zstd_same_rules_as_for_the_first_file(key: str, value: str) -> None:
    refuse(section(**{**ZSTD, key: value}))


@pytest.mark.parametrize("key", ZSTD)
def test_zstd_key_twice(key: str) -> None:
    base, _, subkey = key.partition("__")
    refuse(section(**ZSTD).rstrip("\n") + f"\n{base}[{subkey}]={ZSTD[key]}\n", "given twice")


def test_comments_belong_to_what_follows() -> None:
    text = (
        "# one\n\n# two\n\n# three  \n[a]\n#four\nfile=a.xz\n# five\n\n# six\narch=x86_64\n"
        f"size=512\n# seven\nchecksum={SHA512}\nnotes=a\n# eight\n b\n# nine\nhidden=false\n# ten\n\n"
        "# eleven\n[b]\nfile=b.xz\narch=x86_64\nsize=512\n"
        f"checksum[sha512]={SHA512}\n# twelve\n\n# thirteen\n\n"
    )
    index = parse(text)
    assert (index.head, index.tail) == ("# one\n# two", "# twelve\n# thirteen")
    assert index.entries[0].comments == (
        Comment("", "# three\n# eight\n# nine"),
        Comment("arch", "# five\n# six"),
        Comment("checksum[sha512]", "# seven"),
        Comment("file", "#four"),
    )
    assert index.entries[0].notes == (Note("", "a\nb"),)
    assert index.entries[1].comments == (Comment("", "# ten\n# eleven"),)


def test_comments_of_an_index_without_templates() -> None:
    for text in ("# a\n# b\n", "# a\n\n# b\n\n", "\n# a\n# b\n"):
        assert parse(text) == Index(head="# a\n# b")
    assert parse("# a\n" + section()).entries[0].comments == (Comment("", "# a"),)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", "a\n b"), ("osinfo", "a\n b"), ("file", "../x"), ("arch", "a b"), ("sig", "/x"),
        ("checksum[sha512]", "ab"), ("revision", "x"), ("format", "vmdk"), ("size", "1G"),
        ("compressed_size", "0"),
        ("expand", "sda"), ("lvexpand", "x"), ("hidden", "yes"), ("aliases", "a\tb"), ("file[zstd]", "../x"),
        ("compressed_size[zstd]", "x"), ("checksum[zstd.sha512]", "x"),
    ],
)  # fmt: skip
def test_every_field_error_names_file_line_template_and_field(key: str, value: str) -> None:
    lines = [
        "# signed",
        "[good]",
        *[f"{name}={text}" for name, text in GOOD.items()],
        "",
        "[debian-12]",
    ]
    fields = {**GOOD, "name": "x", "file[zstd]": "a", "compressed_size[zstd]": "1"}
    fields |= {"checksum[zstd.sha512]": SHA512, key: value}
    for name, text in fields.items():
        if name == key:
            number = len(lines) + 1
        lines += f"{name}={text}".split("\n")
    text = "\n".join([*lines, ""])
    with pytest.raises(IndexSyntaxError) as caught:
        parse_index(UnverifiedText(text, first_line=4), where="/srv/index.asc")
    assert caught.value.message.startswith(f"/srv/index.asc: line {number + 3}: template debian-12: ")
    assert (key if key != "aliases" else "alias") in caught.value.problem


ODD: dict[str, str] = {
    "no digest": section("odd", checksum__sha512=None),
    "short digest": section("odd", checksum__sha512="ab"),
    "huge size": section("odd", size="9" * 5000),
    "another format": section("odd", format="vmdk"),
    "a date for a revision": section("odd", revision="2026-01-01"),
    "no such arch": section("odd", arch="x86 64"),
    "outside": section("odd", file="../a"),
    "a name that is none": section("odd" * 50),
    "a key twice": section("odd").rstrip("\n") + "\nsize=512\n\n",
    "another control": section("odd", notes="a\u009b31mred"),
    "another line end": section("odd", name="a\u2028b"),
    "half a zstd": section("odd", file__zstd="a"),
    "twice": section("odd") * 2,
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_entry_takes_only_itself_away(odd: str) -> None:
    text = section("first") + odd + section("last")
    with pytest.raises(IndexSyntaxError) as caught:
        parse(text)
    index = parse_usable(verified(text), where="test")
    assert [entry.os_version for entry in index.entries] == ["first", "last"]
    (refused,) = index.refused
    assert refused.problem.message == caught.value.message
    assert refused.names[0].startswith("odd")
    assert refused.arch in ("x86_64", "x86 64")


def test_an_alias_of_two_is_nobody_s_and_is_named() -> None:
    text = section("a", aliases="x own") + section("b", aliases="x") + section("c", arch="i686", aliases="x")
    index = parse_usable(verified(text), where="test")
    assert [entry.aliases for entry in index.entries] == [("own",), (), ("x",)]
    (refused,) = index.refused
    assert (refused.names, refused.arch) == (("x",), "x86_64")


@pytest.mark.parametrize("text", ["junk\n", "[a]\nfile=x", "[a]\n\x00=1\n", "file=x\n", "[a b]\n"])
def test_what_is_no_index_at_all_is_refused_whole(text: str) -> None:
    with pytest.raises(IndexSyntaxError):
        parse_usable(verified(section() + text if not text.startswith("file") else text), where="test")


@pytest.mark.timeout(7200)
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.sampled_from([*ODD.values(), section("x"), section("y"), section("z", aliases="x y")])))
def test_users_and_publishers_read_the_same(sections: list[str]) -> None:
    """The rest is the very index of the right entries alone, and nothing left out is not named."""
    text = "".join(sections)
    index = parse_usable(verified(text), where="test")
    try:
        assert parse(text) == index
        assert index.refused == ()
    except IndexSyntaxError:
        assert index.refused
    counted = len(index.entries) + len(index.refused)
    assert counted <= sum(text.count("\n[") for text in [f"\n{text}"])
    known = {entry.os_version for entry in index.entries}
    assert known.isdisjoint(item.names[0] for item in index.refused if item.names[0] != "x")


def test_what_clashes_is_named_once_and_takes_linear_space() -> None:
    """A first entry with many aliases, and many more of the same name; many that claim one alias."""
    many = " ".join(f"a{number}" for number in range(20_000))
    text = section("x", aliases=many) + section("x") * 5_000 + section("x", aliases="late")
    text += "".join(section(f"y{number}", aliases="shared") for number in range(5_000))
    index = parse_usable(verified(text), where="test")
    assert len(index.entries) == 5_000
    assert {"x", "a0", "a19999", "late", "shared"} <= {name for item in index.refused for name in item.names}
    assert len(index.refused) == 2
    assert sum(len(item.names) for item in index.refused) == 20_003
