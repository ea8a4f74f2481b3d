"""Pages from hostile text: well-formed, without markup of strangers, without other hosts."""

from __future__ import annotations

import dataclasses
import json
import uuid
from datetime import UTC, date, datetime
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.host.hashing import Fingerprint
from imgrepo.catalogue import text
from imgrepo.catalogue.model import (
    CalendarDay,
    Change,
    Changes,
    Downloads,
    Page,
    Picture,
    Revision,
    Site,
    Snippet,
    Sources,
)
from imgrepo.catalogue.render import render, write_feed
from imgrepo.library.records import BootRecord, ImageMark, Package, SourceGap, Verdict
from imgrepo.stats import bar_chart
from tests.unit.imgrepo.catalogue.pages import inside, pages_of, read_page

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
ATOM = "{http://www.w3.org/2005/Atom}"
HOSTILE = [
    "<script>alert(1)</script>",
    "</title><script src=//evil.example/x.js></script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "--><svg/onload=alert(1)>",
    "]]><x/>",
    "{{ 7 * 7 }} {% include 'base.html' %}",
    "\u202egnp.exe\u2066 \x00\x1b[31m\x7f\u0085",
    "a\nb\r\n\r\nc\u2028d",
    "https://evil.example/\"onclick='x'",
    "x" * 100_000,
    "<" * 5_000,
    "\ud800\ufffe\uffff",
    "</textarea></style></noscript></template>",
]


def hostile_page(words: str) -> Page:
    """Return a page with the same words in all places where a stranger may write."""
    line, parts = text.line(words), text.paragraphs(words)
    base = f"templates/{text.segment('n')}/{text.segment(words[:50])}"
    mark = ImageMark("0" * 128, Fingerprint(*range(_FIELDS)))
    boot = BootRecord(
        mark, Verdict.FAILED, words, words, words, NOW, 3.0, (words, words), (22,), pictures=True
    )
    package = Package(words, words, words, words, words, (words,), copyleft=None)
    changes = Changes(2, (Change(line, "", line),))
    return Page(
        name="n", arch=text.line(words, 40), path=f"{base}.html", title=line or "x", size=1 << 30,
        compressed_size=5, sha512="ab" * 64, revision=3, file="sub/n.xz", published=NOW, command=line,
        snippets=(Snippet(line, line),), replaced_by="n",
        description=parts, notes=(("", parts), (text.line(words, 20), parts)), hints=parts, licence=line,
        contributor=line, homepage=text.link(words), offer=line, tags=(line,), system=line, aliases=(line,),
        notice=line, day=date(2026, 11, 24), picture=Picture(f"{base}.png", 3, 4),
        thumbnail=Picture(f"{base}.small.png", 3, 4), packages=(package,),
        changes=changes, former=(Revision(2, NOW, 1 << 30, 5, changes), Revision(1)), family=line, boot=boot,
        sources=Sources("sources/x.tar", 5, "ab" * 64, 1, (SourceGap(words, words, words),)),
        downloads=Downloads(1, 1, NOW.date(), NOW.date(), bar_chart(line, {}, NOW.date(), NOW.date())),
    )  # fmt: skip


_FIELDS = len(Fingerprint._fields)


def site_of(*pages: Page, title: str = "Images") -> Site:
    days = (CalendarDay(date(2026, 11, 24), pages), CalendarDay(date(2026, 12, 24)))
    return Site(
        title, f"urn:uuid:{uuid.UUID(int=7)}", "http://images.example.org/", "../", "AB" * 20, NOW, pages,
        ((2026, days),), 2026,
    )  # fmt: skip


def check(site: Site) -> None:
    """See that all pages of a site are as they must be."""
    files = render(site, "http://images.example.org/catalogue/")
    copied = {
        picture.path
        for page in site.pages
        for picture in (page.picture, page.thumbnail)
        if picture is not None
    } | {page.sources.path for page in site.pages if page.sources}
    for path, page in pages_of(files).items():
        assert page.problems == [], path
        assert [values for tag, values in page.tags if tag == "script"] == [
            {"src": f"{'../' * path.count('/')}catalogue.js", "defer": ""}
        ]
        assert not {"iframe", "object", "embed", "base", "style"} & {tag for tag, _values in page.tags}
        for tag, address in page.addresses():
            if tag == "a" and address.startswith(("http://", "https://")):
                continue  # a link that people follow, if they want
            file = inside(path, address.partition("#")[0]) if not address.startswith("#") else path
            assert file is not None, f"{path}: <{tag}> loads {address}"
            if address.startswith("#"):
                assert address[1:] in page.ids, f"{path}: {address}"
            else:
                assert file in {*files, *copied} or file == "..", f"{path}: {address} is not there"
        for tag, values in page.tags:
            if tag == "img":
                assert "alt" in values
                assert {"width", "height"} <= set(values)
            assert values.get("href", "").split(":")[0].lower() not in {"javascript", "data", "vbscript"}


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_words_stay_words(words: str) -> None:
    check(site_of(hostile_page(words), title=text.line(words) or "x"))


@given(
    st.text(max_size=60)
    | st.sampled_from(HOSTILE).flatmap(lambda words: st.permutations(words[:60]).map("".join))
)
@settings(max_examples=15, deadline=None)
def test_any_words_stay_words(words: str) -> None:
    check(site_of(hostile_page(words)))


