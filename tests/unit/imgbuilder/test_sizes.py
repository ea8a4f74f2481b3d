from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import UsageError
from imgbuilder.sizes import human_size, parse_size, whole_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.1M", 1153433),
        ("1.12G", 1202590842),
        ("20G", 20 << 30),
        ("512b", 512),
        ("0b", 0),
        (".5K", 512),
        ("2.K", 2048),
        ("1.9b", 1),
        ("3T", 3 << 40),
        # 0.3 is not a binary fraction: floating point would give the same here only by luck.
        ("0.3T", 329853488332),
        ("8388607.9T", 9223371926903613030),
    ],
)
def test_parse_size(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "20",
            "G",
            ".G",
            "1.2.3G",
            "20g",
            "20k",
            "20GiB",
            "20 G",
            " 20G",
            "20G ",
            "20G\n",
            "-1G",
            "+1G",
        ),
        *("+1G", "1e3G", "0x10G", "1_0G", "٢G", "1,5G", "8388608T", "9" * 41 + "b", "9" * 39 + "T"),
    ],
)
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)
    assert "20G" in (caught.value.hint or "")


@given(st.text(max_size=60))
def test_parse_size_of_anything(text: str) -> None:
    try:
        size = parse_size(text)
    except UsageError:
        return
    assert 0 <= size < 1 << 63


@pytest.mark.parametrize(
    ("size", "expected"),  # as printed by virt-builder 1.48.2
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (1126, "1.1K"),
        (1363149, "1.3M"),
        (1048575, "1024.0K"),
        (1101005, "1.0M"),  # a little over 1.05 MiB, but whole KiB are rounded
        (536870912, "512.0M"),
        (2 << 30, "2.0G"),
        (5 << 40, "5120.0G"),
        (-1126, "-1.1K"),
        (-5, "-5"),
    ],
)
def test_human_size(size: int, expected: str) -> None:
    assert human_size(size) == expected


@given(st.integers(0, 1 << 70))
def test_whole_numbers(number: int) -> None:
    most = (1 << 63) - 1
    expected = number if number <= most else None
    assert whole_number(str(number), most) == whole_number(str(number).encode(), most) == expected


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", " 1", "1_0", "\u0661", "1.0", "0x1", "9" * 5000, b"\xff", b"", "256"]
)
def test_what_is_no_whole_number(text: str | bytes) -> None:
    assert whole_number(text, 255) is None
