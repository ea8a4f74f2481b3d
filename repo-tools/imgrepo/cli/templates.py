"""``list`` and ``show``: the templates of a served folder, for people and programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from imgbuilder.errors import UsageError
from imgbuilder.sizes import human_size
from imgindex.fields import deprecation, deprecation_notice
from imgindex.trust import VerifiedText
from imgrepo.cli import options, places
from imgrepo.cli.publisher import Publisher, examples, iso, pass_publisher
from imgrepo.publishing.templates import PublishedTemplate, TemplateState, templates_in
from imgrepo.webroot.edit import same_arch


@click.command(
    "list",
    short_help="List the templates and the state of each.",
    help="List the templates in WEBROOT: name, architecture, revision, download, day, state, other names. "
    "Withdrawn ones are listed as well. The exit code is 1 when a file is missing.",
    epilog=examples("pybuilder-repo list web"),
)
@places.webroot_argument
@options.json_option
@pass_publisher
def list_command(publisher: Publisher, *, webroot: Path) -> int:
    """List the templates; return 1 when the file of one is missing."""
    signed, templates = templates_in(webroot, publisher.services)
    publisher.emit(_data(signed, templates), _table(templates))
    return 1 if any(TemplateState.BROKEN in one.states for one in templates) else 0


@click.command(
    "show",
    short_help="Show all that is known about a template.",
    help="Show the template NAME in WEBROOT; NAME may be another name of it.",
    epilog=examples("pybuilder-repo show web debian-12"),
)
@places.webroot_argument
@click.argument("name")
@click.option("--arch", metavar="ARCH", help="Only the template for this architecture.")
@options.json_option
@pass_publisher
def show_command(publisher: Publisher, *, webroot: Path, name: str, arch: str | None) -> None:
    """Show the template."""
    signed, templates = templates_in(webroot, publisher.services)
    chosen = [
        one
        for one in templates
        if name in (one.name, *(one.entry.aliases if one.entry else ()))
        and (arch is None or same_arch(one.arch, arch))
    ]
    if not chosen:
        raise UsageError(
            f"no template {name} is published or withdrawn in {webroot}",
            hint=f"see: pybuilder-repo list {webroot}",
        )
    lines = [line for one in chosen for line in ("", *_lines(one, signed))][1:]
    publisher.emit(_data(signed, chosen), lines)


def _words(states: Sequence[TemplateState]) -> str:
    return ", ".join(state.value for state in states)


def _day(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%d}"


def _table(templates: Sequence[PublishedTemplate]) -> list[str]:
    rows = []
    for one in templates:
        entry = one.entry
        size = human_size(entry.compressed_size) if entry and entry.compressed_size else "-"
        aliases = ", ".join(entry.aliases) if entry else ""
        revision = str(entry.revision) if entry else "-"
        rows.append((one.name, one.arch, revision, size, _day(one.packed_at), _words(one.states), aliases))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(7)]
    return [
        "  ".join(
            cell.rjust(width) if column in (2, 3) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _lines(one: PublishedTemplate, signed: VerifiedText) -> Iterator[str]:
    yield f"name:        {one.name} ({one.arch})"
    yield f"state:       {_words(one.states)}"
    entry = one.entry
    if entry is None:
        return
    if entry.name:
        yield f"title:       {entry.name}"
    if entry.aliases:
        yield f"also called: {', '.join(entry.aliases)}"
    notice = deprecation_notice(entry)
    if notice:
        yield f"deprecated:  {notice}"
    yield f"revision:    {entry.revision}"
    yield f"disk:        {human_size(entry.size)}"
    for file in (entry.file, *([entry.zstd.file] if entry.zstd else [])):
        yield f"file:        {file}"
    if one.packed_at is not None:
        yield f"packed:      {one.packed_at:%Y-%m-%d %H:%M} UTC"
    if one.image is not None:
        yield f"image:       sha512:{one.image}"
    if TemplateState.WITHDRAWN not in one.states:
        yield f"signed:      {signed.signed_at:%Y-%m-%d %H:%M} UTC by {signed.primary_fingerprint}"
    for language, text in entry.notes:
        yield f"notes{f' ({language})' if language else ''}:"
        yield from (f"  {line}".rstrip() for line in text.split("\n"))


def _data(signed: VerifiedText, templates: Sequence[PublishedTemplate]) -> dict[str, Any]:
    return {
        "version": 1,
        "signed_at": iso(signed.signed_at),
        "signer": signed.primary_fingerprint,
        "expires_at": iso(signed.expires_at),
        "templates": [_template_data(one) for one in templates],
    }


def _template_data(one: PublishedTemplate) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": one.name,
        "arch": one.arch,
        "states": [state.value for state in one.states],
        "packed_at": iso(one.packed_at),
        "image_sha512": one.image,
    }
    entry = one.entry
    if entry is None:
        return data
    end = deprecation(entry)
    return {
        **data,
        "title": entry.name,
        "aliases": list(entry.aliases),
        "revision": entry.revision,
        "size": entry.size,
        "compressed_size": entry.compressed_size,
        "file": entry.file,
        "zstd_file": entry.zstd.file if entry.zstd else None,
        "sha512": entry.sha512,
        "osinfo": entry.osinfo,
        "deprecated_until": str(end.until) if end and end.until else None,
        "replaced_by": end.replaced_by if end else None,
        "notes": dict(entry.notes),
    }
