"""``pybuilder cache``: a function for each verb; results go to standard output."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from imgbuilder.appliance.instant.store import StateStore, state_folder
from imgbuilder.appliance.options import Attachment
from imgbuilder.building.preflight import check_disk
from imgbuilder.cache.links import disk_below
from imgbuilder.cache.share import CacheServer, lendable, parse_place
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.templates import for_everybody, variants_of
from imgbuilder.catalog.bundles import BundledTemplate, check_name, write_bundle
from imgbuilder.catalog.catalog import Offer, Selection
from imgbuilder.catalog.sources import SourceFormat, trusted_keys
from imgbuilder.cli.requests import Call
from imgbuilder.disk import diskimage
from imgbuilder.disk.diskimage import DiskFormat
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import (
    DiskError,
    FetchError,
    PybuilderError,
    RepositoryError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.events import Reporter, Step, debug, ignore, warn
from imgbuilder.fetch.urls import BUNDLE_SUFFIX, template_url
from imgbuilder.host import workspace
from imgbuilder.host.hashing import hash_stream
from imgbuilder.host.text import printable
from imgbuilder.sizes import counted, human_size
from imgbuilder.terminal.reporter import show
from imgindex.files import open_regular


def print_cache(call: Call) -> None:
    """Print which templates are in the cache; with ``--verbose``, also what else is in it."""
    call.no_name()
    folder = call.settings.cache_folder()
    if folder is None:
        show("no cache directory\n")
        return
    catalog = call.services.catalog(call.reporter)
    cache = TemplateCache(folder, elsewhere=call.services.elsewhere())
    lines = [f"cache directory: {folder}"]
    for entry in catalog.entries:
        if not entry.hidden:
            state = "cached" if cache.is_cached(entry) else "no"
            lines.append(f"{entry.os_version:<24} {entry.arch:<10} {state}")
    if call.options["verbose"]:
        lines += StateStore(state_folder(folder)).describe()
        lines += cache.describe_run_images()
        lines += [
            f"linked image: {link.image}" + (" (missing; see pybuilder unlink)" if link.is_missing else "")
            for link in cache.links()
        ]
    call.reporter.close()
    show("\n".join(lines) + "\n")


def delete_cache(call: Call) -> None:
    """Delete the cache, without asking any source."""
    call.no_name()
    folder = call.settings.cache_folder()
    if folder is None:
        raise UsageError(f"{call.label} and --no-cache together leave nothing to delete")
    verb = call.label == "cache delete"
    if not verb:  # as virt-builder does, also where there is nothing to delete
        call.reporter(Step(f"Deleting: {folder}"))
    try:
        StateStore(state_folder(folder)).delete()
    except OSError as error:
        raise WorkspaceError(f"the cache {folder} cannot be deleted: {error}") from error
    deleted = TemplateCache(folder).delete(call.reporter)
    if verb and deleted:
        call.reporter(Step(f"Deleted: {folder}"))
    elif verb:
        call.reporter(Step(f"nothing was deleted: there is no cache in {folder}"))


def cache_all(call: Call) -> int:
    """Download the templates of all sources, including hidden ones; return the worst exit code of all."""
    call.no_name()
    services, reporter = call.services, call.reporter
    codes = []
    with _opened(call) as cache:
        offers = services.catalog(reporter).offers
        together = sum(offer.entry.compressed_size or 0 for offer in offers)
        if together > cache.limit:
            warn(
                reporter,
                f"all templates take {human_size(together)}; the cache may hold {human_size(cache.limit)}: "
                "the first ones will be removed again (--cache-size sets the limit)",
            )
        for offer in offers:
            if offer.entry.sha512 is None and offer.entry.sha256 is None:
                name, source = offer.entry.os_version, offer.source.name
                warn(
                    reporter,
                    f"{name}: source {source} gives no checksum for it, so that no copy can be trusted: it "
                    "is downloaded for each build",
                )
                codes.append(1)
                continue
            try:
                url = template_url(offer.source.uri, offer.entry.file)
                services.template_file(cache, Selection(offer.source, offer.entry, url), reporter)
            except PybuilderError as error:  # the next one may be smaller, or come from another source
                warn(reporter, error.in_one_line)
                codes.append(error.exit_code)
    if codes:
        warn(reporter, f"{len(codes)} of {len(offers)} templates could not be had")
    elif call.label == "cache all" and not call.options["quiet"]:
        reporter.close()
        show(f"in the cache: {counted(len(offers), 'template')}\n")
    return max(codes, default=0)


def cache_add(call: Call) -> None:
    """Put local template files into the cache; only files whose digest a signed index names are accepted."""
    files, services, reporter = call.names, call.services, call.reporter
    if not files:
        raise UsageError("cache add needs at least one FILE", hint="pybuilder cache add debian-12.xz")
    with _opened(call) as cache:
        catalog = services.catalog(reporter)
        offers = [
            Offer(offer.source, file)
            for offer in (*catalog.shadowed, *catalog.offers)
            for file in variants_of(offer.entry)
        ]
        known = {offer.entry.sha512: offer for offer in offers}
        for file in files:
            offer = known.get(_digest(file, reporter))
            if offer is None:
                raise _unknown(file, offers)
            chosen = Selection(offer.source, offer.entry, os.path.abspath(file))  # noqa: PTH100 - links stay
            there = cache.is_cached(offer.entry)
            cache.get_template(chosen, services.fetcher, reporter)
            reporter.close()
            done = "in the cache already" if there else "added"
            click.echo(printable(f"{done}: {offer.entry.os_version} of {offer.source.name}"))


def cache_export(call: Call) -> None:
    """Pack templates of one source, with its signed index, into a file for machines without network."""
    if len(call.names) < 2:
        raise UsageError(
            "cache export needs a file and at least one template",
            hint=f"pybuilder cache export debian{BUNDLE_SUFFIX} debian-12",
        )
    path, names, arch = Path(call.names[0]), call.names[1:], call.arch
    check_name(path)
    if os.path.lexists(path):
        raise WorkspaceError(
            f"{path} is there already, and was not changed", hint="give another name, or remove it first"
        )
    settings, services, reporter = call.settings, call.services, call.reporter
    catalog = services.catalog(reporter, until=(names[0], arch))
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
            f"source {source.name} cannot be bundled: it has no signed index",
            hint="configure the source with its key: a bundle must be verified again on the other machine",
        )
    with services.open_cache(path.absolute().parent, reporter) as cache:
        packed = [
            BundledTemplate(item.entry.file, services.template_file(cache, for_everybody(item), reporter))
            for item in chosen
        ]
        reporter(Step(f"Writing: {path}"))
        size = write_bundle(path, index, trusted_keys(source, gpg=settings.gpg), packed, reporter)
    reporter.close()
    held = ", ".join(item.entry.os_version for item in chosen)
    click.echo(printable(f"{path}: {human_size(size)}, with {held}"))
    click.echo("To use it there, check the fingerprint against one that the publisher gives elsewhere:")
    click.echo(printable(f"pybuilder --source {path.name} --fingerprint {last.signer} {names[0]}"))


def cache_gc(call: Call) -> None:
    """Remove what was not used for longest until the cache is within its limit, and print what it was."""
    call.no_name()
    with _opened(call) as cache:
        removed = cache.collect()
        call.reporter.close()
        _print_removed(removed)
        click.echo(f"the cache holds {human_size(cache.used())}; its limit is {human_size(cache.limit)}")


def cache_verify(call: Call) -> int:
    """Check the cache and print what was removed; return 1 when something was.

    With ``--repair``, damaged disks whose templates are still offered are repaired instead.
    """
    call.no_name()
    services, reporter, repaired = call.services, call.reporter, 0
    with _opened(call) as cache:
        offered = _offered_files(call) if call.options["repair"] else {}
        removed, linked, good, kept = cache.verify(reporter, repairable=offered)
        lost = []
        for digest, name in kept.items():
            try:
                cache.get_disk(offered[digest], services.fetcher, reporter)
                repaired += 1
            except PybuilderError as error:  # the next one may come from another source
                warn(reporter, f"{name} is not repaired: {error.in_one_line}")
                lost.append(name)
        for name in linked:
            warn(
                reporter,
                f"damaged, and linked images lie over it: {name}; "
                "build from this template again to restore it",
            )
        reporter.close()
        _print_removed(removed)
        damaged = f"{len(removed)} damaged and removed" if removed else "none damaged"
        if kept:
            damaged = f"{len(removed)} damaged and removed, {repaired} damaged and repaired"
        if lost:
            damaged += f", {len(lost)} damaged and not repaired"
        if linked:
            damaged += f", {len(linked)} damaged and kept for linked images"
        looked_at = len(removed) + len(linked) + good + len(kept)
        click.echo(f"files: {looked_at} looked at, {damaged}")
    return 1 if removed or linked or lost else 0


def _offered_files(call: Call) -> dict[str, Selection]:
    """Return the files of all templates that the sources offer, by SHA-512."""
    catalog = call.services.catalog(call.reporter)
    return {
        file.sha512: Selection(offer.source, file, template_url(offer.source.uri, file.file))
        for offer in (*catalog.shadowed, *catalog.offers)
        for file in variants_of(offer.entry)
        if file.sha512 is not None
    }


def cache_share(call: Call) -> None:
    """Lend the templates of signed sources to neighbours until the program is stopped."""
    place = parse_place(call.one_name("ADDRESS:PORT", "pybuilder cache share 192.0.2.7:8320"))
    folder = call.settings.cache_folder()
    if folder is None:
        raise UsageError(f"{call.label} and --no-cache contradict each other")
    offline = replace(call.services, settings=replace(call.settings, offline=True))
    lent = lendable(call.services.catalog(call.reporter))
    with CacheServer(
        folder, lent, lambda: lendable(offline.catalog(ignore)), place, partial(debug, call.reporter)
    ) as server:
        call.reporter.close()
        if not call.options["quiet"]:
            click.echo(printable(f"every client that reaches {server.url} can read templates in {folder}"))
            click.echo(printable(f'neighbours write into pybuilder.toml: peers = ["{server.url}"]'))
        server.serve()


def unlink_image(call: Call) -> None:
    """Make a linked image independent of the cache, or forget one that is missing."""
    given = Path(call.one_name("IMAGE", "pybuilder unlink debian-12.qcow2"))
    image = given.parent.resolve() / given.name
    with _opened(call) as cache:
        links = [link for link in cache.links() if link.image == image]
        if image.exists():
            try:
                below = disk_below(image)
            except DiskError:  # another kind of file
                below = None
            if below is None or not cache.holds_disk(below):
                raise UsageError(
                    f"{given} is not linked to a disk in the cache {cache.root}",
                    hint="pybuilder cache list -v shows the linked images; --cache DIR names another cache",
                )
            check_disk(Attachment(image, DiskFormat.QCOW2), Role.GUEST, backing=[below])
            with workspace.new_file(image) as independent:
                call.reporter(Step(f"Copying the template's disk into {given}"))
                diskimage.convert(image, DiskFormat.QCOW2, independent, DiskFormat.QCOW2)
        elif not links:
            raise UsageError(
                f"there is no image {given}, and none is recorded there",
                hint="pybuilder cache list -v shows the linked images",
            )
        for link in links:
            cache.remove_link(link)
        call.reporter.close()
        done = (
            "needs the cache no longer" if image.exists() else "is missing; no disk is kept for it any more"
        )
        click.echo(printable(f"{given} {done}"))


@contextmanager
def _opened(call: Call) -> Iterator[TemplateCache]:
    """Open the cache, which this verb needs."""
    folder = call.settings.cache_folder()
    if folder is None:
        raise UsageError(f"{call.label} and --no-cache contradict each other")
    with TemplateCache(
        folder, limit=call.settings.cache_limit(), elsewhere=call.services.elsewhere()
    ) as cache:
        cache.open(call.reporter)
        yield cache


def _unknown(file: str, offers: Sequence[Offer]) -> RepositoryError:
    """Return the error for a file that no index names; by its name it may be one that a source offers."""
    only = "only files whose digest an index names are accepted (see: pybuilder source list)"
    for offer in offers:
        entry = offer.entry
        if Path(entry.file).name == Path(file).name:
            size, promised = Path(file).stat().st_size, entry.compressed_size
            how = "has other bytes" if promised in (None, size) else f"has {size} bytes instead of {promised}"
            return RepositoryError(
                f"{file} {how}: it is not {entry.os_version} as {offer.source.name} offers it now",
                hint=f"it may be cut off, damaged, or another version: copy it again; {only}",
            )
    return RepositoryError(
        f"{file} is not a template of a configured source, or is damaged",
        hint=only,
    )


def _digest(file: str, on_event: Reporter) -> str:
    try:
        with os.fdopen(open_regular(Path(file)), "rb", buffering=0) as opened:
            on_event(Step(f"Verifying: {file}"))
            return hash_stream(opened)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {file}", hint="check its name") from error
    except OSError as error:
        raise FetchError(
            f"cannot read {file}: {error.strerror}",
            hint="cache add takes template files as their publisher offers them, such as debian-12.xz",
        ) from error


def _print_removed(removed: Sequence[tuple[str, int]]) -> None:
    for name, size in removed:
        click.echo(printable(f"removed: {name}, {human_size(size)}"))
