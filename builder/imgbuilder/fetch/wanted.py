"""One file to download, and how much of it is there already."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import BinaryIO

    from imgbuilder.events import Reporter
    from imgbuilder.fetch.transfer import Resumable
    from imgbuilder.fetch.urls import Address


@dataclass
class Wanted:
    """What one call of ``Fetcher.fetch`` is about: its arguments, and what was learned meanwhile.

    Attributes:
        end: When all of it must be over, by the fetcher's clock.
        whole: The server's ranges were wrong once, and are not asked for again (``reliability.md`` D11).
    """

    url: Address
    destination: BinaryIO
    limit: int
    expected: int | None
    report: Reporter
    label: str
    proxy: Address
    digest_known: bool
    resume: Resumable | None
    end: float = math.inf
    whole: bool = False

    def prepare(self) -> int:
        """Drop what cannot be continued; return how many bytes are held."""
        if self.resume is None:
            return 0
        most = self.limit if self.expected is None else self.expected
        known = self.resume.validator or self.resume.elsewhere
        if self.whole or not known or self.resume.held > most:
            self.resume.restart()
        return self.resume.held

    def range(self, held: int) -> dict[str, str]:
        """Return the headers that ask for the rest of the same file, or for all of another one (D12)."""
        if not held or self.resume is None:
            return {}
        wanted = {"Range": f"bytes={held}-"}
        return wanted if self.resume.elsewhere else {**wanted, "If-Range": self.resume.validator}
