"""Writing an index, and that reading it back is the identity."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgindex.errors import RepositoryError
from imgindex.fields import entry_fields, is_known_field, settle_comments
from imgindex.model import Comment, Entry, ExtraField, FurtherFile, Index, Note
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from imgindex.write import tidy_note, write_index
from tests.fakes.fuzz import examples
from tests.fakes.indexes import random_index

ENTRY = Entry(os_version="debian-12", file="a.xz", arch="x86_64", size=512, sha512="ab" * 64)


def read(text: str) -> Index:
    return parse_index(UnverifiedText(text), where="test")


def test_order_and_layout() -> None:
    entry = Entry(
        os_version="phony",
        file="phony.xz",
        arch="x86_64",
        size=1024,
        name="Phony",
        osinfo="fedora14",
        sha512="ab" * 64,
        revision=42,
        format="raw",
        compressed_size=7,
        expand="/dev/sda1",
        lvexpand="/dev/VG/Root",
        notes=(Note("", "Phony.\n\n  indented"), Note("de", "Unecht.")),
        hidden=True,
        aliases=("one", "two"),
        sig="phony.xz.sig",
        zstd=FurtherFile("phony.zst", "cd" * 64, 8),
        extra=(ExtraField("file", "br", "phony.br"),),
    )
    assert write_index(Index((entry, ENTRY))) == (
        "[phony]\nname=Phony\nosinfo=fedora14\nfile=phony.xz\narch=x86_64\nsig=phony.xz.sig\n"
        f"checksum[sha512]={'ab' * 64}\nrevision=42\nformat=raw\nsize=1024\ncompressed_size=7\n"
        "expand=/dev/sda1\nlvexpand=/dev/VG/Root\nnotes=Phony.\n \n   indented\nnotes[de]=Unecht.\n"
        f"aliases=one two\nhidden=true\nfile[zstd]=phony.zst\nchecksum[zstd.sha512]={'cd' * 64}\n"
        "compressed_size[zstd]=8\nfile[br]=phony.br\n\n"
        f"[debian-12]\nfile=a.xz\narch=x86_64\nchecksum[sha512]={'ab' * 64}\nrevision=1\nsize=512\n\n"
    )


def test_empty_index() -> None:
    assert write_index(Index()) == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"notes": (Note("", "a "),)}, "blanks"),
        ({"notes": (Note("", "a\t\nb"),)}, "blanks"),
        ({"notes": (Note("", "a\n"),)}, "blanks"),
        ({"notes": (Note("", "a\n \n"),)}, "blanks"),
        ({"notes": (Note("", "a\rb"),)}, "CR LF"),
        ({"notes": (Note("", "\x1b[2J"),)}, "U+001B"),
        ({"notes": (Note("d-e", "a"),)}, "neither"),
        ({"notes": (Note("", "a"), Note("", "b"))}, "twice"),
        ({"notes": (Note("", "x" * 8187),)}, "longer"),
        ({"notes": (Note("", "a\n" + "\u00e4" * 4096),)}, "longer"),
        ({"name": "x "}, "blanks"),
        ({"name": "x\ny"}, "more than one line"),
        ({"name": "x\nhidden=true"}, "more than one line"),
        ({"name": "x\n[evil]"}, "more than one line"),
        ({"name": "x\n y"}, "more than one line"),
        ({"name": "\udcff"}, "U+DCFF"),
        ({"os_version": "a b"}, "section header"),
        ({"os_version": "-x"}, "name"),
        ({"file": "../x"}, "file"),
        ({"size": 513}, "multiple"),
        ({"size": -1}, "size"),
        ({"revision": -1}, "revision"),
        ({"format": "vmdk"}, "format"),
        ({"sha512": "AB" * 64}, "differently"),
        ({"sha512": "ab"}, "SHA-512"),
        ({"expand": "sda3"}, "expand"),
        ({"aliases": ("a b",)}, "differently"),
        ({"aliases": ("",)}, "differently"),
        ({"extra": (ExtraField("file", None, "x"),)}, "known field"),
        ({"extra": (ExtraField("notes", "de", "x"),)}, "known field"),
        ({"extra": (ExtraField("file", "zstd", "x"),)}, "known field"),
        ({"comments": (Comment("", "# a "),)}, "blanks"),
        ({"comments": (Comment("", "no comment"),)}, "neither"),
        ({"comments": (Comment("", "[evil]"),)}, "missing"),
        ({"comments": (Comment("", "# a\n\n# b"),)}, "differently"),
        ({"comments": (Comment("file", "sig=x"),)}, "differently"),
        ({"comments": (Comment("", ""),)}, "differently"),
        ({"comments": (Comment("expand", "# no such field here"),)}, "differently"),
        ({"comments": (Comment("size", "# b"), Comment("file", "# a"))}, "differently"),
        ({"comments": (Comment("", "# a"), Comment("", "# b"))}, "differently"),
        ({"comments": (Comment("", "#" + "x" * 8192),)}, "longer"),
        ({"comments": (Comment("", "# \x1b[2J"),)}, "U+001B"),
        ({"zstd": FurtherFile("../x", "ab" * 64, 1)}, "file[zstd]"),
        ({"zstd": FurtherFile("x", "AB" * 64, 1)}, "differently"),
        ({"zstd": FurtherFile("x", "ab" * 64, 0)}, "compressed_size[zstd]"),
        ({"extra": (ExtraField("a b", None, "x"),)}, "neither"),
        ({"extra": (ExtraField("a", None, "x"), ExtraField("a", None, "y"))}, "twice"),
        ({"extra": (ExtraField("a", None, "x "),)}, "blanks"),
    ],
)
def test_what_cannot_be_written(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        write_index(Index((replace(ENTRY, **changes),)))  # type: ignore[arg-type]
    assert problem in caught.value.message


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        (Index((ENTRY,), head="# a "), "blanks"),
        (Index((ENTRY,), tail="# a\n"), "blanks"),
        (Index((ENTRY,), head="x=1"), "before the first"),
        (Index((ENTRY,), tail="[evil]"), "missing"),
        (Index((ENTRY,), tail="x=1"), "differently"),
        (Index((ENTRY,), head="# a\n\n# b"), "differently"),
        (Index((), tail="# a"), "differently"),
        (Index((ENTRY,), tail="#" + "x" * 8192), "longer"),
    ],
)
def test_file_comments_that_cannot_be_written(index: Index, problem: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        write_index(index)
    assert problem in caught.value.message


def test_comments_are_written_where_they_were() -> None:
    text = (
        "# Head.\n#\n\n# About it.\n[debian-12]\n# Path.\nfile=a.xz\narch=x86_64\n# Digest,\n# of the file.\n"
        f"checksum[sha512]={'ab' * 64}\nrevision=1\nsize=512\n# The notes.\nnotes=a\n b\n# Ours.\nx[y]=1\n\n"
        "# Tail.\n"
    )
    assert write_index(read(text)) == text


def test_settled_comments() -> None:
    entry = replace(
        ENTRY,
        comments=(
            Comment("size", "# size"),
            Comment("expand", "# gone"),
            Comment("checksum", "# digest"),
            Comment("", "# header"),
            Comment("size", "# more"),
        ),
    )
    settled = settle_comments(entry)
    assert settled.comments == (
        Comment("", "# gone\n# header"),
        Comment("checksum[sha512]", "# digest"),
        Comment("size", "# size\n# more"),
    )
    assert read(write_index(Index((settled,)))) == Index((settled,))
    assert settle_comments(ENTRY) is ENTRY


def test_longest_line_fits() -> None:
    entry = replace(ENTRY, notes=(Note("", "x" * 8187),))
    with pytest.raises(RepositoryError):
        write_index(Index((entry,)))
    fits = Index((replace(ENTRY, notes=(Note("", "x" * (8192 - len("notes="))),)),))
    assert read(write_index(fits)) == fits


def test_same_template_twice() -> None:
    with pytest.raises(RepositoryError, match="twice"):
        write_index(Index((ENTRY, ENTRY)))


def test_tidy_note() -> None:
    assert tidy_note("a  \n\t\nb\n\n") == "a\n\nb"


@pytest.mark.row("R10")
@pytest.mark.parametrize(
    "text", ["- dash\n-- x", "From me", "[x]\n[evil]", "#x\n#y", "\ta\n\tb", "", "\n\na", "a=b"]
)
def test_odd_notes(text: str) -> None:
    index = Index((replace(ENTRY, notes=(Note("", text),)),))
    assert read(write_index(index)) == index


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=30)
LINES = st.lists(TEXTS, max_size=5).map("\n".join).map(tidy_note)
ONE_LINE = TEXTS.map(tidy_note)
SUBKEYS = st.from_regex(r"[A-Za-z0-9_,.]{1,8}", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z0-9_.]{1,8}", fullmatch=True)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
PATHS = st.from_regex(
    r"[A-Za-z0-9_+~][A-Za-z0-9._-]{0,8}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,8}){0,2}", fullmatch=True
)
EXTRAS = st.builds(ExtraField, KEYS, st.none() | SUBKEYS, LINES).filter(
    lambda e: not is_known_field(e.key, e.subkey)
)
COMMENT = st.lists(ONE_LINE.map("#{}".format), min_size=1, max_size=3).map("\n".join)


def with_comments(entry: Entry, texts: list[str | None]) -> Entry:
    """Put a text before each field of an entry, and the first one before its header, as far as they reach."""
    labels = ["", *(label for label, _value in entry_fields(entry))]
    pairs = zip(labels, texts, strict=False)
    return settle_comments(replace(entry, comments=tuple(Comment(la, text) for la, text in pairs if text)))


PLAIN_ENTRIES = st.builds(
    Entry,
    os_version=NAMES,
    file=PATHS,
    arch=st.sampled_from(["x86_64", "aarch64"]),
    size=st.integers(1, 2**34).map(lambda sectors: sectors * 512),
    name=st.none() | ONE_LINE,
    osinfo=st.none() | ONE_LINE,
    sha512=st.none() | st.from_regex(r"[0-9a-f]{128}", fullmatch=True),
    revision=st.integers(0, 2**63 - 1),
    format=st.sampled_from([None, "raw", "qcow2"]),
    compressed_size=st.none() | st.integers(1, 2**40),
    expand=st.none() | st.just("/dev/sda3"),
    lvexpand=st.none() | st.just("/dev/vg/root"),
    notes=st.lists(
        st.builds(Note, st.just("") | SUBKEYS, LINES), unique_by=lambda n: n.language, max_size=3
    ).map(tuple),
    hidden=st.booleans(),
    sig=st.none() | PATHS,
    zstd=st.none()
    | st.builds(FurtherFile, PATHS, st.from_regex(r"[0-9a-f]{128}", fullmatch=True), st.integers(1, 2**40)),
    extra=st.lists(EXTRAS, unique_by=lambda e: (e.key, e.subkey), max_size=3).map(tuple),
)
ENTRIES = st.builds(with_comments, PLAIN_ENTRIES, st.lists(st.none() | COMMENT, max_size=12))
INDEXES = st.lists(ENTRIES, max_size=3, unique_by=lambda entry: (entry.os_version, entry.arch)).flatmap(
    lambda entries: st.builds(
        Index,
        st.just(tuple(entries)),
        st.just("") | COMMENT,
        (st.just("") | COMMENT) if entries else st.just(""),
    )
)


@pytest.mark.row("P19")
@settings(max_examples=examples(40), deadline=None)
@given(INDEXES)
def test_reading_what_was_written(index: Index) -> None:
    check_read_and_write(index)


def check_read_and_write(index: Index) -> None:
    text = write_index(index)
    assert read(text) == index
    # A clear signature keeps no blanks at line ends, and nothing may depend on them.
    assert read("".join(line.rstrip(" \t") + "\n" for line in text.split("\n")[:-1])) == index
    assert "\n\n\n" not in text


def comment_lines(text: str) -> list[str]:
    return sorted(line for line in text.split("\n") if line.startswith("#"))


@settings(max_examples=examples(40), deadline=None)
@given(INDEXES, st.randoms(use_true_random=False), st.lists(ONE_LINE.map("#{}".format), max_size=6))
def test_an_edited_index_survives_a_read_and_write(index: Index, rng: Random, comments: list[str]) -> None:
    check_edited(index, rng, comments)


@pytest.mark.row("P19")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("chunk", range(10))
def test_random_indexes(chunk: int) -> None:
    """The same as both tests above, so often as hypothesis has neither the time nor the memory for."""
    for number in range(examples(100) // 10):
        seed = f"{chunk}/{number}"
        rng = Random(seed)
        index = random_index(rng)
        try:
            check_read_and_write(index)
            check_edited(index, rng, [f"# {rng.random()}" for _ in range(rng.randrange(4))])
        except Exception as error:
            raise AssertionError(f"random_index(Random({seed!r})): {index}") from error


def check_edited(index: Index, rng: Random, comments: list[str]) -> None:
    """An editor writes comments and empty lines anywhere, and changes the order of fields."""
    lines = write_index(index).split("\n")[:-1]
    for comment in [*comments, *[""] * rng.randrange(4)]:
        lines.insert(rng.randrange(len(lines) + 1), comment)
    text = "".join(f"{line}\n" for line in shuffled_fields(lines, rng))
    edited = read(text)
    again = write_index(edited)
    assert read(again) == edited
    assert comment_lines(again) == comment_lines(text)
    assert write_index(read(again)) == again
    assert [replace(entry, comments=(), notes=(), extra=()) for entry in edited.entries] == [
        replace(entry, comments=(), notes=(), extra=()) for entry in index.entries
    ]


def shuffled_fields(lines: list[str], rng: Random) -> list[str]:
    """Change the order of the fields of one section; each keeps its comments and further lines."""
    headers = [number for number, line in enumerate(lines) if line.startswith("[")]
    if not headers:
        return lines
    start = rng.choice(headers) + 1
    end = min([number for number in headers if number > start], default=len(lines))
    fields: list[list[str]] = [[]]
    for line in lines[start:end]:
        if line and not line.startswith(("#", " ")):
            fields.append([])
        fields[-1].append(line)
    first, *others = fields
    rng.shuffle(others)
    return [*lines[:start], *first, *(line for field in others for line in field), *lines[end:]]
