"""Downloads that begin together and are handed out one by one."""

from __future__ import annotations

import io
import threading

import pytest

from imgbuilder.errors import FetchError
from imgbuilder.events import Event, debug
from imgbuilder.fetch.ahead import AheadFetcher
from imgbuilder.fetch.transfer import Download, Fetched

_PATIENCE = 10.0


class Together:
    """Answers only when a number of requests wait for their answers at the same time."""

    def __init__(self, number: int) -> None:
        self._barrier = threading.Barrier(number, timeout=_PATIENCE)
        self.asked: list[str] = []

    def fetch(self, download: Download) -> Fetched:
        self.asked.append(download.url)
        self._barrier.wait()
        debug(download.on_event, download.url)
        if "dead" in download.url:
            raise FetchError(f"{download.url} is dead")
        download.destination.write(download.url.encode())
        return Fetched(download.url, len(download.url))


def wanted(url: str, events: list[Event]) -> Download:
    return Download(url, io.BytesIO(), limit=1000, on_event=events.append)


def test_all_are_asked_at_once_and_handed_out_in_order(events: list[Event]) -> None:
    urls = ("http://a/i", "http://dead/i", "http://c/i")
    fetcher = AheadFetcher(Together(3), [[wanted(url, events)] for url in urls])
    assert events == []
    first, second, third = (wanted(url, events) for url in urls)
    assert fetcher.fetch(third) == Fetched("http://c/i", 10)
    with pytest.raises(FetchError, match="http://dead/i is dead"):
        fetcher.fetch(second)
    fetcher.fetch(first)
    assert isinstance(first.destination, io.BytesIO)
    assert first.destination.getvalue() == b"http://a/i"
    assert [getattr(event, "text", "") for event in events] == ["http://c/i", "http://dead/i", "http://a/i"]


def test_what_was_not_begun_and_what_is_asked_for_again_is_fetched(events: list[Event]) -> None:
    inner = Together(1)
    fetcher = AheadFetcher(inner, [[wanted("http://a/i", events)]])
    for url in ("http://a/i", "http://a/i", "http://b/i"):
        fetcher.fetch(wanted(url, events))
    assert inner.asked == ["http://a/i", "http://a/i", "http://b/i"]


def test_the_next_address_is_asked_when_one_cannot_be_had(events: list[Event]) -> None:
    urls = ("http://dead/i", "http://a/i", "http://b/i")
    inner = Together(1)
    fetcher = AheadFetcher(inner, [[wanted(url, events) for url in urls]])
    with pytest.raises(FetchError):
        fetcher.fetch(wanted(urls[0], events))
    fetcher.fetch(wanted(urls[1], events))
    assert inner.asked == ["http://dead/i", "http://a/i"]
    # What came from there was refused: only now is the last one asked.
    fetcher.fetch(wanted(urls[2], events))
    assert inner.asked == [*urls]


def test_a_fault_of_the_program_comes_out_as_itself(events: list[Event]) -> None:
    class Faulty:
        def fetch(self, download: Download) -> Fetched:
            raise ZeroDivisionError

    fetcher = AheadFetcher(Faulty(), [[wanted("http://a/i", events)]])
    with pytest.raises(ZeroDivisionError):
        fetcher.fetch(wanted("http://a/i", events))
