"""``pybuilder-repo make-template``: a bootable template from a distribution's archive."""

from __future__ import annotations

import os
from pathlib import Path

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import UsageError
from imgbuilder.sizes import parse_size
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import appliance_options, quiet_option
from imgrepo.services import Services
from imgrepo.template.bootstrap import BootstrapRequest, Mode
from imgrepo.template.disk import Layout, RootKind
from imgrepo.template.guestfiles import PLAIN_LOCALE
from imgrepo.template.make import TemplateRequest, make_template
from imgrepo.template.recipes import (
    DEBIAN,
    DEBIAN_MIRROR,
    DEBIAN_SECURITY_MIRROR,
    RECIPES,
    Arch,
    Kernel,
    Sources,
    recipe_named,
)

_PROGRAM = "pybuilder-repo"


@click.command(
    "make-template",
    short_help="Make a template from a distribution's archive.",
    help="Make the raw disk image OUTPUT with the system RECIPE, from the distribution's archive.\n\n"
    f"Recipes: {', '.join(RECIPES)}.\n\n"
    "The image starts by BIOS and by UEFI, has its consoles on the screen and on the "
    "first serial port, asks for an address by DHCP and runs an SSH server. It has no host keys, no machine "
    "id and no password. OUTPUT with the ending .json says what it was made of.",
)
@click.argument("recipe")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--size", default="2G", show_default=True, metavar="SIZE", help="Size of the disk.")
@click.option(
    "--kernel",
    type=click.Choice([kernel.value for kernel in Kernel]),
    default=Kernel.CLOUD.value,
    show_default=True,
    help="Flavour of the kernel: cloud has virtio drivers only, generic has those of real hardware too.",
)
@click.option(
    "--arch",
    type=click.Choice([arch.value for arch in Arch]),
    default=Arch.AMD64.value,
    show_default=True,
    help="Architecture; i386 up to Debian 12.",
)
@click.option(
    "--root",
    "root_kind",
    type=click.Choice([kind.value for kind in RootKind]),
    default=RootKind.EXT4.value,
    show_default=True,
    help="Filesystem of the root.",
)
@click.option(
    "--uefi/--no-uefi", default=True, help="Let it start from UEFI as well as by BIOS [default: --uefi]."
)
@click.option("--lvm", is_flag=True, help="Put the root on a logical volume.")
@click.option(
    "--locale", default=PLAIN_LOCALE, show_default=True, metavar="LOCALE", help="The guest's locale."
)
@click.option(
    "--script",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Run this program in the new system, as root, before it is finished.",
)
@click.option("--include", multiple=True, metavar="PKG[,PKG...]", help="Install more packages.")
@click.option("--mirror", default=DEBIAN_MIRROR, show_default=True, metavar="URL", help="Install from here.")
@click.option(
    "--security-mirror",
    default=DEBIAN_SECURITY_MIRROR,
    show_default=True,
    metavar="URL",
    help="Install security updates from here.",
)
@click.option(
    "--snapshot",
    is_flag=True,
    help="The mirrors are of the past: take their lists although they have expired.",
)
@click.option("--keep-mirror", is_flag=True, help="Let the guest use these mirrors too, not Debian's own.")
@click.option(
    "--suite-keyring",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Public keys that may sign the archive [default: those of the package debian-archive-keyring].",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default=Mode.AUTO.value,
    show_default=True,
    help="How mmdebstrap gets the rights to install packages; auto is unshare for ordinary users.",
)
@appliance_options
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Show all messages of mmdebstrap and the appliance.")
@click.pass_obj
def make_template_command(
    services: Services,
    *,
    recipe: str,
    output: Path,
    size: str,
    kernel: str,
    arch: str,
    root_kind: str,
    uefi: bool,
    lvm: bool,
    locale: str,
    script: Path | None,
    include: tuple[str, ...],
    mirror: str,
    security_mirror: str,
    snapshot: bool,
    keep_mirror: bool,
    suite_keyring: Path | None,
    mode: str,
    memsize: int | None,
    no_instant: bool,
    cache: Path | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and make the template."""
    build_from = Sources(mirror.rstrip("/"), security_mirror.rstrip("/"))
    request = TemplateRequest(
        bootstrap=BootstrapRequest(
            recipe=recipe_named(recipe),
            kernel=Kernel(kernel),
            include=tuple(name for words in include for name in words.split(",")),
            build_from=build_from,
            guest_uses=build_from if keep_mirror else DEBIAN,
            keyring=suite_keyring,
            mode=Mode(mode),
            arch=Arch(arch),
            layout=Layout(RootKind(root_kind), uefi, lvm),
            locale=locale,
            script=script,
            valid_until=not snapshot,
            epoch=_epoch(os.environ.get("SOURCE_DATE_EPOCH")),
        ),
        output=output,
        size=parse_size(size),
        appliance=ApplianceOptions(memsize=memsize, verbose=verbose, instant=not no_instant, cache=cache),
    )
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet, verbose=verbose)
    try:
        make_template(request, services, reporter)
    finally:
        reporter.close()


def _epoch(text: str | None) -> int | None:
    """Read SOURCE_DATE_EPOCH, see reproducible-builds.org."""
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, which is no time in seconds since 1970")
    return int(text)
