"""Fleets on a real Dask scheduler and two nodes; the builder is a small program."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from imgbuilder.errors import ToolError, UsageError
from imgbuilder.fleet import child, node
from imgbuilder.fleet.cluster import Cluster, check_address, connect
from imgbuilder.fleet.hosts import read_fleet
from imgbuilder.fleet.node import Node, NodeError, check_folders, write_order
from imgbuilder.fleet.state import FleetState
from imgbuilder.services import Settings
from imgindex import __version__
from tests.fakes.dasknodes import DaskNodes, dask_nodes, make_authority
from tests.fakes.fleetbuilder import PROGRAM, coordinate, jobs_of
from tests.fakes.s3server import s3_server, use_test_account
from tests.unit.imgbuilder.fleet.test_fleet_builds import CANARY, coordinator, fleet, records, wait_for

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskNodes]:
    with dask_nodes(tmp_path_factory.mktemp("dask") / "site") as started:
        started.add("n1", "n2", fake=True)
        yield started


@pytest.mark.row("L5")
def test_the_failure_of_one_stops_no_other(nodes: DaskNodes, tmp_path: Path) -> None:
    path = fleet(tmp_path, "", "fail", "crash", "silent", "crash its node", "")
    progress = coordinate(path, lambda _progress: None, cluster=(nodes.address, str(nodes.tls)))
    log = path.with_suffix(".state") / "h4.log"
    assert records(path) == {
        "h1": (True, "", ""),
        "h2": (False, "it does not fit", "make it smaller"),
        "h3": (False, "the build was killed by SIGKILL", "probably out of memory (see: dmesg)"),
        "h4": (False, "the build failed with status 7", f"see {log}"),
        "h5": (
            False,
            "each node that began it was lost",
            "see the logs of the workers; their memory may be too small for it",
        ),
        "h6": (True, "", ""),
    }
    assert {record.node for record in progress.records if record.built} <= {"n1", "n2"}
    # Only what may be the fault of a node was tried on others.
    begun = [line for line in (tmp_path / "out/counts").read_text().split() if line]
    assert len(begun) == 4 + 3 + 3, "four hosts once, h3 and h5 three times"


@pytest.mark.row("L2")
def test_the_second_signal_stops_the_builds_of_all_nodes(nodes: DaskNodes, tmp_path: Path) -> None:
    path = fleet(tmp_path, "", "wait", "wait", "wait")
    os.mkfifo(tmp_path / "out/go")
    with coordinator(path, nodes.address, nodes.tls) as process:
        wait_for(process, "running h2 h3")
        process.send_signal(signal.SIGINT)
        wait_for(process, "running h2 h3 stopping 1")
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=120)
        assert process.returncode == 130, err
    assert records(path)["h2"][:2] == (False, "the build was killed by SIGTERM")
    assert "h4" not in records(path)
    commands = [one.info["cmdline"] or [] for one in psutil.process_iter(["cmdline"])]  # a zombie has none
    assert [words for words in commands if str(path.parent) in words] == []


@pytest.mark.row("L5")
def test_builds_of_a_killed_coordinator_come_to_their_end_and_count(nodes: DaskNodes, tmp_path: Path) -> None:
    path = fleet(tmp_path, "", "wait", "wait", "wait")
    os.mkfifo(tmp_path / "out/go")
    with coordinator(path, nodes.address, nodes.tls) as process:
        wait_for(process, "running h2 h3")
        process.kill()
    go = os.open(tmp_path / "out/go", os.O_RDWR)  # until both have seen it
    while len(records(path)) < 3:
        time.sleep(0.1)
    os.close(go)
    fleet(tmp_path, "", "wait", "wait", "")
    progress = coordinate(path, lambda _progress: None, cluster=(nodes.address, str(nodes.tls)))
    assert [record.host for record in progress.records] == ["h4"]
    assert not list(path.with_suffix(".state").glob(".pybuilder-*"))


@pytest.mark.row("L5")
def test_nodes_put_images_to_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    monkeypatch.setenv("FAKE_BUILDER_FOLDER", str(tmp_path))
    with s3_server() as url, dask_nodes(tmp_path / "site") as nodes, monkeypatch.context() as known:
        use_test_account(known)
        bucket = boto3.client("s3", endpoint_url=url)
        bucket.create_bucket(Bucket="fleet")
        path = fleet(tmp_path, "disk one", "disk two")
        more = f'output = "s3://fleet/{{host}}.img"\nserver = "{url}"'
        path.write_text(path.read_text().replace('output = "out/{host}"', more))
        where = (nodes.address, str(nodes.tls))
        # The first node has no credentials: it says so before any work.
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            known.delenv(variable)
        known.setenv("HOME", str(tmp_path))
        known.setenv("AWS_EC2_METADATA_DISABLED", "true")
        nodes.add("n1", fake=True)
        use_test_account(known)
        with pytest.raises(ToolError, match=r"node tls://.*: s3://fleet cannot be listed: .*credentials"):
            coordinate(path, lambda _progress: None, cluster=where)
        assert not (tmp_path / "counts").exists()
        nodes.kill("n1")
        nodes.add("n2", fake=True)
        progress = coordinate(path, lambda _progress: None, cluster=where)
        assert [record.node for record in progress.records] == ["n2", "n2"]
        for name, seed in (("h1", "disk one"), ("h2", "disk two")):
            body = bucket.get_object(Bucket="fleet", Key=f"{name}.img")["Body"].read()
            assert body == (seed.encode() * 1000).ljust(16 << 20, b"\0")
        assert coordinate(path, lambda _progress: None, cluster=where).records == []
        bucket.delete_object(Bucket="fleet", Key="h2.img")
        again = coordinate(path, lambda _progress: None, cluster=where).records
        assert [record.host for record in again] == ["h2"]


@pytest.mark.row("L6")
def test_certificates_of_another_authority(nodes: DaskNodes, tmp_path: Path) -> None:
    stranger = make_authority(tmp_path / "stranger")
    with pytest.raises(ToolError, match="no connection to the scheduler"):
        connect(nodes.address, stranger)
    with pytest.raises(ToolError, match="no connection to the scheduler"):
        connect(nodes.address.replace("tls:", "tcp:"), None)
    (stranger / "node.key").chmod(0o644)
    for address, folder, problem in (
        ("tcp://192.0.2.1:8786", None, "every program that reaches a worker"),
        ("tls://192.0.2.1:8786", None, "needs --cluster-tls DIR"),
        ("tcp://127.0.0.1:8786", stranger, "is for tls:// addresses"),
        ("192.0.2.1:8786", stranger, "is not the address of a scheduler"),
        ("tls://192.0.2.1:8786", tmp_path, "ca.pem is missing"),
        ("tls://192.0.2.1:8786", stranger, "other users may read"),
    ):
        with pytest.raises(UsageError, match=problem):
            check_address(address, folder)


class Skewed:
    """A client whose scheduler, or one of its workers, has other versions."""

    def __init__(self, **others: str | None) -> None:
        ours = {"virt-pybuilder": __version__, "distributed": "2026.8.0"}
        theirs = {**ours, **{name.replace("_", "-"): version for name, version in others.items()}}
        good, other = {"packages": ours}, {"packages": theirs}
        self.found: dict[str, Any] = {"client": good, "scheduler": good, "workers": {"tls://n1:1": other}}

    def get_versions(self, packages: list[str]) -> dict[str, Any]:
        return self.found


def test_other_versions_are_refused() -> None:
    def check(**others: str | None) -> None:
        cluster = Cluster.__new__(Cluster)
        cluster._client = Skewed(**others)
        cluster._check_versions()

    check()
    with pytest.raises(ToolError, match=r"tls://n1:1 has distributed 2024.12.1, and this machine 2026.8.0"):
        check(distributed="2024.12.1")
    with pytest.raises(ToolError, match="has virt-pybuilder not installed, and this machine"):
        check(virt_pybuilder=None)


@pytest.mark.row("L5")
def test_a_host_is_built_once_and_from_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "_check_template", lambda self, order: None)
    monkeypatch.setattr(child, "PROGRAM", PROGRAM)
    monkeypatch.setenv("ROOT_PW", CANARY)
    (tmp_path / "page").write_text("one")
    (tmp_path / "r.toml").write_text('[[operation]]\nupload = "page"\ndestination = "/srv/page"\n')
    path = fleet(tmp_path, "", more='[secrets]\nROOT = "env:ROOT_PW"\n')
    path.write_text('recipe = "r.toml"\n' + path.read_text())
    found = read_fleet(path)
    state = FleetState.of(found)
    order = path.with_suffix(".state") / ".run.h1"
    with state.building(shared=False):
        write_order(order, jobs_of(found, state)[0], state, [], Settings())
    assert CANARY.encode() not in order.read_bytes()

    def build() -> tuple[bool, str]:
        record = Node("n1").build(order, lambda: False)
        assert record is not None
        return record.built, record.message

    assert build() == (True, "")
    assert build() == (True, "")
    assert len((tmp_path / "out/counts").read_text().split()) == 1, "it was there, from the same"
    (tmp_path / "out/h1").unlink()
    (tmp_path / "page").write_text("two")
    assert build() == (False, f"{tmp_path / 'page'} is not the same here (node n1)")
    (tmp_path / "page").write_text("one")
    monkeypatch.setenv("ROOT_PW", "another value")
    assert build() == (False, "env:ROOT_PW is not the same here (node n1)")
    monkeypatch.setenv("ROOT_PW", CANARY)
    monkeypatch.setattr(node, "__version__", "0.0.1")
    assert build()[1].startswith("pybuilder here is 0.0.1, and that of the coordinator")
    order.unlink()
    with pytest.raises(NodeError) as raised:
        build()
    assert raised.value.record.host == "h1"
    assert "cannot be read: No such file" in raised.value.record.message


def test_folders_that_are_not_shared(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_text("x")
    assert check_folders({str(mark): "x"}) == ""
    assert check_folders({str(mark): "y"}) == f"{tmp_path} is another folder there"
    assert "is not shared with it (No such file" in check_folders({str(tmp_path / "none"): "x"})
