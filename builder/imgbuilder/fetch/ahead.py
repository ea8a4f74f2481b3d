"""Files that are fetched side by side, and handed out one by one.

Sources are judged in their order, each with its messages. Only the waiting for
their servers is done together: threads move bytes into memory and decide nothing.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterable, Sequence

from imgbuilder.errors import FetchError
from imgbuilder.events import Event
from imgbuilder.fetch.transfer import Download, Fetched, Fetcher

_MOST_AT_ONCE = 8


class _Begun:
    """A download that a thread carries out, or leaves to its caller: then it is over without a result."""

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
        files: The addresses of each file, in their order: the next one is asked when one cannot be had.
            The files are small enough for the memory; the first ones begin first.
    """

    def __init__(self, fetcher: Fetcher, files: Iterable[Sequence[Download]]) -> None:
        self._fetcher = fetcher
        self._begun: dict[tuple[str, str, str], _Begun] = {}
        waiting: queue.SimpleQueue[list[_Begun]] = queue.SimpleQueue()
        for addresses in files:
            new = {_key(one): _Begun(one) for one in addresses if _key(one) not in self._begun}
            self._begun |= new
            waiting.put([*new.values()])
        for _ in range(min(_MOST_AT_ONCE, waiting.qsize())):
            threading.Thread(target=self._work, args=(waiting,), daemon=True).start()

    def _work(self, waiting: queue.SimpleQueue[list[_Begun]]) -> None:
        while True:
            try:
                addresses = waiting.get_nowait()
            except queue.Empty:
                return
            wanted = True
            for begun in addresses:
                if wanted:
                    wanted = self._cannot_be_had(begun)
                begun.over.set()

    def _cannot_be_had(self, begun: _Begun) -> bool:
        try:
            begun.result = self._fetcher.fetch(begun.download)
        except Exception as error:  # noqa: BLE001 - raised where the file is asked for
            begun.result = error
        return isinstance(begun.result, FetchError)

    def fetch(self, download: Download) -> Fetched:
        """See ``Fetcher.fetch``; a file that was begun is handed out once."""
        begun = self._begun.pop(_key(download), None)
        if begun is not None:
            begun.over.wait()
        if begun is None or begun.result is None:
            return self._fetcher.fetch(download)
        for event in begun.events:
            download.on_event(event)
        if not isinstance(begun.result, Fetched):
            raise begun.result
        download.destination.write(begun.body.getvalue())
        return begun.result


def _key(download: Download) -> tuple[str, str, str]:
    """Return the key of a download; of two that differ only in a password, the first is begun."""
    return download.label, download.url, download.proxy
