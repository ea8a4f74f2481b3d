"""Headers of answers are read strictly (rows D11 to D14 and D17 of ``docs/threat-model.md``)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imgbuilder.errors import FetchError
from imgbuilder.fetch import webrules


@dataclass(frozen=True)
class Fields:
    """Headers as pairs of name and value."""

    pairs: tuple[tuple[str, str], ...]

    def getlist(self, key: str, /) -> list[str]:
        return [value for name, value in self.pairs if name == key]


def fields(**values: str) -> Fields:
    return Fields(tuple((name.replace("_", "-"), value) for name, value in values.items()))


NOW = 1_704_067_200.0  # Mon, 01 Jan 2024 00:00:00 GMT


@pytest.mark.row("D17")
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1", 1.0),
        ("3600", 3600.0),
        ("Mon, 01 Jan 2024 00:00:07 GMT", 7.0),
        ("Sun, 31 Dec 2023 23:59:59 GMT", 0.0),
        ("", 0.5),
        ("soon", 0.5),
        ("-1", 0.5),
        ("1.5", 0.5),
        ("Mon, 41 Jan 2024 00:00:07 GMT", 0.5),
        ("Mon, 01 Jan 999999999 00:00:07 GMT", 0.5),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert webrules.retry_after(fields(Retry_After=text), NOW, 0.5) == seconds


@pytest.mark.row("D17")
@given(st.text())
def test_garbage_as_retry_after(text: str) -> None:
    assert webrules.retry_after(fields(Retry_After=text), NOW, 0.5) >= 0


@given(st.text(), st.text(), st.text())
def test_garbage_as_validator_is_never_passed_on(tag: str, modified: str, date: str) -> None:
    found = webrules.validator(Fields((("ETag", tag), ("Last-Modified", modified), ("Date", date))))
    assert found == "" or found == tag.strip()
    found = webrules.validator(Fields((("Last-Modified", modified), ("Date", date))))
    assert not set(found) & set("\r\n\0")


@given(st.text())
def test_garbage_as_content_range(text: str) -> None:
    assert not webrules.is_rest(fields(Content_Range=text), 5, 10, "") or text.strip() == "bytes 5-9/10"
    assert webrules.whole_size(fields(Content_Range=f"{text}!")) is None


@pytest.mark.row("D11")
@example(held=5, first=5, last=4, total=5)
@given(st.integers(1, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_only_the_exact_rest_fits(held: int, first: int, last: int, total: int) -> None:
    fits = webrules.is_rest(fields(Content_Range=f"bytes {first}-{last}/{total}"), held, None, "")
    assert fits == (first == held and last == total - 1 and total > held)


def test_a_rest_of_unknown_total_fits_when_its_end_does() -> None:
    answer = fields(Content_Range="bytes 5-9/*")
    assert webrules.is_rest(answer, 5, 10, "")
    assert not webrules.is_rest(answer, 5, 11, "")


@pytest.mark.row("D5")
def test_contradictions_about_the_length() -> None:
    with pytest.raises(FetchError, match="invalid Content-Length"):
        webrules.body_length(fields(Content_Length="5", Transfer_Encoding="chunked"), "u")
    assert webrules.body_length(fields(Content_Length="5"), "u") == 5
    assert webrules.body_length(fields(), "u") is None
