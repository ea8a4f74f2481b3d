"""The text of ``pybuilder source list``: each source, and the record of its last accepted index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

from imgbuilder.catalog.sourcefiles import SourcesResult
from imgbuilder.catalog.sources import Source, SourceFormat
from imgbuilder.catalog.state import SourceStates
from imgbuilder.errors import SourceStateError
from imgbuilder.fetch.transfer import SYSTEM_PROXY
from imgindex.accept import show


def source_list(found: SourcesResult, states: SourceStates, answers: Sequence[str] = ()) -> str:
    """Return a paragraph for each source, the most important first; those switched off come last.

    Args:
        found: The sources.
        states: The records of accepted indexes.
        answers: The result of asking each of them now; none when they were not asked.
    """
    paragraphs = [list(_facts(source, states)) for source in found.sources]
    for paragraph, answer in zip(paragraphs, answers, strict=False):
        paragraph.append(("Answer now:", answer))
    paragraphs += [
        [("Source:", name), ("Configuration:", str(origin)), ("State:", "switched off by enabled=no")]
        for name, origin in found.disabled
    ]
    return "".join(
        "".join(f"{label:<24} {value}\n" for label, value in paragraph) + "\n" for paragraph in paragraphs
    )


def _facts(source: Source, states: SourceStates) -> Iterator[tuple[str, str]]:
    yield "Source:", source.name
    for uri in source.addresses:
        yield "URI:", uri
    if source.format is not SourceFormat.NATIVE:
        yield "Format:", source.format.value
    yield "Configuration:", "command line" if source.origin is None else str(source.origin)
    if isinstance(source.key, Path):
        yield "Key:", str(source.key)
        if source.only:
            yield "Fingerprint:", ",".join(source.only)
    elif source.key:
        yield "Fingerprint:", ",".join(source.key)
    if source.proxy != SYSTEM_PROXY:
        yield "Proxy:", source.proxy
    if source.max_age is not None:
        yield "Oldest allowed:", f"{source.max_age // timedelta(days=1)} days"
    try:
        last = states.newest(source.index_addresses)
    except SourceStateError as error:
        yield "State:", error.in_one_line
        return
    if last is None:
        yield "State:", "not signed (unsigned=yes)" if source.unsigned else "never used"
        return
    yield "State:", "was signed before; refused with unsigned=yes" if source.unsigned else "signed"
    yield "Signed by:", last.signer
    yield "Signed at:", show(last.signed_at)
    yield "Expires:", "never" if last.expires_at is None else show(last.expires_at)
    yield "Last accepted:", show(last.accepted_at)
