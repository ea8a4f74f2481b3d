"""Fleets on the command line: ``pybuilder fleet``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from imgbuilder.cli.requests import Call
from imgbuilder.errors import UsageError, WorkspaceError
from imgbuilder.sizes import counted
from imgbuilder.terminal.reporter import show

if TYPE_CHECKING:
    from imgbuilder.fleet.engine import Engine, Job
    from imgbuilder.fleet.entries import FleetError
    from imgbuilder.fleet.hosts import Fleet, Host
    from imgbuilder.fleet.places import Places
    from imgbuilder.fleet.state import FleetState, Record, Standing
    from imgbuilder.fleet.survey import Surveyed

_REPORT = "report.html"


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
        rows.append((host.name, settings["template"], settings.get("size", "-"), addresses, _place(host)))
    show(_table(rows))
    kinds: dict[tuple[object, ...], list[Host]] = {}
    for host in fleet.hosts:
        shared = (host.recipe.settings.get(name) for name in ("template", "arch", "size", "format"))
        kind = (*shared, host.output.is_block_device(), _then(host))
        kinds.setdefault(kind, []).append(host)
    for alike in kinds.values():
        plan = prepare(alike[0].request(), call.services, call.reporter).plan
        call.reporter.close()
        show(f"\n{counted(len(alike), 'host')} like {alike[0].name}:\n{plan.describe()}\n")
        if then := _then(alike[0]):
            show(f"then: {then}\n")
    return 0


def build_fleet(call: Call) -> int:
    """Build the hosts of a fleet that are not built."""
    from imgbuilder.cli.fleetview import FleetView
    from imgbuilder.fleet.engine import build_all
    from imgbuilder.fleet.entries import FleetError
    from imgbuilder.fleet.places import Places
    from imgbuilder.fleet.state import FleetState

    part = _part(call.options["only"])
    address, folder = _cluster(call)
    fleet = _read(call)
    if fleet is None:
        return UsageError.exit_code
    state = FleetState.of(fleet)
    with state.building(shared=part is not None):
        places = Places(fleet.hosts)
        found = _survey(call, fleet, state, part, places)
        changed = call.options["changed"]
        jobs = [one.job for one in found if one.standing.due or (changed and one.standing.stale)]
        if problems := places.check(jobs, state):
            return _show_mistakes(call, FleetError(fleet.path, problems))
        stale = sum(one.standing.stale for one in found)
        view = FleetView(len(jobs), as_json=call.options["json"], quiet=call.options["quiet"])
        engine = _engine(call, state, jobs, address, folder)
        try:
            done = build_all(jobs, state, engine, view)
        finally:
            rows = _rows(found, state)
            _write_report(state, fleet.path.name, rows)
    failed = sum(not record.built for record in done.records)
    if not call.options["json"] and not call.options["quiet"]:
        left = len(found) - len(jobs) - (0 if changed else stale)
        lines = [f"{len(done.records) - failed} built, {failed} failed, {left} as they were"]
        if stale and not changed:
            lines.append(f"{counted(stale, 'image')} would be different now; to build again: --changed")
        show("\n".join([*lines, f"report: {_near(state.folder / _REPORT)}"]) + "\n")
    return 1 if failed else 0


def _cluster(call: Call) -> tuple[str | None, Path | None]:
    """Return the address of the scheduler, if one is named, and the folder of the certificates."""
    address, folder = call.options["cluster"], call.options["cluster_tls"]
    place = None if folder is None else Path(folder)
    if address is not None:
        from imgbuilder.fleet.cluster import check_address

        check_address(address, place)
    elif folder is not None:
        raise UsageError("--cluster-tls needs --cluster", hint="--cluster tls://HOST:8786")
    return address, place


def _engine(
    call: Call, state: FleetState, jobs: Sequence[Job], address: str | None, folder: Path | None
) -> Engine:
    """Return what builds: this machine, or a cluster that was checked."""
    from imgbuilder.fleet.budget import Budget, usable_processors
    from imgbuilder.fleet.pool import Pool

    if address is None:
        return Pool(state, Budget(call.options["jobs"] or usable_processors()), _passed_on(call))
    from imgbuilder.fleet.cluster import Cluster, connect  # late: it loads Dask

    client = connect(address, folder)
    engine = Cluster(client, state, _passed_on(call), call.settings, call.options["jobs"])
    try:
        engine.check(jobs)
    except BaseException:
        engine.close()
        raise
    return engine


def fleet_status(call: Call) -> int:
    """Show the state of each host; return 1 unless all are built and up to date."""
    from imgbuilder.fleet.places import Places
    from imgbuilder.fleet.state import FleetState, Standing

    fleet = _read(call)
    if fleet is None:
        return UsageError.exit_code
    state = FleetState.of(fleet)
    found = _survey(call, fleet, state, None, Places(fleet.hosts))
    if call.options["json"]:
        data = [
            {"host": one.host.name, "state": one.standing.name.lower(), "output": one.host.goes_to,
             "finished": one.record and one.record.finished, "message": one.record and one.record.message}
            for one in found
        ]  # fmt: skip
        show(json.dumps(data, indent=2) + "\n")
    else:
        rows = [("HOST", "STATE", "FINISHED", "OUTPUT")]
        for one in found:
            finished = one.record.finished if one.record else "-"
            rows.append((one.host.name, one.standing.value, finished, _place(one.host)))
        show(_table(rows))
        for one in found:
            if one.record and one.record.message:
                show(f"{one.host.name}: {one.record.message}; see {_near(state.log(one.host.name))}\n")
    return 0 if all(one.standing is Standing.BUILT for one in found) else 1


def export_fleet(call: Call) -> int:
    """Print a job file that builds the fleet in parts."""
    from imgbuilder.fleet.export import kubernetes_job, slurm_job

    kind, image = call.options["to"], call.options["image"]
    if (kind == "kubernetes") != bool(image):
        needs = "needs" if kind == "kubernetes" else "does not need"
        raise UsageError(
            f"--to {kind} {needs} the name of a container image",
            hint="pybuilder fleet export fleet.toml --to kubernetes --image registry.example.org/pybuilder",
        )
    fleet = _read(call)
    if fleet is None:
        return UsageError.exit_code
    parts = min(call.options["parts"] or len(fleet.hosts), len(fleet.hosts))
    show(slurm_job(fleet, parts) if kind == "slurm" else kubernetes_job(fleet, parts, image))
    return 0


def _survey(
    call: Call, fleet: Fleet, state: FleetState, part: tuple[int, int] | None, places: Places
) -> tuple[Surveyed, ...]:
    from imgbuilder.building.request import HostsideMode
    from imgbuilder.fleet.survey import survey

    if part is not None:
        number, parts = part
        fleet = replace(fleet, hosts=fleet.hosts[number - 1 :: parts])
    chosen = call.options.get("hostside")
    hostside = None if chosen is None else HostsideMode(chosen)
    found = survey(fleet, state, call.services, places, call.reporter, hostside=hostside)
    call.reporter.close()
    return found


def _part(text: str | None) -> tuple[int, int] | None:
    """Read the value of ``--only``."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--only {text!r} is not a part", hint="--only 2/3 is the second of three parts")
    return int(match[1]), int(match[2])


