"""Files that are fetched side by side, and handed out one by one.

Sources are judged in their order, each with its messages. Only the waiting for
their servers is done together: threads move bytes into memory and decide nothing.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterable

from imgbuilder.events import Event
from imgbuilder.fetch.transfer import Download, Fetched, Fetcher

_MOST_AT_ONCE = 8


class _Begun:
    """A download that a thread carries out."""

    def __init__(self, download: Download) -> None:
        self.body = io.BytesIO()
        self.events: list[Event] = []
        self.download = download._replace(destination=self.body, on_event=self.events.append)
        self.over = threading.Event()
        self.result: Fetched | Exception | None = None


class AheadFetcher:
    """Begins some downloads at once, and waits for one when it is asked for; implements ``Fetcher``.

    The threads end with the program, so that a signal need not wait for a server or the resolver.

    Args:
        fetcher: Carries out these downloads, and all others when they are asked for.
        downloads: Files that are small enough for the memory; the first ones begin first.
    """

    def __init__(self, fetcher: Fetcher, downloads: Iterable[Download]) -> None:
        self._fetcher = fetcher
        self._begun: dict[tuple[str, str, str], _Begun] = {}
        waiting: queue.SimpleQueue[_Begun] = queue.SimpleQueue()
        for download in downloads:
            if self._begun.setdefault(_key(download), begun := _Begun(download)) is begun:
                waiting.put(begun)
        for _ in range(min(_MOST_AT_ONCE, len(self._begun))):
            threading.Thread(target=self._work, args=(waiting,), daemon=True).start()

    def _work(self, waiting: queue.SimpleQueue[_Begun]) -> None:
        while True:
            try:
                begun = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                begun.result = self._fetcher.fetch(begun.download)
            except Exception as error:  # noqa: BLE001 - raised where the file is asked for
                begun.result = error
            begun.over.set()

    def fetch(self, download: Download) -> Fetched:
        """See ``Fetcher.fetch``; a file that was begun is handed out once."""
        begun = self._begun.pop(_key(download), None)
        if begun is None:
            return self._fetcher.fetch(download)
        begun.over.wait()
        for event in begun.events:
            download.on_event(event)
        if not isinstance(begun.result, Fetched):
            assert begun.result is not None
            raise begun.result
        download.destination.write(begun.body.getvalue())
        return begun.result


def _key(download: Download) -> tuple[str, str, str]:
    """Return the key of a download; of two that differ only in a password, the first is begun."""
    return download.label, download.url, download.proxy
