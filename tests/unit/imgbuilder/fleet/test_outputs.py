"""Fleets whose images go to libvirt and to S3: real servers, and the builder is a small program."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psutil
import pytest

from imgbuilder.errors import PybuilderError, ToolError
from imgbuilder.fleet.engine import Progress
from imgbuilder.fleet.entries import FleetError
from imgbuilder.fleet.hosts import read_fleet
from imgbuilder.outputs.libvirt import LibvirtPool
from imgbuilder.outputs.store import Remote, open_store
from tests.fakes.fleetbuilder import coordinate
from tests.fakes.libvirtd import Libvirt, user_libvirt
from tests.fakes.s3server import s3_server, use_test_account
from tests.unit.imgbuilder.fleet.test_fleet_builds import coordinator, records

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders for temporary images, and for what the builder notes."""
    for name, variable in (("tmp", "TMPDIR"), ("notes", "FAKE_BUILDER_FOLDER")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))


@pytest.fixture
def libvirt() -> Iterator[Libvirt]:
    with user_libvirt() as started:
        yield started


def write(folder: Path, output: str, *hosts: str, server: str = "qemu:///system") -> Path:
    """Write a fleet; a host is its seed, and more of its keys."""
    path = folder / "fleet.toml"
    tables = "".join(f'[[host]]\nname = "h{n}"\nseed = {host}\n' for n, host in enumerate(hosts, 1))
    path.write_text(f'[defaults]\ntemplate = "x"\noutput = "{output}"\nserver = "{server}"\n{tables}')
    return path


def build(path: Path, *, changed: bool = False) -> Progress:
    return coordinate(path, lambda _progress: None, changed=changed)


def problems_of(path: Path, *, changed: bool = False) -> list[str]:
    with pytest.raises(FleetError) as caught:
        build(path, changed=changed)
    return [f"{problem.message} | {problem.hint}" for problem in caught.value.problems]


def disk(seed: str) -> bytes:
    return (seed.encode() * 1000).ljust(16 << 20, b"\0")


@pytest.mark.row("L7")
def test_volumes_and_machines_of_libvirt(libvirt: Libvirt, tmp_path: Path) -> None:
    mac = 'addresses = ["192.0.2.7/24"]\nmac = "52:54:00:00:00:07"\ndomain = "start"\nmemory = "96"'
    path = write(
        tmp_path, "libvirt:images", '"disk one"', f'"disk two"\n{mac}\ncpus = "2"', server=libvirt.server
    )
    build(path)
    assert records(path) == {"h1": (True, "", ""), "h2": (True, "", "")}
    assert (libvirt.pool / "h1.img").read_bytes() == disk("disk one")
    assert (libvirt.pool / "h1.img").stat().st_blocks < 100, "holes stay holes"
    assert libvirt("domstate", "h2").strip() == "running"
    domain = ET.fromstring(libvirt("dumpxml", "h2"))
    source = domain.find("devices/disk/source")
    assert source is not None
    assert (source.get("pool"), source.get("volume")) == ("images", "h2.img")
    card = domain.find("devices/interface/mac")
    assert card is not None
    assert card.get("address") == "52:54:00:00:00:07"
    assert (domain.findtext("vcpu"), domain.findtext("memory")) == ("2", str(96 << 10))
    assert list((tmp_path / "tmp").iterdir()) == []

    # What is there is not built again; what is missing is.
    assert build(path).records == []
    libvirt("vol-delete", "h1.img", "--pool", "images")
    assert [record.host for record in build(path).records] == ["h1"]

    # What has changed replaces a machine that is shut down, and no other.
    write(tmp_path, "libvirt:images", '"disk uno"', f'"disk due"\n{mac}\ncpus = "3"', server=libvirt.server)
    (problem,) = problems_of(path, changed=True)
    assert problem == (
        f"{path}: line 8: h2: libvirt:images/h2.img is the disk of h2, which runs "
        f"| shut it down first: virsh -c '{libvirt.server}' shutdown h2"
    )
    assert (libvirt.pool / "h1.img").read_bytes() == disk("disk one"), "no work was done"
    uuid = libvirt("domuuid", "h2")
    libvirt("destroy", "h2")
    build(path, changed=True)
    assert records(path) == {"h1": (True, "", ""), "h2": (True, "", "")}
    assert [(libvirt.pool / f"{name}.img").read_bytes() for name in ("h1", "h2")] == [
        disk("disk uno"),
        disk("disk due"),
    ]
    assert libvirt.volumes() == {"h1.img", "h2.img"}
    assert (libvirt("domuuid", "h2"), libvirt("domstate", "h2").strip()) == (uuid, "running")


