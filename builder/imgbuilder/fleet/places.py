"""Finds out what is at the places of a fleet's images; each server is asked once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

from imgbuilder.errors import PybuilderError, UsageError
from imgbuilder.fleet.engine import Job
from imgbuilder.fleet.hosts import Host
from imgbuilder.fleet.state import FleetState
from imgbuilder.outputs.store import Remote, Store, open_store

Shelf = tuple[str, str, str]


class Places:
    """The places of the images of some hosts."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        self._names: defaultdict[Shelf, set[str]] = defaultdict(set)
        for host in hosts:
            if host.remote is not None:
                self._names[_shelf(host.remote)].add(host.remote.name)
        self._stores: dict[Shelf, Store] = {}
        self._found: dict[Shelf, set[str]] = {}

    def has(self, host: Host) -> bool:
        """Return whether there is something at the place of a host's image."""
        if host.remote is None:
            return os.path.lexists(host.output)
        return host.remote.name in self._on_shelf(host.remote)

    def _on_shelf(self, remote: Remote) -> set[str]:
        shelf = _shelf(remote)
        if shelf not in self._found:
            self._stores[shelf] = open_store(remote)
            self._found[shelf] = self._stores[shelf].found(self._names[shelf])
        return self._found[shelf]

    def check(self, jobs: Sequence[Job], state: FleetState) -> list[UsageError]:
        """Return why images cannot be put to their places, before any work: none if all can."""
        problems = []
        for job in jobs:
            host, remote = job.host, job.host.remote
            if remote is None:
                continue
            try:
                if remote.name in self._on_shelf(remote) or remote.domain is not None:
                    self._stores[_shelf(remote)].check(remote, ours=state.owns(host.name, remote))
            except PybuilderError as error:
                problems.append(UsageError(f"{host.place()}: {host.name}: {error.message}", hint=error.hint))
        return problems


def _shelf(remote: Remote) -> Shelf:
    return remote.kind, remote.server, remote.holder
