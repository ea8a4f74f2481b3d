"""Which cache a run works with: the user's, or a temporary one where that cannot be used."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from imgbuilder.cache.store import TemplateCache
from imgbuilder.errors import WorkspaceError
from imgbuilder.events import Reporter, ignore, warn
from imgbuilder.workspace import private_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def open_cache(
    root: Path | None,
    scratch: Path,
    report: Reporter = ignore,
    *,
    limit: int | None = None,
    shared: Sequence[Path] = (),
) -> TemplateCache:
    """Open the cache, or a temporary one where there is none to be had (``reliability.md`` C15, C16).

    A cache that cannot be written, or that belongs to somebody else, can still be read like a shared one:
    what is taken from there is verified first.

    Args:
        root: The cache's folder; None for a run without cache.
        scratch: Folder for the temporary one: the output's, or ``imgbuilder.paths.temporary_dir()``.
        report: Warned when the cache cannot be used.
        limit: Bytes that it may hold; None for a share of the disk.
        shared: Other caches to look into.

    Raises:
        WorkspaceError: No temporary folder can be made either.
    """
    if root is not None:
        cache = TemplateCache(root, limit=limit, shared=shared)
        try:
            cache.open(report)
        except WorkspaceError as error:
            warn(report, f"working without a cache: {error.message}")
            shared = (root, *shared)
        else:
            return cache
    with contextlib.ExitStack() as stack:
        private = stack.enter_context(private_folder(scratch))
        cache = TemplateCache(private, private=True, shared=shared)
        cache.open(report)
        cache.owned = stack.pop_all()
    return cache
