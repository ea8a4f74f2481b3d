"""Decides how to build, and refuses what cannot work, before anything is downloaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.instant.settings import instant_mode
from imgbuilder.building.localdisk import check_disk
from imgbuilder.building.plan import BuildPlan, OutputImage, TemplateFacts, make_plan
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.building.target import find_target
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.templates import files_of, usable
from imgbuilder.catalog.catalog import Selection
from imgbuilder.customize import run as customization
from imgbuilder.disk.diskimage import OutputFormat, parse_format
from imgbuilder.errors import UsageError
from imgbuilder.events import Reporter, warn
from imgbuilder.fetch.router import offline_error, will_ask
from imgbuilder.host import arch, paths, sparse, workspace
from imgbuilder.services import Services
from imgindex.fields import deprecation_notice


@dataclass(frozen=True)
class Prepared:
    """A build that is decided and not started.

    Attributes:
        selection: The template's entry and source.
        plan: The steps.
        network: Whether the guest reaches the network.
        attachments: The user's disks for the appliance.
    """

    selection: Selection
    plan: BuildPlan
    network: bool
    attachments: tuple[Attachment, ...]


def prepare(request: BuildRequest, services: Services, on_event: Reporter) -> Prepared:
    """Decide how to build, and refuse what cannot work, before anything is downloaded or written.

    Raises:
        PybuilderError: The request cannot be met; nothing was changed.
    """
    customization.validate(request.operations)
    attachments = tuple(
        check_disk(replace(disk, readonly=True, attached=True)) for disk in request.attachments
    )
    instant_mode()  # raises an error for an invalid value in the environment
    chosen = services.select_disk(request.template, request.arch, on_event)
    if (notice := deprecation_notice(chosen.entry)) is not None:
        warn(on_event, notice)
    _check_architecture(request, chosen)
    image = _output_image(request, chosen, on_event)
    facts = template_facts(chosen, services)
    if not facts.fetched:
        _check_reachable(chosen, services)
    _check_image_space(image, facts)
    operations = tuple(item.describe() for item in request.operations)
    network = _network(request)
    return Prepared(chosen, make_plan(facts, image, operations, network=network), network, attachments)


def template_facts(chosen: Selection, services: Services) -> TemplateFacts:
    """Return facts about a template from the index and the cache, which is not changed."""
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


def _check_architecture(request: BuildRequest, chosen: Selection) -> None:
    blocked = [item for item in request.operations if customization.needs_commands([item])]
    if blocked and not arch.can_run(arch.host_arch(), chosen.entry.arch):
        raise UsageError(
            f"--{blocked[0].keyword} runs commands of the guest, whose architecture {chosen.entry.arch} "
            f"this host ({arch.host_arch()}) cannot run",
            hint="use --firstboot, --firstboot-command or --firstboot-install instead",
        )


def _network(request: BuildRequest) -> bool:
    match request.network:
        case NetworkMode.ON:
            return True
        case NetworkMode.OFF:
            return False
        case NetworkMode.AUTOMATIC:
            return customization.needs_commands(request.operations)


def _output_image(request: BuildRequest, chosen: Selection, on_event: Reporter) -> OutputImage:
    output = request.output
    if output is None:
        suffix = "img" if request.format is OutputFormat.RAW else request.format.value
        output = Path(f"{chosen.entry.os_version}.{suffix}")
    image = OutputImage(output, find_target(output), request.format, request.size, request.compressed)
    # As in virt-builder, the name does not decide the format.
    suffix = output.suffix.removeprefix(".").lower()
    if suffix in set(OutputFormat) and suffix != image.format:
        warn(on_event, f"{output} will be a {image.format} image; for {suffix}, add: --format {suffix}")
    device = image.target.device
    if device is not None and device.is_partition and request.warn_if_partition:
        warn(
            on_event,
            f"{output} is a partition: the image is a whole disk with a partition table, which cannot be "
            "booted from there; --no-warn-if-partition turns this warning off",
        )
    return image


def _check_reachable(chosen: Selection, services: Services) -> None:
    """Refuse a download that ``--offline`` forbids, also for ``--dry-run``.

    Raises:
        OfflineError: The template is not on this machine.
    """
    urls = [chosen.url, *chosen.source.mirrors]
    digests = [str(file.sha512) for file in files_of(chosen.entry)]
    shared = [root / "templates" / digest for root in paths.shared_caches() for digest in digests]
    if not any(will_ask(services.fetcher, url) for url in urls) and not any(map(Path.is_file, shared)):
        raise offline_error(chosen.entry.os_version, chosen.url)


def _check_image_space(image: OutputImage, facts: TemplateFacts) -> None:
    """Check before a download that there is room for the least that the image can take.

    Raises:
        WorkspaceError: There is not.
    """
    if image.target.device is not None or image.compressed:
        return
    # How much the disk holds is not known until it is unpacked, but hardly less than the compressed size.
    packed = min((facts.compressed_size or 0) * 9 // 10, facts.size)
    needed = packed if facts.used is None else facts.used
    workspace.check_space(image.target.path.parent, needed, "the image")
