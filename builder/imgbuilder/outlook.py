"""What is found out about a template before anything is downloaded, and what cannot work then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder import paths, workspace
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.variants import files_of, usable
from imgbuilder.disk import sparse
from imgbuilder.disk.diskimage import parse_format
from imgbuilder.fetch.router import offline_error, will_ask
from imgbuilder.plan import Target, TemplateFacts

if TYPE_CHECKING:
    from imgbuilder.catalog.catalog import Selection
    from imgbuilder.services import Services


def template_facts(chosen: Selection, services: Services) -> TemplateFacts:
    """Return what the index and the cache say about a template; the cache is not changed."""
    folder = services.settings.cache_folder_if_any()
    cached = None if folder is None else TemplateCache(folder, shared=paths.shared_caches())
    chosen = usable(chosen)[0] if cached is None else cached.preferred(chosen)
    entry = chosen.entry
    disk = None if cached is None else cached.unpacked_disk(entry)
    return TemplateFacts(
        name=entry.os_version,
        url=chosen.url,
        format=None if entry.format is None else parse_format(entry.format),
        size=entry.size,
        compressed_size=entry.compressed_size,
        expand=entry.expand,
        lvexpand=entry.lvexpand,
        fetched=cached is not None and cached.is_cached(entry),
        used=None if disk is None else sparse.disk_usage(disk),
    )


def check_reachable(chosen: Selection, services: Services) -> None:
    """Refuse to download with ``--offline`` before anything is done, and in ``--dry-run``, too.

    Raises:
        OfflineError: The template is nowhere on this machine.
    """
    urls = [chosen.url, *chosen.source.mirrors]
    digests = [str(file.sha512) for file in files_of(chosen.entry)]
    shared = [root / "templates" / digest for root in paths.shared_caches() for digest in digests]
    if not any(will_ask(services.fetcher, url) for url in urls) and not any(map(Path.is_file, shared)):
        raise offline_error(chosen.entry.os_version, chosen.url)


def check_image_space(target: Target, facts: TemplateFacts) -> None:
    """Find out before a download whether the image has room at least for what the template must hold (C5).

    Before it is unpacked nobody knows how much that is; hardly less than it has packed.

    Raises:
        WorkspaceError: There is not.
    """
    if target.place.device is not None or target.compressed:
        return
    packed = min((facts.compressed_size or 0) * 9 // 10, facts.size)
    needed = packed if facts.used is None else facts.used
    workspace.check_space(target.place.path.parent, needed, "the image")
