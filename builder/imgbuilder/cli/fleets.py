"""Fleets on the command line: ``pybuilder fleet``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.cli.requests import Call
from imgbuilder.errors import UsageError
from imgbuilder.sizes import counted
from imgbuilder.terminal.console import show

if TYPE_CHECKING:
    from imgbuilder.fleet.hosts import Fleet, Host


def plan_fleet(call: Call) -> int:
    """Show the hosts of a fleet, and the plan of a build for each kind of them."""
    from imgbuilder.building.preflight import prepare

    fleet = _read(call)
    if fleet is None:
        return UsageError.exit_code
    if call.options["json"]:
        show(json.dumps([_as_data(host) for host in fleet.hosts], indent=2) + "\n")
        return 0
    rows = [("HOST", "TEMPLATE", "SIZE", "ADDRESSES", "OUTPUT")]
    for host in fleet.hosts:
        settings = host.recipe.settings
        addresses = " ".join(host.addresses) or "-"
        rows.append(
            (host.name, settings["template"], settings.get("size", "-"), addresses, _near(host.output))
        )
    show(_table(rows))
    kinds: dict[tuple[object, ...], list[Host]] = {}
    for host in fleet.hosts:
        kind = tuple(host.recipe.settings.get(name) for name in ("template", "arch", "size", "format"))
        kinds.setdefault(kind, []).append(host)
    for alike in kinds.values():
        plan = prepare(alike[0].request(), call.services, call.reporter).plan
        call.reporter.close()
        show(f"\n{counted(len(alike), 'host')} like {alike[0].name}:\n{plan.describe()}\n")
    return 0


def print_schema(call: Call) -> None:
    """Print the JSON Schema of fleets, for editors."""
    from imgbuilder.fleet.schema import fleet_schema

    call.no_name()
    show(json.dumps(fleet_schema(), indent=2, ensure_ascii=False) + "\n")


def _read(call: Call) -> Fleet | None:
    """Read the fleet that the command line names; None after its mistakes were shown."""
    from imgbuilder.fleet.entries import FleetError
    from imgbuilder.fleet.hosts import read_fleet

    name = call.one_name("FILE", hint=f"pybuilder {call.label} fleet.toml")
    try:
        return read_fleet(Path(name))
    except FleetError as error:
        for problem in error.problems:
            call.reporter.error(problem.message, problem.hint)
        call.reporter.error(error.message, error.hint)
        return None


def _as_data(host: Host) -> dict[str, object]:
    return {
        "host": host.name,
        "template": host.recipe.settings["template"],
        "output": str(host.output),
        "addresses": list(host.addresses),
        "mac": host.mac or None,
        "recipe": host.text,
    }


def _near(path: Path) -> str:
    """Return a path as it is typed in this folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of cells, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
