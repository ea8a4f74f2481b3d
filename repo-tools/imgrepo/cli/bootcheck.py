"""``pybuilder-repo boot-check``: does it boot?"""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.host.text import printable
from imgbuilder.machine.model import BOARDS, Firmware
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.bootcheck.run import Checked, check
from imgrepo.bootcheck.target import Target, Wishes, find_target
from imgrepo.cli.options import json_option, library_option, quiet_option
from imgrepo.library.records import Verdict
from imgrepo.services import Services

_PROGRAM = "pybuilder-repo"


@click.command(
    "boot-check",
    short_help="Boot images, and tell whether they do.",
    help="Boot each TARGET, which is the folder of an entry, the name of one, or an image (.img, .raw, "
    ".qcow2), with nobody before it, until its serial console shows a login prompt or the marker of "
    "entry.toml. Log, pictures of the screen and the verdict are written to the folder boot of the entry, or "
    "to NAME.boot beside an image. Nothing is written to the image, and its network leads nowhere.\n\n"
    "The exit code is 0 when all boot, and 1 when one does not or could not be tried.",
)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@library_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write to DIR/NAME/boot instead.",
)
@click.option(
    "--time",
    "seconds",
    type=click.IntRange(5, 86400),
    metavar="SECONDS",
    help="Time limit, with and without KVM [default: entry.toml's, or 120; without KVM five times as long].",
)
@click.option("--marker", metavar="REGEX", help="What the serial console shows when it has booted.")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    metavar="PORT",
    help="This TCP port of the guest must answer, too; may be given several times.",
)
@click.option("--memory", type=click.IntRange(16, 1 << 20), metavar="MIB", help="Memory of the guest.")
@click.option(
    "--firmware",
    type=click.Choice([kind.value for kind in Firmware]),
    help="What starts the system [default: entry.toml's, or what the image needs].",
)
@click.option(
    "--arch", type=click.Choice(list(BOARDS)), help="Architecture [default: entry.toml's, or x86_64]."
)
@click.option(
    "--keep-screenshot",
    is_flag=True,
    help="Let an entry without screenshot.png have the picture of the screen.",
)
@json_option
@quiet_option
@click.option("-v", "--verbose", is_flag=True, help="Show other details.")
@click.pass_context
def boot_check_command(
    ctx: click.Context,
    *,
    targets: tuple[str, ...],
    library: Path,
    output: Path | None,
    seconds: int | None,
    marker: str | None,
    ports: tuple[int, ...],
    memory: int | None,
    firmware: str | None,
    arch: str | None,
    keep_screenshot: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Read the options and check."""
    services: Services = ctx.obj
    wishes = Wishes(arch, memory, Firmware(firmware) if firmware else None, marker, seconds, ports)
    reporter = ConsoleReporter(_PROGRAM, quiet=quiet or as_json, verbose=verbose)
    # In JSON, notices would be in the middle of what a program reads.
    reporter = ConsoleReporter(_PROGRAM, quiet=True, out=sys.stderr) if as_json else reporter
    line = _LastLine(quiet=quiet or as_json)
    found = _find(targets, wishes, library, output)
    results: list[dict[str, Any]] = []
    for target in found:
        try:
            checked = check(
                target,
                reporter,
                line,
                clock=services.clock,
                exact=seconds is not None,
                keep_screenshot=keep_screenshot,
            )
        except PybuilderError as error:
            if len(found) == 1 and not as_json:
                raise
            line.clear()
            reporter.error(f"{target.name} was not tried: {error.message}", error.hint)
            results.append({"name": target.name, "verdict": "error", "reason": error.message})
            continue
        finally:
            line.clear()
        results.append(_as_data(checked))
        _tell(checked, reporter, as_json=as_json)
    if as_json:
        click.echo(json.dumps({"version": 1, "checks": results}, indent=2))
    if any(result["verdict"] != Verdict.BOOTED.value for result in results):
        ctx.exit(1)


def _find(words: tuple[str, ...], wishes: Wishes, library: Path, output: Path | None) -> list[Target]:
    found: list[Target] = []
    for word in words:
        target = find_target(word, wishes, library=library, output=output)
        if target.folder in [other.folder for other in found]:
            raise UsageError(
                f"{word} and another target would both be written to {target.folder}",
                hint="give each once, or one at a time with different --output",
            )
        found.append(target)
    return found


def _tell(checked: Checked, reporter: ConsoleReporter, *, as_json: bool) -> None:
    record, target = checked.record, checked.target
    if record.verdict is Verdict.FAILED:
        reporter.error(f"{target.name} does not boot: {record.reason}", None)
        click.echo("  its console ends with:" if checked.tail else "  its console is empty", err=True)
        for text in checked.tail:
            click.echo(f"    {printable(text)}", err=True)
        click.echo(f"  {_advice(checked)}", err=True)
    if as_json:
        return
    if record.verdict is Verdict.BOOTED:
        how = "KVM" if record.accelerator == "kvm" else "emulation"
        ports = f", ports {', '.join(map(str, record.ports))} answer" if record.ports else ""
        click.echo(f"{target.name} boots: {record.seconds:.0f} seconds with {how}{ports}")
    for text in record.concerns:
        click.echo(f"  of concern: {printable(text)}")
    click.echo(f"see {printable(str(target.folder))}")


def _advice(checked: Checked) -> str:
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
        return "are its files in /boot/grub? in the image, grub-install and update-grub make them anew"
    if "root was not found" in reason or "mode" in reason:
        return "do /etc/fstab and the boot loader's root= name the filesystems that are there?"
    if "port" in reason:
        return "does the service start, and listen on all addresses? does a firewall in the guest refuse?"
    if "panicked" in reason or "again and again" in reason:
        return "does it need more --memory, another --firmware, or drivers for virtio?"
    return "serial.log has all that the console showed"


def _as_data(checked: Checked) -> dict[str, Any]:
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
    """The console's last line, at the foot of a terminal.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._dirty = False

    def __call__(self, text: str) -> None:
        """Show a line in the place of the last one; what is left of it are letters that take one column."""
        if self._shown:
            plain = text.encode("ascii", "replace").decode()
            width = shutil.get_terminal_size().columns - 3
            sys.stderr.write(f"\r\x1b[K  {printable(plain)[:width]}")
            sys.stderr.flush()
            self._dirty = True

    def clear(self) -> None:
        """Take it away."""
        if self._dirty:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._dirty = False
