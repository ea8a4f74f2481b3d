"""``make-template`` and ``import``: images to publish, from a distribution's archive or cloud images."""

from __future__ import annotations

from pathlib import Path

import click

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.events import info
from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size, parse_size
from imgrepo.cli import options
from imgrepo.cli.options import PATH
from imgrepo.cli.publisher import Publisher, examples, pass_publisher
from imgrepo.intake.import_image import ImportRequest, import_image
from imgrepo.intake.proof import TrustOptions
from imgrepo.template.bootstrap import BootstrapRequest, Mode
from imgrepo.template.disk import Layout, RootKind
from imgrepo.template.make import TemplateRequest, bootstrap_request, make_template, manifest_path
from imgrepo.template.recipes import (
    DEBIAN_MIRROR,
    DEBIAN_SECURITY_MIRROR,
    PLAIN_LOCALE,
    RECIPES,
    Arch,
    Kernel,
)

_layout_options = options.option_group(
    "layout",
    Layout,
    options.enum_option(RootKind, "--root", default=RootKind.EXT4, text="Filesystem of the root."),
    click.option(
        "--uefi/--no-uefi", default=True, help="Boot from UEFI as well as from BIOS [default: --uefi]."
    ),
    click.option("--lvm", is_flag=True, help="Put the root on a logical volume."),
)
_bootstrap_options = options.option_group(
    "bootstrap",
    bootstrap_request,
    click.argument("recipe"),
    options.enum_option(
        Kernel,
        "--kernel",
        default=Kernel.CLOUD,
        text="The cloud kernel has virtio drivers only, the generic one also those of real hardware.",
    ),
    options.enum_option(Arch, "--arch", default=Arch.AMD64, text="Architecture; i386 up to Debian 12."),
    _layout_options,
    click.option(
        "--locale", default=PLAIN_LOCALE, show_default=True, metavar="LOCALE", help="The guest's locale."
    ),
    click.option(
        "--script",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        metavar="FILE",
        help="Run this program in the new system, as root, when all packages are installed.",
    ),
    click.option("--include", multiple=True, metavar="PKG[,PKG...]", help="Install more packages."),
    click.option(
        "--mirror", default=DEBIAN_MIRROR, show_default=True, metavar="URL", help="Install from this mirror."
    ),
    click.option(
        "--security-mirror",
        default=DEBIAN_SECURITY_MIRROR,
        show_default=True,
        metavar="URL",
        help="Install security updates from this mirror.",
    ),
    click.option(
        "--snapshot", is_flag=True, help="The mirrors are snapshots: accept package lists that have expired."
    ),
    click.option(
        "--keep-mirror", is_flag=True, help="Use these mirrors in the guest as well, instead of Debian's."
    ),
    click.option(
        "--suite-keyring",
        type=PATH,
        metavar="FILE",
        help="Public keys that may sign the archive [default: those of the package debian-archive-keyring].",
    ),
    options.enum_option(
        Mode,
        "--mode",
        default=Mode.AUTO,
        text="How mmdebstrap gets the rights to install packages; auto is unshare for ordinary users.",
    ),
)


@click.command(
    "make-template",
    short_help="Make an image from a distribution's archive.",
    help="Make the raw disk image OUTPUT with the system RECIPE, from the distribution's archive.\n\n"
    f"Recipes: {', '.join(RECIPES)}.\n\n"
    "The image boots from BIOS and from UEFI, has consoles on the screen and on the first serial port, "
    "gets its address by DHCP and runs an SSH server. It contains no host keys, no machine id and no "
    "password. A file next to it, named like OUTPUT but ending in .json, lists what it was made of.",
    epilog=examples("pybuilder-repo make-template debian-12 images/debian-12.img --include vim"),
)
@click.option("--size", default="2G", show_default=True, metavar="SIZE", help="Size of the disk.")
@_bootstrap_options
@click.argument("output", type=PATH)
@options.appliance_options
@options.json_option
@options.quiet_option()
@options.verbose_option("Show all messages of mmdebstrap and the appliance.")
@pass_publisher
def make_template_command(
    publisher: Publisher, *, bootstrap: BootstrapRequest, output: Path, size: str, appliance: ApplianceOptions
) -> None:
    """Make the template."""
    request = TemplateRequest(bootstrap=bootstrap, output=output, size=parse_size(size), appliance=appliance)
    make_template(request, publisher.services, publisher.reporter)
    publisher.emit({"version": 1, "image": str(output), "manifest": str(manifest_path(output))})


_evidence_options = options.option_group(
    "evidence",
    TrustOptions,
    click.option(
        "--key",
        metavar="FILE-or-FINGERPRINT",
        help="The distribution's public key: a file, or its full fingerprint in your keyring.",
    ),
    click.option("--checksums", metavar="ADDRESS", help="Use this checksum file."),
    click.option("--checksum", metavar="SHA512", help="Use no checksum file: the image has this digest."),
    click.option(
        "--unsigned", is_flag=True, help="Trust a checksum file that is not signed, such as Debian's."
    ),
)


@click.command(
    "import",
    short_help="Import a distribution's cloud image.",
    help="Download a distribution's cloud image into DIRECTORY, ready to publish.\n\n"
    "ADDRESS is the URL or path of the image. Its checksum file (SHA512SUMS, SHA256SUMS or CHECKSUM) is "
    "looked for next to it, and must be signed by the key that you give.",
    epilog=examples(
        "pybuilder-repo import https://cloud.example.org/linux.qcow2 images \\\n    --key distribution.gpg"
    ),
)
@click.argument("address")
@click.argument("directory", type=PATH)
@_evidence_options
@click.option(
    "--name", metavar="NAME", help="Name of the template [default: the image's name without its ending]."
)
@click.option("--allow-older", is_flag=True, help="Accept an image that was signed before the present one.")
@options.json_option
@options.quiet_option()
@pass_publisher
def import_command(
    publisher: Publisher,
    *,
    address: str,
    directory: Path,
    evidence: TrustOptions,
    name: str | None,
    allow_older: bool,
) -> None:
    """Import the image."""
    request = ImportRequest(address, directory, evidence, name, allow_older)
    result = import_image(request, publisher.services, publisher.reporter)
    what = "imported" if result.new else "is already here"
    info(publisher.reporter, printable(f"{result.path} {what}: a disk of {human_size(result.size)}"))
    info(publisher.reporter, printable(f"checked by {result.proof}"))
    publisher.emit(
        {
            "version": 1,
            "image": str(result.path),
            "size": result.size,
            "new": result.new,
            "checked_by": str(result.proof),
        }
    )
