"""What ``pybuilder`` can do with its cache, a function each; the results go to standard output."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imgbuilder import paths
from imgbuilder.cache.digest import sha512_of
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.variants import files_of, for_everybody
from imgbuilder.catalog.bundles import Packed, check_name, write_bundle
from imgbuilder.catalog.catalog import Offer, Selection
from imgbuilder.catalog.sourcekeys import key_pin
from imgbuilder.catalog.sources import SourceFormat
from imgbuilder.console import printable
from imgbuilder.errors import FetchError, RepositoryError, UsageError
from imgbuilder.events import Step, warn
from imgbuilder.fetch.urls import BUNDLE_SUFFIX, template_url
from imgbuilder.regular import open_regular
from imgbuilder.services import Services, Settings
from imgbuilder.sizes import human_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from imgbuilder.console import ConsoleReporter


def cache_all(settings: Settings, report: ConsoleReporter) -> int:
    """Download the templates of all sources, hidden ones too; return 1 when one could not be had."""
    services = Services(settings)
    failed = 0
    with _opened(settings, report, "--cache-all-templates") as cache:
        offers = services.catalog(report).offers
        together = sum(offer.entry.compressed_size or 0 for offer in offers)
        if together > cache.limit:
            warn(
                report,
                f"all templates take {human_size(together)}; the cache may hold {human_size(cache.limit)}: "
                "the first ones will be removed again (--cache-size sets the limit)",
            )
        for offer in offers:
            try:
                url = template_url(offer.source.uri, offer.entry.file)
                services.template_file(cache, Selection(offer.source, offer.entry, url), report)
            except (FetchError, RepositoryError) as error:
                warn(report, error.message + (f" ({error.hint})" if error.hint else ""))
                failed += 1
    return 1 if failed else 0


def cache_add(settings: Settings, report: ConsoleReporter, files: Sequence[str]) -> None:
    """Put template files into the cache that were brought along: the signed index vouches for them."""
    if not files:
        raise UsageError("--cache-add needs at least one FILE", hint="pybuilder --cache-add debian-12.xz")
    services = Services(settings)
    with _opened(settings, report, "--cache-add") as cache:
        catalog = services.catalog(report)
        known = {
            file.sha512: Offer(offer.source, file)
            for offer in (*catalog.shadowed, *catalog.offers)
            for file in files_of(offer.entry)
        }
        for file in files:
            report(Step(f"Verifying: {file}"))
            offer = known.get(_digest(file))
            if offer is None:
                raise RepositoryError(
                    f"{file} is no template of a configured source, or is damaged",
                    hint="pybuilder --list shows the sources; only bytes that their indexes name are taken",
                )
            chosen = Selection(offer.source, offer.entry, os.path.abspath(file))  # noqa: PTH100 - links stay
            cache.get_template(chosen, services.fetcher, report)


def export_bundle(
    settings: Settings, report: ConsoleReporter, path: Path, names: Sequence[str], arch: str
) -> None:
    """Pack templates of one source, with its signed index, into a file for machines without network."""
    if not names:
        raise UsageError(
            "--export-bundle needs at least one template",
            hint=f"pybuilder --export-bundle debian{BUNDLE_SUFFIX} debian-12",
        )
    check_name(path)
    services = Services(settings)
    catalog = services.catalog(report, until=(names[0], arch))
    chosen = list(dict.fromkeys(catalog.select(name, arch) for name in names))
    source = chosen[0].source
    others = sorted({item.source.name for item in chosen} - {source.name})
    if others:
        raise UsageError(
            f"the templates come from several sources: {source.name}, {', '.join(others)}",
            hint="a bundle has one index: make one for each source",
        )
    states = services.states()
    last, index = states.newest(source.addresses), states.last_index(source.addresses)
    signed = source.check and settings.check_signature and source.format is SourceFormat.NATIVE
    if not signed or last is None or index is None:
        raise UsageError(
            f"source {source.name} cannot be bundled: it has no signed index of its own",
            hint="only what can be verified again is worth carrying to another machine",
        )
    with services.open_cache(path.absolute().parent, report) as cache:
        packed = [
            Packed(item.entry.file, services.template_file(cache, for_everybody(item), report))
            for item in chosen
        ]
        report(Step(f"Writing: {path}"))
        size = write_bundle(path, index, key_pin(source), packed, report)
    report.close()
    held = ", ".join(item.entry.os_version for item in chosen)
    click.echo(printable(f"{path}: {human_size(size)}, with {held}"))
    click.echo("To use it there, compare the fingerprint with the publisher's own word:")
    click.echo(printable(f"pybuilder --source {path.name} --fingerprint {last.signer} {names[0]}"))


def cache_gc(settings: Settings, report: ConsoleReporter) -> None:
    """Remove what was not used for longest, and say what that was."""
    with _opened(settings, report, "--cache-gc") as cache:
        removed = cache.collect()
        report.close()
        _tell(removed)
        click.echo(f"the cache holds {human_size(cache.used())}; its limit is {human_size(cache.limit)}")


def cache_verify(settings: Settings, report: ConsoleReporter) -> int:
    """Check the cache and say what was removed; return 1 when something was."""
    with _opened(settings, report, "--cache-verify") as cache:
        removed = cache.verify(report)
        report.close()
        _tell(removed)
    return 1 if removed else 0


@contextmanager
def _opened(settings: Settings, report: ConsoleReporter, option: str) -> Iterator[TemplateCache]:
    """Open the cache; here it is not done without."""
    folder = settings.cache_folder()
    if folder is None:
        raise UsageError(f"{option} and --no-cache contradict each other")
    with TemplateCache(folder, limit=settings.cache_limit(), shared=paths.shared_caches()) as cache:
        cache.open(report)
        yield cache


def _digest(file: str) -> str:
    try:
        with os.fdopen(open_regular(Path(file)), "rb", buffering=0) as opened:
            return sha512_of(opened)
    except OSError as error:
        raise FetchError(f"cannot read {file}: {error.strerror}") from error


def _tell(removed: Sequence[tuple[str, int]]) -> None:
    for name, size in removed:
        click.echo(printable(f"removed: {name}, {human_size(size)}"))