@pytest.mark.row("L7")
def test_what_libvirt_has_of_others_stays(libvirt: Libvirt, tmp_path: Path) -> None:
    path = write(
        tmp_path, "libvirt:images/{host}", '"disk"', '"disk"\ndomain = "define"', server=libvirt.server
    )
    libvirt("vol-create-as", "images", "h1", "4096")
    other = "<domain type='qemu'><name>h2</name><memory>1024</memory><os><type>hvm</type></os></domain>"
    (tmp_path / "other.xml").write_text(other)
    libvirt("define", str(tmp_path / "other.xml"))
    first, second = problems_of(path)
    assert f"{path}: line 5: h1: libvirt:images/h1 is there already, and this fleet has not made it" in first
    assert f"virsh -c '{libvirt.server}' vol-delete h1 --pool images" in first
    assert f"{path}: line 8: h2: libvirt has a machine h2, and this fleet has not made it" in second
    assert libvirt.volumes() == {"h1"}
    path = write(tmp_path, "libvirt:none", '"disk"', server=libvirt.server)
    (problem,) = problems_of(path)
    assert problem.endswith("'none' | see its pools with: virsh pool-list --all")
    libvirt("pool-define-as", "off", "dir", "--target", str(tmp_path))
    (problem,) = problems_of(write(tmp_path, "libvirt:off", '"disk"', server=libvirt.server))
    assert "pool 'off' is not active | start it with: virsh pool-start off" in problem
    (problem,) = problems_of(write(tmp_path, "libvirt:off", '"disk"', server="test+tcp://127.0.0.1:1/x"))
    assert "failed to connect" in problem


@pytest.mark.row("L7")
def test_an_upload_that_breaks_off_leaves_nothing(
    libvirt: Libvirt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["sh", "-c", "command -v virsh"], capture_output=True, text=True, check=True)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/virsh"
    go = tmp_path / "go"
    os.mkfifo(go)
    virsh = real.stdout.strip()
    script.write_text(
        f'#!/bin/sh\ncase "$*" in *vol-upload*) {virsh} "$@"; echo "error: connection reset" >&2; exit 1;; '
        f'esac\nexec {virsh} "$@"\n'
    )
    script.chmod(0o755)
    path = write(tmp_path, "libvirt:images", '"disk one"', server=libvirt.server)
    build(path)
    with monkeypatch.context() as broken:
        broken.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        write(tmp_path, "libvirt:images", '"disk uno"', '"disk two"', server=libvirt.server)
        build(path, changed=True)
        message = "libvirt:images at qemu+unix:///session?socket=***: connection reset"
        assert records(path) == dict.fromkeys(("h1", "h2"), (False, message, ""))
        assert libvirt.volumes() == {"h1.img"}
        assert (libvirt.pool / "h1.img").read_bytes() == disk("disk one"), "the old one is still there"
        # Killed, with all that it had started, in the middle of an upload, or when a volume was just made.
        for moment, seconds in (("vol-upload", 100), ("vol-create-as", 1)):
            script.write_text(
                f'#!/bin/sh\ncase "$*" in *{moment}*) {virsh} "$@"; exec 3<>{go}; echo up >&3; '
                f'sleep {seconds}; exit 0;; esac\nexec {virsh} "$@"\n'
            )
            with coordinator(path) as process:
                with go.open() as said:
                    assert said.readline() == "up\n"
                    children = psutil.Process(process.pid).children(recursive=True)
                    process.kill()
                    _gone, alive = psutil.wait_procs(children, timeout=60)
                    assert alive == []
                # The processes of the hosts end with it, and remove what they have begun.
                assert libvirt.volumes() == {"h1.img"}
                assert list((tmp_path / "tmp").iterdir()) == []
            assert process.wait() == -signal.SIGKILL
    build(path)
    assert records(path) == {"h1": (True, "", ""), "h2": (True, "", "")}
    assert libvirt.volumes() == {"h1.img", "h2.img"}
    assert (libvirt.pool / "h1.img").read_bytes() == disk("disk uno")


