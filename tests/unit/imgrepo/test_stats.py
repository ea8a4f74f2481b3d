"""Counting downloads in logs as nginx and Apache write them."""

from __future__ import annotations

import gzip
import random
from datetime import UTC, date, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import UsageError
from imgrepo.stats import LONGEST_LINE, Count, Request, bar_chart, count_downloads, parse_line, read_log

FILES: dict[str, tuple[str, int | None]] = {
    "debian-12-r2.xz": ("debian-12 (x86_64)", 1000),
    "debian-12-r2.zst": ("debian-12 (x86_64)", 1200),
    "sub/old.xz": ("old (i686)", None),
}
DAY = datetime(2026, 11, 24, 12, tzinfo=UTC)
COMBINED = (
    '192.0.2.7 - - [24/Nov/2026:23:30:00 -0100] "GET /images/debian-12-r2.xz HTTP/1.1" 200 1000 "-" "curl/8"'
)


def asked(
    path: str = "/debian-12-r2.xz", sent: int = 1000, *, client: str = "a", status: int = 200, day: int = 24,
    method: str = "GET",
) -> Request:  # fmt: skip
    return Request((client, "curl"), DAY.replace(day=day), method, path, status, sent)


def counted(*requests: Request | None) -> dict[str, Count]:
    return {count.name: count for count in count_downloads(requests, FILES).counts}


def test_a_combined_line() -> None:
    found = parse_line(COMBINED)
    assert found == Request(
        ("192.0.2.7", "curl/8"), datetime(2026, 11, 25, 0, 30, tzinfo=UTC), "GET",
        "/images/debian-12-r2.xz", 200, 1000,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "path", "sent"),
    [
        ('::1 - - [01/Jan/2026:00:00:00 +0000] "GET /a%20b.xz?x=1 HTTP/2.0" 206 5', "/a b.xz", 5),
        ('h - Some Body [01/Jan/2026:00:00:00 +0000] "GET /x HTTP/1.1" 304 -', "/x", 0),
        ('example.org:443 h - - [01/Jan/2026:00:00:60 +0530] "GET /x HTTP/1.1" 200 7 "r" "a\\"b"', "/x", 7),
        ('h - - [01/Jan/2026:00:00:00 +0000] "GET http://example.org/x HTTP/1.1" 200 7', "/x", 7),
        ('h - - [01/Jan/2026:00:00:00 +0000] "GET /\\x22.xz HTTP/1.1" 200 7', "/\\x22.xz", 7),
    ],
)
def test_other_lines(line: str, path: str, sent: int) -> None:
    found = parse_line(line)
    assert found is not None
    assert (found.path, found.sent) == (path, sent)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        COMBINED.replace("Nov", "Növ"),
        COMBINED.replace("24/", "00/"),
        COMBINED.replace("-0100", "-9999"),
        COMBINED.replace("23:30", "25:61"),
        COMBINED.replace("2026", "0000"),
        COMBINED.replace('"GET /images/debian-12-r2.xz HTTP/1.1"', '"-"'),
        COMBINED.replace('"GET /images', '"GET http://[x/images'),
    ],
)
def test_lines_that_are_none(line: str) -> None:
    assert parse_line(line) is None


@given(
    st.text()
    | st.sampled_from([COMBINED]).flatmap(lambda line: st.permutations(line.split(" ")).map(" ".join))
)
def test_any_line(line: str) -> None:
    parse_line(line)


def test_ranges_and_resumed_downloads_count_once() -> None:
    found = counted(
        asked(sent=400, status=200), asked(sent=600, status=206),
        *(asked(sent=250, status=206, client="b") for _ in range(4)),
    )["debian-12 (x86_64)"]  # fmt: skip
    assert (found.downloads, found.partial, found.clients, found.sent) == (2, 0, 2, 2000)


def test_clients_days_and_formats() -> None:
    found = counted(
        asked(), asked(), asked(client="b", day=25), asked("/debian-12-r2.zst", 1200, client="c"),
        asked(sent=400, client="d"),
    )["debian-12 (x86_64)"]  # fmt: skip
    assert (found.downloads, found.partial, found.clients) == (4, 1, 3)  # the fourth got a part only
    assert found.days == {date(2026, 11, 24): 3, date(2026, 11, 25): 1}


def test_what_is_no_download() -> None:
    assert counted(
        asked(method="HEAD"), asked(status=404), asked(status=304, sent=0), asked("/index.asc"), asked("/"),
        None,
    ) == {}  # fmt: skip


def test_names_in_folders_and_files_that_are_gone() -> None:
    found = counted(asked("/x/sub/old.xz", 77), asked("/x/old.xz", 5), asked("/x/sub/old.xz", 7, status=206))
    assert found["old (i686)"].downloads == 1, "of an unknown size, each whole answer"
    assert not found["old.xz"].is_known


@given(st.lists(st.integers(1, 400), min_size=1, max_size=30), st.randoms())
def test_any_ranges_that_make_the_whole_are_one_download(cuts: list[int], shuffled: random.Random) -> None:
    size = sum(cuts)
    requests = [asked(sent=part, status=206) for part in cuts]
    shuffled.shuffle(requests)
    found = count_downloads(requests, {"debian-12-r2.xz": ("x", size)})
    assert found.downloads == 1
    assert found.sent == size


def test_logs_plain_compressed_and_damaged(tmp_path: Path) -> None:
    text = f"{COMBINED}\n\nnonsense\n{'x' * (LONGEST_LINE * 2)}\n{COMBINED}".encode()
    plain, packed = tmp_path / "access.log", tmp_path / "access.log.1.gz"
    plain.write_bytes(text)
    packed.write_bytes(gzip.compress(text))
    for path in (plain, packed):
        assert [line is not None for line in read_log(path)] == [True, False, False, True]
    packed.write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(UsageError, match="damaged"):
        list(read_log(packed))
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_log(tmp_path / "none.log"))


@pytest.mark.parametrize("last", [date(2026, 1, 1), date(2026, 1, 31), date(2029, 12, 31)])
def test_bars(last: date) -> None:
    first = date(2026, 1, 1)
    chart = ET.fromstring(bar_chart("Downloads of <x> & y", {first: 3, last: 7}, first, last))
    space = "{http://www.w3.org/2000/svg}"
    bars = chart.findall(f"{space}rect")
    assert 1 <= len(bars) <= 120
    assert chart.get("aria-label") == "Downloads of <x> & y"
    heights = [float(bar.get("height", "")) for bar in bars]
    assert max(heights) == 132
    shown = [str(bar.findtext(f"{space}title")) for bar in bars]
    assert sum(int(text.rpartition(": ")[2]) for text in shown) == (7 if first == last else 10)
    above = [str(one.text) for one in chart.findall(f"{space}text") if one.get("text-anchor") == "middle"]
    assert above == (["7"] if first == last else ["3", "7"] if (last - first).days < 60 else ["7"])
