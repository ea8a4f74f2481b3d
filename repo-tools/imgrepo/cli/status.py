"""``pybuilder-repo status``: how a published folder is doing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from imgbuilder.host.text import printable
from imgbuilder.sizes import human_size
from imgbuilder.terminal.console import ConsoleReporter
from imgrepo.cli.options import json_option, webroot_argument
from imgrepo.publishing.status import Status, status_of

_PROGRAM = "pybuilder-repo"


@click.command(
    "status",
    short_help="Tell what is wrong or needs attention.",
    help="Tell how WEBROOT is doing: signature and keys, missing files, what changed; exit code 1 when "
    "something must be done.",
)
@webroot_argument
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIRECTORY",
    help="The folder of images, to tell what changed there since it was published.",
)
@click.option(
    "--within",
    type=click.IntRange(0, 3650),
    default=14,
    show_default=True,
    metavar="DAYS",
    help="Warn of a signature or key that expires within so many days.",
)
@click.option("--verify", is_flag=True, help="Read all files, and compare their digests.")
@json_option
@click.pass_context
def status_command(
    ctx: click.Context, *, webroot: Path, images: Path | None, within: int, verify: bool, as_json: bool
) -> None:
    """Read the options and look."""
    reporter = ConsoleReporter(_PROGRAM, quiet=as_json)
    status = status_of(
        webroot, ctx.obj, reporter, images=images, within=timedelta(days=within), verify=verify
    )
    if as_json:
        click.echo(json.dumps(_as_data(status), indent=2))
    else:
        click.echo("\n".join(printable(line) for line in _as_lines(status)))
    if status.problems:
        ctx.exit(1)


def _as_lines(status: Status) -> list[str]:
    lines = [
        f"templates:   {status.templates}, {human_size(status.size)}",
        f"signed:      {_when(status.signed_at)} by {status.signer}",
        f"expires:     {_when(status.expires_at)}",
    ]
    lines += [f"key:         {key.fingerprint}, expires {_when(key.expires_at)}" for key in status.keys]
    old = human_size(sum(item.size for item in status.retired))
    lines.append(f"old files:   {len(status.retired)}, {old}")
    lines += [f"changed:     {change}" for change in status.changes]
    lines += [f"PROBLEM:     {problem}" for problem in status.problems] or ["all is well"]
    return lines


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _as_data(status: Status) -> dict[str, Any]:
    def iso(moment: datetime | None) -> str | None:
        return None if moment is None else moment.astimezone(UTC).isoformat()

    return {
        "version": 1,
        "templates": status.templates,
        "size": status.size,
        "signed_at": iso(status.signed_at),
        "signer": status.signer,
        "expires_at": iso(status.expires_at),
        "keys": [{"fingerprint": key.fingerprint, "expires_at": iso(key.expires_at)} for key in status.keys],
        "old_files": [
            {"name": item.name, "size": item.size, "since": iso(item.since)} for item in status.retired
        ],
        "changes": list(status.changes),
        "problems": list(status.problems),
    }
