"""The options of ``pybuilder``, in the order of its help; customizations come from their registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from imgbuilder.cli.customizing import customization_options, integer
from imgbuilder.cli.getopt import standard_options
from imgbuilder.cli.list_mode import STYLES
from imgbuilder.customize.failure import OnError

_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "-l", "--list", "list_", is_flag=True, help="List the templates, or only OS-VERSION, or 'debian*'."
    ),
    click.option(
        "--search", metavar="WORD", help="List the templates that have WORD in names, titles or notes."
    ),
    click.option("--list-format", type=click.Choice(STYLES), help="How to list."),
    click.option("--long", is_flag=True, help="The same as --list-format long."),
    click.option("--notes", is_flag=True, help="Show the notes of OS-VERSION."),
    click.option("--print-cache", is_flag=True, help="Show which templates are in the cache."),
    click.option("--delete-cache", is_flag=True, help="Delete the cache."),
    click.option(
        "--export-bundle",
        metavar="FILE",
        help="Pack templates for other machines: --export-bundle FILE NAME...",
    ),
    click.option("--cache-all-templates", is_flag=True, help="Download all templates into the cache."),
    click.option(
        "--cache-add", is_flag=True, help="Put local template files into the cache: --cache-add FILE..."
    ),
    click.option("--cache-gc", is_flag=True, help="Remove from the cache what is over its limit."),
    click.option(
        "--cache-verify", is_flag=True, help="Check all bytes of the cache; remove what is damaged."
    ),
    click.option(
        "--list-sources", is_flag=True, help="List the sources, and by whom and when they were signed."
    ),
    click.option(
        "--add-source",
        metavar="NAME",
        help="Verify a source and add it: --add-source NAME URL --gpgkey FILE.",
    ),
    click.option(
        "--gpg",
        metavar="CMD",
        help="The gpg that has your keyring, perhaps with options: 'gpg --homedir DIR' [default: gpg].",
    ),
    click.option("--curl", metavar="CMD", hidden=True),
    click.option(
        "--machine-readable",
        metavar="[=FORMAT]",
        help="Write messages as JSON lines, too; without OS-VERSION: say what this program can do, and stop.",
    ),
    click.option(
        "--gpgkey", metavar="FILE|FINGERPRINT", help="Key that must have signed the source of --add-source."
    ),
    click.option(
        "--forget-source",
        metavar="NAME|URL",
        help="Forget which index of a source was accepted last, and the protection against an older one.",
    ),
    click.option(
        "--firstboot-log", metavar="IMAGE", help="Show how the first-boot scripts of an image fared."
    ),
    click.option(
        "--doctor", is_flag=True, help="Check everything that a build needs, and say how to mend it."
    ),
    click.option(
        "--get-kernel",
        is_flag=True,
        help="Copy the newest kernel and its initrd out of a disk image: --get-kernel IMAGE.",
    ),
    click.option(
        "--unversioned-names", is_flag=True, help="For --get-kernel: name the files without their versions."
    ),
    click.option(
        "--prefix", metavar="PREFIX", help="For --get-kernel: begin the files' names with PREFIX and a dash."
    ),
    click.option(
        "--run-script", metavar="IMAGE", help="Write a script that runs an image with QEMU; see --output."
    ),
    click.option("--libvirt-xml", metavar="IMAGE", help="Write a domain of libvirt that runs an image."),
    click.option("--virt-install", metavar="IMAGE", help="Write the virt-install command for an image."),
    click.option(
        "--firmware",
        type=click.Choice(["auto", "bios", "uefi"]),
        default="auto",
        help="For these three: what starts the image [default: by its partitions].",
    ),
    click.option("--graphic", is_flag=True, help="For these three: give the machine a screen."),
    click.option(
        "--forward",
        multiple=True,
        metavar="[HOST:]GUEST[/udp]",
        help="For --run-script: reach a port of the guest at 127.0.0.1.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what a build would do, and stop."),
    click.option(
        "--write-recipe",
        metavar="FILE.toml|-",
        help="With --dry-run: write this command line down as a recipe.",
    ),
    click.option(
        "-o", "--output", metavar="FILE", help="File or block device for the image [default: OS-VERSION.img]."
    ),
    click.option(
        "--format", "format_", metavar="raw|qcow2|vmdk|vdi|vhdx", help="Format of the image [default: raw]."
    ),
    click.option("--compress", is_flag=True, help="Compress the qcow2 image."),
    click.option(
        "--warn-if-partition/--no-warn-if-partition",
        default=True,
        help="Warn when the output is a partition [default: warn].",
    ),
    click.option("--size", metavar="SIZE", help="Size of its disk, such as 20G [default: the template's]."),
    click.option(
        "--arch", "arch_", metavar="ARCH", help="Architecture of the template [default: this host's]."
    ),
    click.option("-m", "--memsize", metavar="MB", callback=integer, help="Memory of the appliance in MiB."),
    click.option("--smp", metavar="N", callback=integer, help="Processors of the appliance."),
    click.option(
        "--key",
        "keys",
        multiple=True,
        metavar="SELECTOR",
        help="Key of an encrypted device of the template: ID:file:FILE or ID:key:TEXT; ID may be all.",
    ),
    click.option(
        "--launch-timeout",
        metavar="SECONDS",
        callback=integer,
        help="Give the appliance up when it is silent for so long at its start [default: 30; emulated: 600].",
    ),
    click.option(
        "--command-timeout",
        metavar="SECONDS",
        callback=integer,
        help="Stop a command in the guest, and fail, when it takes longer [default: no limit].",
    ),
    click.option(
        "--attach", multiple=True, metavar="FILE", help="A further disk for the appliance, to be read only."
    ),
    click.option(
        "--attach-format",
        multiple=True,
        metavar="raw|qcow2|auto",
        help="Format of the disks attached after this option [default: as their headers say].",
    ),
    click.option(
        "--network/--no-network",
        default=None,
        help="Let the guest reach the network meanwhile [default: only when commands run in it].",
    ),
    click.option("--no-instant", is_flag=True, help="Boot the appliance, instead of resuming a saved one."),
    click.option(
        "--source", "sources", multiple=True, metavar="URL", help="Use this index as well, before all others."
    ),
    click.option(
        "--fingerprint",
        "fingerprints",
        multiple=True,
        metavar="FINGERPRINT",
        help="Key that must have signed the --source; it is taken from your GnuPG keyring.",
    ),
    click.option(
        "--check-signature/--no-check-signature",
        "--check-signatures/--no-check-signatures",
        "check_signature",
        default=True,
        help="Check signatures [default: they are checked].",
    ),
    click.option("--offline", is_flag=True, help="Ask no server: what the cache has must do."),
    click.option("--cache", metavar="DIR", help="Keep templates in DIR."),
    click.option(
        "--cache-size", metavar="SIZE", help="Most that the cache may hold [default: 1/4 of the disk]."
    ),
    click.option("--no-cache", is_flag=True, help="Keep nothing."),
    click.option(
        "--delete-on-failure/--no-delete-on-failure",
        default=True,
        help="Remove the unfinished image when a build fails [default: it is removed].",
    ),
    click.option(
        "--on-error",
        type=click.Choice([choice.value for choice in OnError]),
        default="abort",
        help="When a customization fails: remove the image, keep it, or open a shell in it [default: abort].",
    ),
    click.option("--no-sync", is_flag=True, help="Do not wait until the image is safely on the disk."),
    click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
    click.option("-v", "--verbose", is_flag=True, help="Show the appliance's console and other details."),
    click.option("-x", "trace", is_flag=True, help="Show every libguestfs call."),
)


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Declare the options on a function that will become the command: for use as a decorator."""
    command = standard_options(command)
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_customizations(command: click.Command) -> click.Command:
    """Add the customization options to a command: for use as a decorator."""
    command.params.extend(customization_options())
    return command