def test_a_long_list_is_on_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is in one file as well, for the search; its rows are those of the pages."""
    monkeypatch.setattr("imgrepo.catalogue.render.ROWS_PER_PAGE", 20)
    named = [
        dataclasses.replace(hostile_page(HOSTILE[at % 5]), name=f"n{at}", path=f"templates/n{at}.html")
        for at in range(50)
    ]
    site = site_of(*named)
    check(site)
    files = render(site)
    lists = ["index.html", "list-2.html", "list-3.html"]
    assert [name for name in files if name.startswith("list-") or name == "index.html"] == lists
    rows = json.loads(files["list.json"])
    assert len(rows) == len(named)
    whole = "".join(files[name].decode() for name in lists)
    for page, row in zip(named, rows, strict=True):
        assert row["html"] in whole
        assert f'href="{page.path}"' in row["html"]
        assert read_page(b"<!doctype html>\n" + row["html"].encode()).problems == []
    assert whole.count('<li class="card"') == len(named)
    assert whole.count("data-text=") == 20, "no script searches the other pages"
    assert "list.json" not in render(site_of(*named[:20]))
    packages = json.loads(files["packages.json"])
    line = text.line(HOSTILE[0])
    assert packages[line] == {line: [one for at in range(0, len(named), 5) for one in (at, 1)]}


def test_words_are_all_there_and_read_as_written() -> None:
    (page,) = [
        page
        for path, page in pages_of(render(site_of(hostile_page(HOSTILE[0])))).items()
        if path.startswith("templates/")
    ]
    assert page.words.count("<script>alert(1)</script>") > 15
    assert "{{ 7 * 7 }}" in pages_of(render(site_of(hostile_page(HOSTILE[8]))))["index.html"].words


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_the_feed_is_valid_whatever_the_words(words: str) -> None:
    feed = ET.fromstring(
        write_feed(site_of(hostile_page(words), title=text.line(words) or "x"), "http://i.example/c/")
    )
    assert feed.tag == f"{ATOM}feed"
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == 1
    for element in (feed, *entries):  # RFC 4287, sections 4.1.1 and 4.1.2
        for name in ("id", "title", "updated"):
            (found,) = element.findall(f"{ATOM}{name}")
            assert found.text, name
        datetime.strptime(element.findtext(f"{ATOM}updated") or "", "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert feed.findtext(f"{ATOM}author/{ATOM}name")
    relations = [link.get("rel") for link in feed.findall(f"{ATOM}link")]
    assert relations == ["self", "alternate"]
    assert all(link.get("href", "").startswith("http://") for link in feed.iter(f"{ATOM}link"))
    assert len({found.text for found in feed.iter(f"{ATOM}id")}) == 2


def test_ids_of_the_feed_change_with_the_revision_alone() -> None:
    def ids(**changes: object) -> list[str | None]:
        page = dataclasses.replace(hostile_page("a"), **changes)  # type: ignore[arg-type]
        return [found.text for found in ET.fromstring(write_feed(site_of(page), "")).iter(f"{ATOM}id")]

    assert ids() == ids(title="another", description=("new",), published=datetime(2020, 1, 1, tzinfo=UTC))
    assert ids()[0] == ids(revision=4)[0]
    assert ids()[1] != ids(revision=4)[1]


def test_rendering_is_the_same_each_time() -> None:
    site = site_of(hostile_page("a b"), title="x")
    assert render(site, "u/") == render(site, "u/")


def test_the_policy_forbids_all_that_is_not_needed() -> None:
    page = pages_of(render(site_of(hostile_page("a"))))["index.html"]
    (policy,) = [
        values["content"]
        for tag, values in page.tags
        if tag == "meta" and values.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_what_is_there_without_javascript() -> None:
    first = dataclasses.replace(hostile_page("a"), changes=None, former=())
    page = pages_of(render(site_of(first)))["index.html"]
    hidden = {tag for tag, values in page.tags if "hidden" in values}
    assert hidden == {"form", "p", "button", "li"}, "what needs the script, and nothing else"
    assert f"published on {NOW.date()}" in page.words


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://example.org/a?b=c#d", True),
        ("http://[::1]/x", True),
        ("javascript:alert(1)", False),
        ("JaVaScRiPt:alert(1)", False),
        (" https://example.org/x ", True),
        ("https://example.org/a b", False),
        ('https://example.org/"x', False),
        ("https://", False),
        ("//example.org/x", False),
        ("data:text/html,x", False),
        ("https://example.org/\u202etxt", False),
    ],
)
def test_links(address: str, good: bool) -> None:
    assert (text.link(address) is not None) is good


@given(st.text(max_size=30), st.text(max_size=30))
def test_a_name_becomes_a_safe_part_of_a_path(one: str, other: str) -> None:
    made = text.segment(one)
    assert made
    assert not made.startswith(".")
    assert "/" not in made
    assert made.isascii()
    if one != other and one and other:
        assert made != text.segment(other)


@given(st.text(max_size=300))
def test_a_line_is_one_line_without_controls(words: str) -> None:
    made = text.line(words, 100)
    assert len(made) <= 100
    assert not [
        one for one in made if ord(one) < 32 or 0x7F <= ord(one) < 0xA0 or one in "\u202e\u2066\u200f"
    ]


def test_sizes_are_for_people() -> None:
    numbers = (1, 1023, 1536, 5 << 30, 3 << 40)
    assert [text.size(number) for number in numbers] == [
        "1 bytes", "1023 bytes", "1.5 KiB", "5.0 GiB", "3.0 TiB",
    ]  # fmt: skip
