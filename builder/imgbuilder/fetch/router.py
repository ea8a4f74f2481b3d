"""The fetchers that programs use: one for all kinds of addresses, and one that works offline."""

from __future__ import annotations

from imgbuilder.errors import OfflineError
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.transfer import Download, Fetched, Fetcher, Limits
from imgbuilder.fetch.urls import Address, inside, local_path


class SourceFetcher:
    """Fetches from web servers and local folders alike; implements ``Fetcher``."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._web: Fetcher | None = None

    def fetch(self, download: Download) -> Fetched:
        """See ``Fetcher.fetch``."""
        path = local_path(download.url)
        if path is not None:
            assert download.span is None, "a local file is read as a whole"
            if download.resume is not None:
                download.resume.restart()  # copying again is quicker than checking that the file is the same
            if inside(path) is None:
                return fetch_local(download)
            from imgbuilder.fetch.bundle import fetch_member  # late: few sources are bundles

            return fetch_member(download)
        if self._web is None:
            # Late: requests takes longer to load than a local index to read.
            from imgbuilder.fetch.web import RequestsFetcher

            self._web = RequestsFetcher(self._limits)
        return self._web.fetch(download)


class OfflineFetcher:
    """Fetches from local folders and bundles only, for ``--offline``; implements ``Fetcher``."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def fetch(self, download: Download) -> Fetched:
        """See ``Fetcher.fetch``."""
        if local_path(download.url) is None:
            raise offline_error(download.label, download.url)
        return self._fetcher.fetch(download)


def offline_error(label: str, url: str) -> OfflineError:
    """Make the error for a file that only a server has."""
    return OfflineError(
        f"{label or 'the file'} is not on this machine, and --offline forbids asking {Address(url)}",
        hint="run once without --offline, or bring it: pybuilder cache add FILE, or --source BUNDLE",
    )


def will_ask(fetcher: Fetcher, url: str) -> bool:
    """Report whether a fetcher will try to get a file; with ``--offline`` it refuses to ask servers."""
    return not isinstance(fetcher, OfflineFetcher) or local_path(url) is not None
