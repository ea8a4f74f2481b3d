"""``pybuilder-repo boot-check``: boots images and reports whether they do."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.host.text import printable
from imgbuilder.machine.model import BOARDS, Firmware
from imgrepo.bootcheck.check import BootCheckResult, BootTarget, Overrides, check, find_target
from imgrepo.cli import options, places
from imgrepo.cli.options import PATH, NumberType
from imgrepo.cli.publisher import Publisher, each, examples, pass_publisher, show
from imgrepo.library.records import Verdict

_overrides_options = options.option_group(
    "overrides",
    Overrides,
    click.option(
        "--time",
        "seconds",
        type=NumberType(5, 86400),
        metavar="SECONDS",
        help="Time limit [default: entry.toml's, or 120; five times as long without KVM].",
    ),
    click.option("--marker", metavar="REGEX", help="What the serial console shows when it has booted."),
    click.option(
        "--port",
        "ports",
        type=NumberType(1, 65535),
        multiple=True,
        metavar="PORT",
        help="This TCP port of the guest must answer as well; repeatable.",
    ),
    click.option("--memory", type=NumberType(16, 1 << 20), metavar="MIB", help="Memory of the guest."),
    options.enum_option(
        Firmware,
        "--firmware",
        text="Firmware that boots the system [default: entry.toml's, or what the image needs].",
    ),
    click.option(
        "--arch", type=click.Choice(list(BOARDS)), help="Architecture [default: entry.toml's, or x86_64]."
    ),
)


@click.command(
    "boot-check",
    short_help="Boot images and report whether they do.",
    help="Boot each TARGET (the folder or name of an entry, or an image: .img, .raw, .qcow2) unattended, "
    "until its serial console shows a login prompt or the marker of entry.toml. The log, pictures of the "
    "screen and the verdict are written to the folder boot of the entry, or to NAME.boot next to an image. "
    "The image is not changed, and its network leads nowhere.\n\n"
    "The exit code is 0 when all boot, and 1 when one does not or could not be tried.",
    epilog=examples("pybuilder-repo boot-check images/debian-12.img --port 22"),
)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@places.library_option()
@click.option("-o", "--output", type=PATH, metavar="DIR", help="Write to DIR/NAME/boot instead.")
@_overrides_options
@click.option(
    "--keep-screenshot",
    is_flag=True,
    help="Use the picture of the screen as screenshot.png of an entry that has none.",
)
@options.json_option
@options.quiet_option()
@options.verbose_option("Show other details.")
@pass_publisher
def boot_check_command(
    publisher: Publisher,
    *,
    targets: tuple[str, ...],
    library: Path,
    output: Path | None,
    overrides: Overrides,
    keep_screenshot: bool,
) -> int:
    """Boot images; return 1 when one does not boot."""
    line = _LastLine(quiet=publisher.reporter.quiet)
    found = _find(targets, overrides, library, output)

    def boot(target: BootTarget) -> dict[str, Any]:
        try:
            checked = check(
                target,
                publisher.reporter,
                line,
                clock=publisher.services.clock,
                exact=overrides.seconds is not None,
                keep_screenshot=keep_screenshot,
            )
        finally:
            line.clear()
        _report(checked, publisher)
        return _as_data(checked)

    def failed(target: BootTarget, error: PybuilderError) -> dict[str, Any]:
        if len(found) == 1 and not publisher.as_json:
            raise error
        publisher.reporter.error(f"{target.name} was not tried: {error.message}", error.hint)
        return {"name": target.name, "verdict": "error", "reason": error.message}

    results = each(found, boot, failed)
    publisher.emit({"version": 1, "checks": results})
    return 1 if any(result["verdict"] != Verdict.BOOTED.value for result in results) else 0


def _find(
    names: tuple[str, ...], overrides: Overrides, library: Path, output: Path | None
) -> list[BootTarget]:
    found: list[BootTarget] = []
    for name in names:
        target = find_target(name, overrides, library=library, output=output)
        if target.folder in [other.folder for other in found]:
            raise UsageError(
                f"{name} and another target would both be written to {target.folder}",
                hint="give each once, or one at a time with different --output",
            )
        found.append(target)
    return found


def _report(checked: BootCheckResult, publisher: Publisher) -> None:
    record, target = checked.record, checked.target
    if record.verdict is Verdict.FAILED:
        publisher.reporter.error(f"{target.name} does not boot: {record.reason}", None)
        click.echo("  its console ends with:" if checked.tail else "  its console is empty", err=True)
        for text in checked.tail:
            click.echo(f"    {printable(text)}", err=True)
        click.echo(f"  {_advice(checked)}", err=True)
    if publisher.as_json:
        return
    if record.verdict is Verdict.BOOTED:
        how = "KVM" if record.accelerator == "kvm" else "emulation"
        ports = f", ports {', '.join(map(str, record.ports))} answer" if record.ports else ""
        click.echo(f"{target.name} boots: {record.seconds:.0f} seconds with {how}{ports}")
    show([*(f"  of concern: {text}" for text in record.concerns), f"see {target.folder}"])


def _advice(checked: BootCheckResult) -> str:
    reason = checked.record.reason
    firmware = checked.target.description.machine.firmware
    if "nothing to boot" in reason or "boot sector" in reason:
        other = "bios" if firmware is Firmware.UEFI else "uefi"
        return f"is its boot loader installed? if it starts from other firmware: --firmware {other}"
    if "seconds" in reason:
        return (
            "does it need more time (--time), memory (--memory), a serial console (console=ttyS0 for its "
            "kernel), or another --marker? see screen.png"
        )
    if "GRUB" in reason:
        return "are its files in /boot/grub? in the image, run grub-install and update-grub again"
    if "root was not found" in reason or "mode" in reason:
        return "do /etc/fstab and the boot loader's root= name filesystems that exist?"
    if "port" in reason:
        return "does the service start, and listen on all addresses? does a firewall in the guest refuse?"
    if "panicked" in reason or "again and again" in reason:
        return "does it need more --memory, another --firmware, or drivers for virtio?"
    return "see serial.log for all that the console showed"


def _as_data(checked: BootCheckResult) -> dict[str, Any]:
    record = checked.record
    return {
        "name": checked.target.name,
        "folder": str(checked.target.folder),
        "verdict": record.verdict.value,
        "reason": record.reason,
        "seconds": record.seconds,
        "accelerator": record.accelerator,
        "qemu": record.qemu,
        "started": record.started.astimezone(UTC).isoformat(),
        "sha512": record.image.sha512,
        "ports": list(record.ports),
        "concerns": list(record.concerns),
        "pictures": record.pictures,
        "console": list(checked.tail),
    }


class _LastLine:
    """The console's last line, at the foot of a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._dirty = False

    def __call__(self, text: str) -> None:
        """Show a line in place of the last one, in letters that take one column each."""
        if self._shown:
            plain = text.encode("ascii", "replace").decode()
            width = shutil.get_terminal_size().columns - 3
            sys.stderr.write(f"\r\x1b[K  {printable(plain)[:width]}")
            sys.stderr.flush()
            self._dirty = True

    def clear(self) -> None:
        """Remove it."""
        if self._dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._dirty = False
