"""One fetcher for all kinds of addresses: the one that programs use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgbuilder.errors import OfflineError
from imgbuilder.events import Reporter, ignore
from imgbuilder.fetch.local import fetch_local
from imgbuilder.fetch.transfer import SYSTEM_PROXY, Fetched, Fetcher, Limits, Resumable
from imgbuilder.fetch.urls import Address, inside, local_path

if TYPE_CHECKING:
    from typing import BinaryIO


class SourceFetcher:
    """Fetches from web servers and local folders alike; implements ``Fetcher``.

    Args:
        limits: How patient it is.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._web: Fetcher | None = None

    def fetch(
        self,
        url: str,
        destination: BinaryIO,
        *,
        limit: int,
        expected: int | None = None,
        on_event: Reporter = ignore,
        label: str = "",
        proxy: str = SYSTEM_PROXY,
        digest_known: bool = False,
        seconds: float | None = None,
        resume: Resumable | None = None,
    ) -> Fetched:
        """See ``Fetcher.fetch``."""
        path = local_path(url)
        if path is not None:
            if resume is not None:
                resume.restart()  # copying anew is quicker than finding out whether the file is the same
            member = inside(path)
            if member is not None:
                from imgbuilder.fetch.bundle import fetch_member  # late: few sources are bundles

                return fetch_member(
                    *member, destination, limit=limit, expected=expected, on_event=on_event, label=label
                )
            return fetch_local(
                path, destination, limit=limit, expected=expected, on_event=on_event, label=label
            )
        if self._web is None:
            # Late: requests takes longer to load than a local index to read.
            from imgbuilder.fetch.web import RequestsFetcher

            self._web = RequestsFetcher(self._limits)
        return self._web.fetch(
            url,
            destination,
            limit=limit,
            expected=expected,
            on_event=on_event,
            label=label,
            proxy=proxy,
            digest_known=digest_known,
            seconds=seconds,
            resume=resume,
        )


def offline_error(label: str, url: str) -> OfflineError:
    """Make the error for a file that a server would have to be asked for."""
    return OfflineError(
        f"{label or 'it'} is not here, and with --offline {Address(url)} is not asked",
        hint="run once without --offline, or bring it along: --cache-add FILE, or --source BUNDLE",
    )


def will_ask(fetcher: Fetcher, url: str) -> bool:
    """Say whether a fetcher will try to get a file, or refuse since the user forbade asking servers."""
    return not isinstance(fetcher, OfflineFetcher) or local_path(url) is not None


class OfflineFetcher:
    """Fetches from local folders and bundles only, for ``--offline``; implements ``Fetcher``.

    Args:
        fetcher: Does it.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher

    def fetch(
        self,
        url: str,
        destination: BinaryIO,
        *,
        limit: int,
        expected: int | None = None,
        on_event: Reporter = ignore,
        label: str = "",
        proxy: str = SYSTEM_PROXY,
        digest_known: bool = False,
        seconds: float | None = None,
        resume: Resumable | None = None,
    ) -> Fetched:
        """See ``Fetcher.fetch``."""
        if local_path(url) is None:
            raise offline_error(label, url)
        return self._fetcher.fetch(
            url,
            destination,
            limit=limit,
            expected=expected,
            on_event=on_event,
            label=label,
            proxy=proxy,
            digest_known=digest_known,
            seconds=seconds,
            resume=resume,
        )
