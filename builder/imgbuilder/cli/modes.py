"""What ``pybuilder`` can do, a function each; the results go to standard output."""

from __future__ import annotations

from pathlib import Path

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.building.getkernel import KernelRequest
from imgbuilder.building.request import BuildRequest
from imgbuilder.catalog import listing
from imgbuilder.cli.list_mode import message_locale, show
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.events import Step
from imgbuilder.host import paths
from imgbuilder.host.text import printable
from imgbuilder.services import Services, Settings
from imgbuilder.terminal.console import ConsoleReporter


def print_notes(settings: Settings, reporter: ConsoleReporter, name: str, arch: str) -> None:
    """Print a template's notes in the user's language."""
    chosen = Services(settings).select(name, arch, reporter, only_shown=True)
    text = listing.notes_text(chosen.entry, listing.preferred_languages(message_locale()))
    reporter.close()
    show(f"There are no notes for {chosen.entry.os_version}\n" if text is None else f"{text}\n")


def print_cache(settings: Settings, reporter: ConsoleReporter, *, verbose: bool = False) -> None:
    """Print which templates are in the cache; with ``verbose``, the saved appliances too."""
    from imgbuilder.cache.store import TemplateCache  # late: --list stays quick

    folder = settings.cache_folder()
    if folder is None:
        show("no cache directory\n")
        return
    catalog = Services(settings).catalog(reporter)
    cache = TemplateCache(folder, shared=paths.shared_caches())
    lines = [f"cache directory: {folder}"]
    for entry in catalog.entries:
        if not entry.hidden:
            state = "cached" if cache.is_cached(entry) else "no"
            lines.append(f"{entry.os_version:<24} {entry.arch:<10} {state}")
    if verbose:
        lines += saved_appliances(folder).describe()
    reporter.close()
    show("\n".join(lines) + "\n")


def saved_appliances(cache: Path) -> StateStore:
    """Return the saved appliances in a cache."""
    from imgbuilder.appliance.instant.settings import state_folder  # late: --list stays quick
    from imgbuilder.appliance.instant.store import StateStore

    return StateStore(state_folder(cache))


def delete_cache(settings: Settings, reporter: ConsoleReporter) -> None:
    """Delete the cache, without asking any source."""
    from imgbuilder.cache.store import TemplateCache

    folder = settings.cache_folder()
    if folder is None:
        raise UsageError("--delete-cache and --no-cache together leave nothing to delete")
    reporter(Step(f"Deleting: {folder}"))
    try:
        saved_appliances(folder).delete()
    except OSError as error:
        raise WorkspaceError(f"the cache {folder} cannot be deleted: {error}") from error
    TemplateCache(folder).delete(reporter)


def build_image(
    settings: Settings, reporter: ConsoleReporter, request: BuildRequest, *, dry_run: bool, quiet: bool
) -> None:
    """Build an image, or show how it would be built."""
    from imgbuilder.building.build import build, summary  # late: --list stays quick
    from imgbuilder.building.preflight import prepare
    from imgbuilder.cli.rescue import shell_with

    services = Services(settings, guest_shell=shell_with(reporter))
    if dry_run:
        plan = prepare(request, services, reporter).plan
        reporter.close()
        show(plan.describe() + "\n")
        return
    result = build(request, services, reporter)
    reporter.close()
    if not quiet:
        show(summary(result) + "\n")


def firstboot_log(
    settings: Settings,
    reporter: ConsoleReporter,
    image: Path,
    image_format: str | None,
    appliance: ApplianceOptions,
) -> int:
    """Print how the first-boot scripts of an image fared; return 1 unless all ended with 0."""
    from imgbuilder.appliance import Attachment
    from imgbuilder.building.customize_image import CustomizeRequest, firstboot_report
    from imgbuilder.disk.diskimage import parse_format

    disk = Attachment(image, None if image_format is None else parse_format(image_format))
    found = firstboot_report(CustomizeRequest((disk,), appliance=appliance), Services(settings), reporter)
    reporter.close()
    lines = [
        f"{script.name}: {script.state}"
        + (f", from {script.started} to {script.finished or '?'}" if script.started else "")
        for script in found.scripts
    ]
    if not lines:
        lines = ["no first-boot scripts"]
    show("\n".join([*lines, *(["", found.log.rstrip("\n")] if found.log else [])]) + "\n")
    return 0 if all(script.succeeded for script in found.scripts) else 1


def copy_kernel(
    settings: Settings, reporter: ConsoleReporter, request: KernelRequest, *, quiet: bool
) -> None:
    """Copy the kernel and the initrd of an image into a folder, and say so in virt-get-kernel's words."""
    from imgbuilder.building.getkernel import get_kernel

    copied = get_kernel(request, Services(settings), reporter)
    reporter.close()
    if not quiet:
        folder = str(request.folder)  # "./vmlinuz", not "vmlinuz"
        show("".join(f"download: {source} -> {folder}/{target.name}\n" for source, target in copied.items()))


def doctor(settings: Settings, reporter: ConsoleReporter) -> int:
    """Print what was found about this machine; return 1 when a build would not work."""
    from imgbuilder.doctor import Health, examine

    healthy = True
    try:
        folder = settings.cache_folder()
    except UsageError:
        folder = None
    sources = [source.uri for source in settings.configured_sources(reporter)]
    for finding in examine(sources, folder, Services(settings).open_appliance, reporter):
        healthy = healthy and finding.health is not Health.BAD
        reporter.close()
        click.echo(printable(str(finding)))
    return 0 if healthy else 1
