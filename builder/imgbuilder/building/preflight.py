"""Decides how to build, and refuses what cannot work, before anything is downloaded.

A disk that the user names is judged like a template before QEMU sees it: an image from another person can
name files of this host just as well (``docs/threat-model.md`` T13).
"""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from errno import EFBIG, ENOENT
from pathlib import Path

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.hostside import fit
from imgbuilder.appliance.instant.store import instant_mode
from imgbuilder.building.hostside import hostside_mode, refuse_appliance
from imgbuilder.building.plan import BuildPlan, OutputImage, TemplateFacts, final_size, make_plan
from imgbuilder.building.request import BuildRequest, HostsideMode, NetworkMode
from imgbuilder.building.target import find_target
from imgbuilder.cache.links import own_disk_below
from imgbuilder.cache.store import TemplateCache
from imgbuilder.cache.templates import usable, variants_of
from imgbuilder.catalog.catalog import Selection
from imgbuilder.customize import run as customization
from imgbuilder.customize.failure import OnError
from imgbuilder.disk.diskimage import DiskFormat, OutputFormat, parse_format
from imgbuilder.disk.imageheader import check_own
from imgbuilder.disk.qcow2 import Role
from imgbuilder.errors import DiskError, UnfitError, UsageError, WorkspaceError
from imgbuilder.events import Reporter, warn
from imgbuilder.fetch.router import offline_error, will_ask
from imgbuilder.host import arch, imagelocks, paths, sparse, workspace
from imgbuilder.host.variation import Variation, repeatable, source_date_epoch
from imgbuilder.services import Services
from imgbuilder.sizes import human_size
from imgindex.fields import deprecation_notice


@dataclass(frozen=True)
class Prepared:
    """A build that is decided and not started.

    Attributes:
        selection: The template's entry and source.
        plan: The steps.
        network: Whether the guest reaches the network.
        attachments: The user's disks for the appliance.
        hostside: When the image is written without an appliance.
        variation: The time and the random numbers in the image.
    """

    selection: Selection
    plan: BuildPlan
    network: bool
    attachments: tuple[Attachment, ...]
    hostside: HostsideMode
    variation: Variation


def prepare(
    request: BuildRequest, services: Services, on_event: Reporter, *, for_show: bool = False
) -> Prepared:
    """Decide how to build, and refuse what cannot work, before anything is downloaded or written.

    A plan ``for_show`` also has the bytes of an update by blocks, which a build finds out on its way.

    Raises:
        PybuilderError: The request cannot be met; nothing was changed.
    """
    customization.validate(request.operations)
    attachments = tuple(
        check_disk(replace(disk, readonly=True, attached=True)) for disk in request.attachments
    )
    _check_cache(services, linked=request.linked)
    instant_mode()  # raises an error for an invalid value in the environment
    chosen = services.select_disk(request.template, request.arch, on_event)
    if (notice := deprecation_notice(chosen.entry)) is not None:
        warn(on_event, notice)
    _check_architecture(request, chosen)
    image = _output_image(request, chosen, on_event)
    facts = template_facts(chosen, services, on_event if for_show else None)
    if not facts.fetched:
        _check_reachable(chosen, services)
    _check_image_space(image, facts)
    operations = [item.describe() for item in request.operations]
    if operations and not customization.sets_root_password(request.operations):
        operations.append("set a random root password")
    network = _network(request)
    mode = request.hostside or hostside_mode()
    obstacle = find_obstacle(request, mode, chosen, facts) or _obstacle_of_disk(facts, image)
    if obstacle is not None and mode is HostsideMode.ALWAYS:
        raise refuse_appliance(obstacle)
    plan = make_plan(facts, image, tuple(operations), network=network, obstacle=obstacle)
    _check_largest_file(image, plan.size)
    variation = _variation(request, obstacle, on_event)
    return Prepared(chosen, plan, network, attachments, mode, variation)


def _check_cache(services: Services, *, linked: bool) -> None:
    if linked and not services.settings.use_cache:
        raise UsageError("a linked image needs the template's disk in the cache", hint="leave out --no-cache")
    folder = services.settings.cache
    if folder is not None and services.settings.use_cache and folder.exists() and not folder.is_dir():
        raise WorkspaceError(
            f"the cache {folder} is not a folder", hint="choose another folder with --cache DIR"
        )


def template_facts(chosen: Selection, services: Services, for_show: Reporter | None = None) -> TemplateFacts:
    """Return facts about a template from the index and the cache, which is not changed."""
    folder = services.settings.cache_folder_if_any()
    cached = None if folder is None else TemplateCache(folder, elsewhere=services.elsewhere())
    update = None
    if cached is not None and for_show is not None:
        update = cached.foresee_update(chosen, services.fetcher, for_show)
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
        disk=disk,
        used=None if disk is None else sparse.disk_usage(disk),
        update=update,
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


def find_obstacle(
    request: BuildRequest, mode: HostsideMode, chosen: Selection, facts: TemplateFacts
) -> str | None:
    """Return why a build needs an appliance; None if it does not, as far as is known without the disk."""
    source = chosen.source
    needing = next((item.keyword for item in request.operations if customization.needs_appliance(item)), None)
    obstacles = {
        "--hostside is never": mode is HostsideMode.NEVER,
        f"--{needing} needs it": needing is not None,
        "--attach gives disks to it": bool(request.attachments),
        "--key opens devices in it": bool(request.keys),
        "--on-error shell opens a shell in it": request.on_error is OnError.SHELL,
        "-x shows the calls to it": request.appliance.trace,
        "the index lets a logical volume grow": facts.lvexpand is not None,
        "the template's source is not signed": mode is HostsideMode.AUTO
        and (source.unsigned or not source.check),
    }
    return next((text for text, applies in obstacles.items() if applies), None)