_NOT_PASSED_ON = {
    "json", "only", "changed", "jobs", "machine_readable", "quiet", "cluster", "cluster_tls",
}  # fmt: skip


def _passed_on(call: Call) -> list[str]:
    """Return the options of the command line that hold for each build as well."""
    words = []
    for param in call.ctx.command.params:
        name = param.name or ""
        given = call.ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not isinstance(param, click.Option) or not given or name in _NOT_PASSED_ON:
            continue
        value = call.options[name]
        if param.is_flag:
            words.append(param.opts[-1] if value else param.secondary_opts[-1])
        else:
            for text in value if param.multiple else (value,):
                words += [param.opts[-1], str(text)]
    return words


def _rows(found: tuple[Surveyed, ...], state: FleetState) -> list[tuple[Surveyed, Record | None, Standing]]:
    rows = []
    for one in found:
        record = state.record(one.host.name)
        there = one.there or (record is not None and record != one.record and record.built)
        standing = state.standing(one.host, record, one.job.key, one.job.template, there=there)
        rows.append((one, record, standing))
    return rows


def _write_report(state: FleetState, name: str, rows: list[tuple[Surveyed, Record | None, Standing]]) -> None:
    from imgbuilder.fleet.report import html_report
    from imgindex.files import write_file

    try:
        write_file(state.folder / _REPORT, html_report(f"Fleet {name}", rows).encode())
    except OSError as error:
        raise WorkspaceError(f"the report cannot be written: {error.strerror or error}") from error


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
        _show_mistakes(call, error)
        return None


def _show_mistakes(call: Call, error: FleetError) -> int:
    """Show all mistakes of a fleet; return the exit code."""
    for problem in error.problems:
        call.reporter.error(problem.message, problem.hint)
    call.reporter.error(error.message, error.hint)
    return error.exit_code


def _as_data(host: Host) -> dict[str, object]:
    return {
        "host": host.name,
        "template": host.recipe.settings["template"],
        "output": host.goes_to,
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


def _then(host: Host) -> str:
    """Return what follows the build, for an image that goes to another machine."""
    if host.remote is None:
        return ""
    place = f"the image is put to {host.remote.kind}, {host.remote.holder}"
    domain = host.remote.domain
    if domain is None:
        return place
    return f"{place}, and its machine is {'defined and started' if domain.start else 'defined'}"


def _place(host: Host) -> str:
    return _near(host.output) if host.remote is None else host.goes_to


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of cells, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
