"""The options of ``pybuilder``, each declared once; commands choose from these groups.

Customizations come from their registry, see ``imgbuilder.cli.customizing``.
"""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from imgbuilder.cli.entry import STYLES
from imgbuilder.cli.getopt import OTHER, Option, proposals
from imgbuilder.customize.failure import OnError
from imgbuilder.errors import UsageError

BUILD, SOURCES, CACHE, APPLIANCE = "Build", "Sources", "Cache", "Appliance"
"""Sections of the help, next to Customize and Other."""


def integer(_ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Read a number as C's strtol with base 0 does (``docs/compatibility.md``)."""
    if value is None:
        return None
    try:
        octal = len(value) > 1 and value[0] == "0" and value[1:].isdigit()
        number = int(value, 8 if octal else 0)
    except ValueError:
        number = -1
    if not 0 < number < 2**30:
        raise UsageError(f"{param.opts[-1]} {value!r} is not a positive whole number")
    return number


MODES = (
    Option(
        SOURCES, "-l", "--list", "list_", is_flag=True,
        help="List the templates, or only OS-VERSION or 'debian*'.",
    ),
    Option(SOURCES, "--notes", is_flag=True, help="Show the notes of OS-VERSION."),
    Option(CACHE, "--print-cache", is_flag=True, help="Show which templates are in the cache."),
    Option(CACHE, "--delete-cache", is_flag=True, help="Delete the cache."),
    Option(CACHE, "--cache-all-templates", is_flag=True, help="Download all templates into the cache."),
    Option(
        OTHER, "--get-kernel", is_flag=True, help="Copy the newest kernel and its initrd out of a disk image."
    ),
)  # fmt: skip
"""virt-builder's own modes; ours are verbs."""

LISTING = (
    Option(SOURCES, "--list-format", type=click.Choice(STYLES), help="Format of the list."),
    Option(SOURCES, "--long", is_flag=True, help="The same as --list-format long."),
)

OUTPUT = Option(
    BUILD, "-o", "--output", metavar="FILE",
    help="File or block device for the image [default: OS-VERSION.img].",
)  # fmt: skip
FORMAT = Option(
    BUILD, "--format", "format_", metavar="raw|qcow2|vmdk|vdi|vhdx",
    help="Format of the image [default: raw].",
)  # fmt: skip
IMAGE_FORMAT = Option(
    OTHER, "--format", "format_", metavar="raw|qcow2|vmdk|vdi|vhdx",
    help="Format of IMAGE [default: by its header].",
)  # fmt: skip
DISK_FORMAT = Option(
    OTHER, "--format", "format_", metavar="raw|qcow2",
    help="Format of IMAGE [default: by its header].",
)  # fmt: skip
ARCH = Option(
    BUILD, "--arch", "arch_", metavar="ARCH", help="Architecture of the template [default: this host's]."
)
DRY_RUN = Option(BUILD, "--dry-run", is_flag=True, help="Show what a build would do, and stop.")
KEY = Option(
    BUILD, "--key", "keys", multiple=True, metavar="SELECTOR",
    help="Key of an encrypted device of the guest: ID:file:FILE or ID:key:TEXT; ID may be all.",
)  # fmt: skip
ON_ERROR = Option(
    BUILD, "--on-error", type=click.Choice([choice.value for choice in OnError]), default="abort",
    help="When a customization fails: remove the image, keep it, or open a shell in it [default: abort].",
)  # fmt: skip

SIZE = Option(
    BUILD, "--size", metavar="SIZE", help="Size of its disk, such as 20G [default: the template's]."
)
BUILDING = (
    OUTPUT,
    SIZE,
    FORMAT,
    Option(BUILD, "--compress", is_flag=True, help="Compress the qcow2 image."),
    Option(
        BUILD, "--linked", is_flag=True,
        help="Make a small qcow2 image over the template's disk, which stays in the cache for it.",
    ),
    ARCH,
    Option(
        BUILD, "--attach", multiple=True, metavar="FILE", help="Another disk for the appliance, read-only."
    ),
    Option(
        BUILD, "--attach-format", multiple=True, metavar="raw|qcow2|auto",
        help="Format of the disks attached after this option [default: by their headers].",
    ),
    KEY,
    Option(
        BUILD, "--warn-if-partition/--no-warn-if-partition", default=True,
        help="Warn when the output is a partition [default: warn].",
    ),
    Option(
        BUILD, "--delete-on-failure/--no-delete-on-failure", default=True,
        help="Remove the unfinished image when a build fails [default: remove it].",
    ),
    ON_ERROR,
    Option(
        BUILD, "--seed", metavar="TEXT",
        help="Make all random numbers from TEXT; with SOURCE_DATE_EPOCH, builds can be repeated.",
    ),
    Option(BUILD, "--no-sync", is_flag=True, help="Do not wait until the image is safely on the disk."),
)  # fmt: skip

SOURCE_OPTIONS = (
    Option(
        SOURCES, "--source", "sources", multiple=True, metavar="URL",
        help="Use this index too, before all others.",
    ),
    Option(
        SOURCES, "--fingerprint", "fingerprints", multiple=True, metavar="FINGERPRINT",
        help="Key in your GnuPG keyring that must have signed the --source.",
    ),
    Option(
        SOURCES, "--check-signature/--no-check-signature", "--check-signatures/--no-check-signatures",
        "check_signature", default=True,
        help="Check signatures [default: check them].",
    ),
    Option(SOURCES, "--offline", is_flag=True, help="Work offline, from the cache only."),
    Option(
        SOURCES, "--gpg", metavar="CMD",
        help="The gpg with your keyring, such as 'gpg --homedir DIR' [default: gpg].",
    ),
    Option(SOURCES, "--curl", metavar="CMD", hidden=True),
)  # fmt: skip

FORGET_OPTIONS = SOURCE_OPTIONS[2:]
"""Without --source and --fingerprint."""

CACHE_FOLDER = Option(CACHE, "--cache", metavar="DIR", help="Keep templates in DIR.")
APPLIANCE_FOLDER = Option(CACHE, "--cache", metavar="DIR", help="Keep the saved appliance in DIR.")
REUSE = Option(
    CACHE, "--reuse", multiple=True, metavar="FILE",
    help="When a template is updated, take blocks that FILE has, such as an image that you built.",
)  # fmt: skip
NO_CACHE = Option(CACHE, "--no-cache", is_flag=True, help="Use no cache.")
CACHE_OPTIONS = (
    CACHE_FOLDER,
    Option(
        CACHE, "--cache-size", metavar="SIZE", help="Most that the cache may hold [default: 1/4 of the disk]."
    ),
    NO_CACHE,
)

REPAIR = Option(
    CACHE, "--repair", is_flag=True, help="Repair damaged disks: fetch their damaged blocks again."
)

MACHINE = (
    Option(APPLIANCE, "-m", "--memsize", metavar="MB", callback=integer, help="Memory in MiB."),
    Option(APPLIANCE, "--smp", metavar="N", callback=integer, help="Number of processors."),
)
NO_INSTANT = Option(
    APPLIANCE, "--no-instant", is_flag=True, help="Boot the appliance instead of resuming a saved one."
)
LAUNCHING = (
    *MACHINE,
    Option(
        APPLIANCE, "--launch-timeout", metavar="SECONDS", callback=integer,
        help="Give up when it is silent for so long at its start [default: 30; emulated: 600].",
    ),
    NO_INSTANT,
)  # fmt: skip
HOSTSIDE = Option(
    APPLIANCE, "--hostside", type=click.Choice(["auto", "never", "always"]),
    help="Write the image without an appliance: where possible, never, or fail [default: auto].",
)  # fmt: skip
COMMAND_TIMEOUT = Option(
    APPLIANCE, "--command-timeout", metavar="SECONDS", callback=integer,
    help="Stop a command in the guest, and fail, when it takes longer [default: no limit].",
)  # fmt: skip
APPLIANCE_OPTIONS = (
    *LAUNCHING,
    COMMAND_TIMEOUT,
    Option(
        APPLIANCE, "--network/--no-network", default=None,
        help="Let the guest reach the network meanwhile [default: only when commands run in it].",
    ),
)  # fmt: skip

MESSAGES = (
    Option(OTHER, "-q", "--quiet", is_flag=True, help="Show no progress."),
    Option(OTHER, "-v", "--verbose", is_flag=True, help="Show the appliance's console and other details."),
    Option(OTHER, "-x", "trace", is_flag=True, help="Show every libguestfs call."),
    Option(
        OTHER, "--machine-readable", metavar="[=FORMAT]",
        help="Also write messages as JSON lines; alone: print what this program can do, and stop.",
    ),
)  # fmt: skip

JSON = Option(OTHER, "--json", is_flag=True, help="Print JSON, for programs.")

FLEET = (
    Option(
        BUILD, "--changed", is_flag=True, help="Also build those again that would be different now."
    ),
    Option(BUILD, "--only", metavar="K/N", help="Build only the K-th of N parts, for several machines."),
    Option(
        BUILD, "-j", "--jobs", metavar="N", callback=integer,
        help="Most builds at a time [default: the number of processors, here or of the cluster].",
    ),
    Option(
        BUILD, "--cluster", metavar="tls://HOST:PORT", help="Build on the nodes of this Dask scheduler."
    ),
    Option(
        BUILD, "--cluster-tls", metavar="DIR", help="Certificates for it: ca.pem, node.pem and node.key."
    ),
    JSON,
)  # fmt: skip
FLEET_EXPORT = (
    Option(
        OTHER, "--to", type=click.Choice(["slurm", "kubernetes"]), required=True,
        help="The scheduler that the job is for.",
    ),
    Option(
        OTHER, "--parts", metavar="N", callback=integer,
        help="Number of parts, each for one machine [default: one for each host].",
    ),
    Option(OTHER, "--image", metavar="NAME", help="Container image with pybuilder, for Kubernetes."),
)  # fmt: skip
FLEET_BUILDS = (*LAUNCHING, COMMAND_TIMEOUT, HOSTSIDE)

GPGKEY = Option(
    SOURCES, "--gpgkey", metavar="FILE|FINGERPRINT", help="Key that must have signed the source (required)."
)
ONLY_KEYS = Option(
    SOURCES, "--fingerprint", "fingerprints", multiple=True, metavar="FINGERPRINT",
    help="Key of the --gpgkey file that counts; repeat it for more [default: all].",
)  # fmt: skip
ASK = Option(SOURCES, "--long", is_flag=True, help="Ask each source now, and show its answer.")

KERNEL = (
    Option(OTHER, "--unversioned-names", is_flag=True, help="Name the files without their versions."),
    Option(OTHER, "--prefix", metavar="PREFIX", help="Begin the files' names with PREFIX and a dash."),
)
FOLDER = Option(OTHER, "-o", "--output", metavar="DIR", help="Folder for the files [default: this one].")

FIRMWARE = Option(
    OTHER, "--firmware", type=click.Choice(["auto", "bios", "uefi"]), default="auto",
    help="Firmware that starts the image [default: by its partitions].",
)  # fmt: skip
GRAPHIC = Option(OTHER, "--graphic", is_flag=True, help="Give the machine a screen.")
RUNNING = (
    Option(OTHER, "-o", "--output", metavar="FILE", help="Write to FILE [default: standard output]."),
    IMAGE_FORMAT,
    Option(
        OTHER, "--arch", "arch_", metavar="ARCH", help="Architecture of the image [default: this host's]."
    ),
    FIRMWARE,
    GRAPHIC,
)  # fmt: skip
FORWARD = Option(
    OTHER, "--forward", multiple=True, metavar="[HOST:]GUEST[/udp]",
    help="Reach a port of the guest at 127.0.0.1.",
)  # fmt: skip
RUN = (
    FORWARD,
    Option(OTHER, "--ssh", is_flag=True, help="Log in as root by SSH; the machine ends with the session."),
    GRAPHIC,
    Option(OTHER, "--memory", metavar="MIB", callback=integer, help="Memory of the guest [default: 1024]."),
    Option(OTHER, "--cpus", metavar="N", callback=integer, help="Processors of the guest [default: 1]."),
    Option(
        OTHER, "--keep", is_flag=True,
        help="Keep the guest's changes: in IMAGE, or in a new image OS-VERSION.qcow2.",
    ),
    Option(
        OTHER, "-o", "--output", metavar="FILE",
        help="The new image of --keep [default: OS-VERSION.qcow2].",
    ),
    FIRMWARE,
    IMAGE_FORMAT,
    SIZE,
    ARCH,
    KEY,
    *SOURCE_OPTIONS,
    *CACHE_OPTIONS[:2],
    REUSE,
    NO_INSTANT,
)  # fmt: skip
"""Without --no-cache: the image of a run is in the cache."""

BUILD_OPTIONS = (
    *BUILDING,
    DRY_RUN,
    *SOURCE_OPTIONS,
    *CACHE_OPTIONS,
    REUSE,
    *APPLIANCE_OPTIONS,
    HOSTSIDE,
    *MESSAGES,
)

MOST_USED = (
    "list_", "forward", "ssh", "graphic", "memory", "cpus", "keep", "output", "size", "format_", "hostname",
    "root_password", "ssh_inject", "install", "run", "dry_run",
)  # fmt: skip
"""Options that the help of a build or run shows first."""


Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


class Operands(click.Argument):
    """The words of a command that are not options."""

    def __init__(self, metavar: str, complete: Completer | None = None) -> None:
        super().__init__(["names"], nargs=-1, metavar=metavar, shell_complete=complete)

    def get_usage_pieces(self, _ctx: click.Context) -> list[str]:
        """Return what the usage line shows."""
        return [self.metavar] if self.metavar else []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Propose what the metavar names."""
        return super().shell_complete(ctx, incomplete) or proposals(self.metavar or "", incomplete)