def _variation(request: BuildRequest, obstacle: str | None, on_event: Reporter) -> Variation:
    epoch = source_date_epoch()
    if request.seed is not None:
        warn(
            on_event,
            "--seed: the random passwords, the random seed and the machine ID of the image can be computed "
            "from it",
        )
        if epoch is None:
            warn(on_event, "another build with this seed has other times: set SOURCE_DATE_EPOCH as well")
        elif obstacle is not None:
            warn(on_event, f"another build has other bytes, because an appliance writes them: {obstacle}")
    return repeatable(epoch, request.seed)


def _obstacle_of_disk(facts: TemplateFacts, image: OutputImage) -> str | None:
    """Return why the template's disk needs an appliance; None if it does not, or is not in the cache."""
    if facts.disk is None or facts.format is None:
        return None
    size = final_size(image, facts.size)
    try:
        fit.check_disk(facts.disk, facts.format, grown=size if size > facts.size else None)
    except UnfitError as error:
        return str(error)
    return None


def _output_image(request: BuildRequest, chosen: Selection, on_event: Reporter) -> OutputImage:
    output = request.output
    if output is None:
        suffix = "img" if request.format is OutputFormat.RAW else request.format.value
        output = Path(f"{chosen.entry.os_version}.{suffix}")
    image = OutputImage(
        output, find_target(output), request.format, request.size, request.compressed, request.linked
    )
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
    """Refuse a download that ``--offline`` forbids, also for ``--dry-run``."""
    urls = [chosen.url, *chosen.source.mirrors]
    digests = [str(file.sha512) for file in variants_of(chosen.entry)]
    shared = [root / "templates" / digest for root in paths.shared_caches() for digest in digests]
    if not any(will_ask(services.fetcher, url) for url in urls) and not any(map(Path.is_file, shared)):
        raise offline_error(chosen.entry.os_version, chosen.url)


def _check_image_space(image: OutputImage, facts: TemplateFacts) -> None:
    """Check before a download that there is room for the least that the image can take."""
    if image.target.device is not None or image.compressed or image.linked:
        return
    # How much the disk holds is not known until it is unpacked, but hardly less than the compressed size.
    packed = min((facts.compressed_size or 0) * 9 // 10, facts.size)
    needed = packed if facts.used is None else facts.used
    workspace.check_space(image.target.path.parent, needed, "the image")


def _check_largest_file(image: OutputImage, size: int) -> None:
    """Refuse a raw image that the filesystem cannot hold, as an unnamed file of its size shows."""
    if image.target.device is not None or image.format is not OutputFormat.RAW:
        return
    limit, _hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and limit < size:
        raise WorkspaceError(
            f"the image has {human_size(size)}, but files are limited to {human_size(limit)} (ulimit -f)",
            hint="raise that limit, or give a smaller --size",
        )
    folder = image.target.path.parent
    try:
        with open(os.open(folder, os.O_TMPFILE | os.O_WRONLY), "wb") as file:
            os.truncate(file.fileno(), size)
    except OSError as error:
        if error.errno == EFBIG:
            raise UsageError(
                f"the filesystem of {folder} cannot hold a file of {human_size(size)}",
                hint="give a smaller --size",
            ) from error


_SECTOR = 512


def check_disk(
    disk: Attachment, role: Role = Role.OWN, *, backing: Sequence[Path] = (), in_use: bool = True
) -> Attachment:
    """Check a disk and its header; return it with its format and the images that it lies over.

    Args:
        disk: The disk. Without a format, the header decides it; a block device is raw.
        role: ``Role.GUEST`` for a disk of the guest, ``Role.OWN`` for any other.
        backing: Images that it may lie over.
        in_use: Whether to refuse a disk that another program uses. That is not needed where only the
            header is read.

    Raises:
        UsageError: It does not exist, may not be opened, or is not a disk.
        DiskError: It refers to other files, is damaged, its format is ambiguous, or another program uses it.
    """
    status = _status(disk)
    block = stat.S_ISBLK(status.st_mode)
    # QEMU looks for a backing file with a relative name next to the name that it opens, not next to a link.
    path = disk.path.absolute() if block else disk.path.resolve()
    if in_use:
        imagelocks.refuse_if_in_use(path, changing=not disk.readonly)
    found, below = check_own(path, disk.format, role, backing=[*backing, *own_disk_below(path)])
    if block and disk.format is None and found != DiskFormat.RAW:
        raise DiskError(
            f"{path} is a block device that holds a {found} image",
            hint=f"name the format: {found}, or raw if the disk itself is meant",
        )
    size = status.st_size
    is_raw = disk.format is None and found == DiskFormat.RAW and not block
    if role is Role.OWN and is_raw and (size % _SECTOR or not size):
        raise UsageError(
            f"{path} is not a disk image: its size of {size} bytes is not a multiple of {_SECTOR}",
            hint="give a disk image; if it is a raw one that was cut off, name its format",
        )
    for image in below:
        imagelocks.refuse_if_in_use(image, changing=False)
    return replace(disk, path=path, format=DiskFormat(found), backing=below)


def _status(disk: Attachment) -> os.stat_result:
    path = disk.path
    try:
        status = path.stat()
    except OSError as error:
        hint = "check its name, or build it: pybuilder TEMPLATE -o IMAGE" if error.errno == ENOENT else None
        raise UsageError(f"{path}: {error.strerror}", hint=hint) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise UsageError(f"{path} is not a disk image: it is neither a file nor a block device")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read", hint="check its permissions")
    if not disk.readonly and not os.access(path, os.W_OK):
        raise UsageError(f"{path} cannot be written", hint="check its permissions, or use --dry-run")
    return status