@pytest.mark.row("L7")
def test_a_full_pool(libvirt: Libvirt, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    small = libvirt.pool.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k,mode=1777", "tmpfs", small], check=True)
    try:
        libvirt("pool-create-as", "small", "dir", "--target", str(small))
        path = write(tmp_path, "libvirt:small", f'"{"disk" * 10}"', server=libvirt.server)
        build(path)
        _built, message, hint = records(path)["h1"]
        assert message.startswith("libvirt:small at ")
        assert hint == "delete volumes that are no longer needed, or choose another pool"
        assert list(small.iterdir()) == []
        libvirt("pool-destroy", "small")
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


_numbers = itertools.count()


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    import boto3

    use_test_account(monkeypatch)
    client, name = boto3.client("s3", endpoint_url=s3_url), f"fleet-{next(_numbers)}"
    client.create_bucket(Bucket=name)
    return client, name


def objects(client: Any, name: str) -> dict[str, str]:
    listed = client.list_objects_v2(Bucket=name).get("Contents", [])
    return {
        item["Key"]: hashlib.sha256(
            client.get_object(Bucket=name, Key=item["Key"])["Body"].read()
        ).hexdigest()
        for item in listed
    }


@pytest.mark.row("L7")
def test_objects_of_s3(bucket: tuple[Any, str], s3_url: str, tmp_path: Path) -> None:
    client, name = bucket
    path = write(tmp_path, f"s3://{name}/images/{{host}}.raw", '"disk one"', '"disk two"', server=s3_url)
    client.put_object(Bucket=name, Key="images/h2.raw", Body=b"of another")
    (problem,) = problems_of(path)
    assert problem.startswith(
        f"{path}: line 8: h2: s3://{name}/images/h2.raw is there already, and this fleet"
    )
    client.delete_object(Bucket=name, Key="images/h2.raw")
    build(path)
    digests = [hashlib.sha256(disk(seed)).hexdigest() for seed in ("disk one", "disk two", "disk uno")]
    assert objects(client, name) == {"images/h1.raw": digests[0], "images/h2.raw": digests[1]}
    assert build(path).records == []
    client.delete_object(Bucket=name, Key="images/h2.raw")
    # Parts that a killed upload left do not stay.
    client.create_multipart_upload(Bucket=name, Key="images/h2.raw")
    write(tmp_path, f"s3://{name}/images/{{host}}.raw", '"disk uno"', '"disk two"', server=s3_url)
    assert sorted(record.host for record in build(path, changed=True).records) == ["h1", "h2"]
    assert objects(client, name) == {"images/h1.raw": digests[2], "images/h2.raw": digests[1]}
    assert not client.list_multipart_uploads(Bucket=name).get("Uploads")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.row("L7")
def test_s3_that_does_not_serve(
    bucket: tuple[Any, str], s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (problem,) = problems_of(write(tmp_path, "s3://no-such-bucket/", '"disk"', server=s3_url))
    assert "s3://no-such-bucket cannot be listed: " in problem
    assert "NoSuchBucket" in problem
    path = write(tmp_path, f"s3://{bucket[1]}/", '"disk"', server=s3_url)
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (problem,) = problems_of(path)
    assert "Unable to locate credentials | check bucket, credentials" in problem
    assert not (tmp_path / "notes/counts").exists(), "nothing was built"


def test_a_missing_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="the program virsh is not installed") as caught:
        LibvirtPool(Remote("libvirt", "default", "a"))
    assert "libvirt-clients" in str(caught.value.hint)
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(ToolError, match="boto3, which is not installed"):
        open_store(Remote("s3", "bucket", "a"))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ('output = "libvirt:-x"', "'libvirt:-x' is not a volume"),
        ('output = "libvirt:p/a/b"', "is not a volume"),
        ('output = "s3://B/x"', "'s3://B/x' is not an object"),
        ('output = "ftp://user:CANARY@host/x"', "images cannot be put to"),
        ('output = "glance:x"', "images cannot be put to 'glance:x'"),
        ('output = "s3:bucket/x"', "images cannot be put to 's3:bucket/x'"),
        ('output = "block:/dev/no-such-device"', "/dev/no-such-device is not a block device"),
        ('output = "block:relative"', "relative is not a block device"),
        ('output = "libvirt:p"\nformat = "vmdk"', "libvirt's pools take no vmdk images"),
        ('output = "libvirt:p"\nserver = "qemu://u:CANARY@h/system"', "is not the address of a server"),
        ('output = "s3://bucket/"\nserver = "https://u:CANARY@h/"', "is not the address of a server"),
        ('output = "libvirt:p"\ndomain = "run"', "'run' is neither define nor start"),
        ('output = "libvirt:p"\ndomain = "start"\nmemory = "1G"', "a positive whole number is expected"),
        ('output = "libvirt:p"\ncpus = "2"', "cpus needs domain"),
        ('output = "s3://bucket/"\ndomain = "start"', "domain is for an output of libvirt:..."),
        ('server = "qemu:///system"', "server is for an output of libvirt:... or s3:..."),
    ],
)
def test_outputs_that_are_none(tmp_path: Path, keys: str, problem: str) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(f'[[host]]\nname = "h"\ntemplate = "x"\n{keys}\n')
    with pytest.raises(FleetError) as caught:
        read_fleet(path)
    texts = [str(found) for found in caught.value.problems]
    assert any(problem in text and f"{path}: line " in text for text in texts), texts
    assert "CANARY" not in "".join(texts)


def test_two_hosts_with_one_output(tmp_path: Path) -> None:
    path = write(tmp_path, "libvirt:images/same.img", '"a"', '"b"')
    with pytest.raises(PybuilderError) as caught:
        read_fleet(path)
    assert isinstance(caught.value, FleetError)
    assert (
        "h2 has the output libvirt:images/same.img at qemu:///system of h1"
        in caught.value.problems[0].message
    )
    path.write_text(path.read_text() + 'server = "qemu+ssh://other/system"\n')
    assert len(read_fleet(path).hosts) == 2, "a pool of another machine"
