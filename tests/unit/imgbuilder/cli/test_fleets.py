"""``pybuilder fleet``: real builds of a small template on the host, three at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.commands import Command
from tests.fakes.keys import KeyMaker
from tests.fakes.libvirtd import user_libvirt
from tests.fakes.loopdevice import loop_device
from tests.fakes.s3server import s3_server, use_test_account
from tests.fakes.terminal import Terminal
from tests.guest.layouts import MIB
from tests.guest.smallguest import small_site

FLEET = """\
recipe = "r.toml"
hosts = "hosts.csv"
[defaults]
template = "small"
output = "images/{host}.img"
[secrets]
ROOT = "file:secret"
[[host]]
range = "web[1-2]"
set = { role = "front" }
"""
RECIPE = """\
[variables]
role = {}
[[operation]]
write = "/etc/role"
content = "${{ role }}"
[[operation]]
root-password = "secret:ROOT"
"""


@pytest.fixture
def fleet(tmp_path: Path, home: Path, publisher_keys: KeyMaker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fleet of three hosts in the current folder, and a signed source with its template."""
    folder = tmp_path / "site"
    folder.mkdir()
    small_site(folder, publisher_keys).configure(home)
    monkeypatch.setenv("PYBUILDER_HOSTSIDE", "always")
    Path("images").mkdir()
    for name, text in (("fleet.toml", FLEET), ("r.toml", RECIPE), ("secret", "s3cret\n")):
        Path(name).write_text(text)
    Path("hosts.csv").write_text("name,role\ndb,back\n")
    return Path("fleet.toml").absolute()


def content(host: str, path: str) -> bytes:
    """Read a file of a host's image."""
    return content_of(Path(f"images/{host}.img"), path)


def content_of(disk: Path, path: str) -> bytes:
    """Read a file of a raw disk, whose root begins at 2 MiB."""
    image = f"{disk}?offset={2 * MIB}"
    return subprocess.run(
        ["/sbin/debugfs", "-R", f"cat {path}", image], capture_output=True, check=True
    ).stdout


def test_plan_build_status(fleet: Path, pybuilder: Command) -> None:
    planned = pybuilder("fleet", "plan", "fleet.toml").good().out
    assert planned.startswith(
        "HOST  TEMPLATE  SIZE  ADDRESSES  OUTPUT\nweb1  small     -     -          images/"
    )
    assert "3 hosts like web1:\n" in planned
    assert list(Path("images").iterdir()) == []
    assert pybuilder("fleet", "status", "fleet.toml").code == 1

    built = pybuilder("fleet", "build", "fleet.toml", "--jobs", "3").good().out
    assert "3 built, 0 failed, 0 as they were\nreport: fleet.state/report.html\n" in built
    assert [content(host, "/etc/hostname").strip() for host in ("web1", "db")] == [b"web1", b"db"]
    assert [content(host, "/etc/role") for host in ("web2", "db")] == [b"front", b"back"]
    assert pybuilder("fleet", "status", "fleet.toml").good().out.count(" built ") == 3
    assert Path("fleet.state/report.html").read_text().count("<td>built</td>") == 3

    # Only what changed is built again, and only when asked for.
    Path("hosts.csv").write_text("name,role\ndb,other\n")
    status = json.loads(pybuilder("fleet", "status", "fleet.toml", "--json").out)
    assert {one["host"]: one["state"] for one in status} == {
        "web1": "built",
        "web2": "built",
        "db": "changed",
    }
    assert "to build again: --changed" in pybuilder("fleet", "build", "fleet.toml").good().out
    assert content("db", "/etc/role") == b"back"
    lines = pybuilder("fleet", "build", "fleet.toml", "--changed", "--json").good().out.splitlines()
    assert [json.loads(line)["host"] for line in lines] == ["db"]
    assert content("db", "/etc/role") == b"other"


def test_a_part_and_a_failure(fleet: Path, pybuilder: Command) -> None:
    with Path("hosts.csv").open("a") as table:
        table.write("big,x\n")
    fleet.write_text(
        FLEET.replace("[[host]]", '[[host]]\nname = "tiny"\nsize = "1M"\nset = { role = "x" }\n[[host]]', 1)
    )
    ran = pybuilder("fleet", "build", "fleet.toml")

    ran.failed(2, "fleet.toml: line 8: tiny: ", "cannot be shrunk")
    assert list(Path("images").iterdir()) == [], "found before any work"
    fleet.write_text(FLEET)
    pybuilder("fleet", "build", "fleet.toml", "--only", "2/4").good()
    assert [path.name for path in Path("images").iterdir()] == ["web2.img"]
    for wrong in ("0/2", "3/2", "1", "a/b"):
        pybuilder("fleet", "build", "fleet.toml", "--only", wrong).failed(2, "is not a part")
    # An operation that fails in the guest: the others are built, and the log is named.
    Path("r.toml").write_text(RECIPE.replace("/etc/role", "/${{ role }}/role"))
    ran = pybuilder("fleet", "build", "fleet.toml")
    assert ran.code == 1
    assert "0 built, 3 failed, 0 as they were\n1 image would be different" in ran.out
    assert pybuilder("fleet", "status", "fleet.toml").out.count("; see fleet.state/") == 3


def test_a_table_on_a_terminal(fleet: Path, pybuilder: Command) -> None:
    words = [sys.executable, "-m", "imgbuilder", "fleet", "build", "fleet.toml", "--jobs", "2"]
    terminal = Terminal(words, os.environ, Path.cwd())
    try:
        terminal.wait_for(r"  web1  .*\r\n0 of 3 built, 1 running\r\n")
        terminal.wait_for(r"\[1/3\] web1: built in [0-9.]+ s\r\n")
        terminal.wait_for(r"1 of 3 built, 2 running, [0-9]+ a minute, 0:[0-9]{2} left\r\n")
        assert terminal.wait() == 0
    finally:
        terminal.close()
    assert "3 built, 0 failed" in terminal.text


@pytest.mark.timeout(300)
def test_images_on_a_device_in_libvirt_and_in_s3(
    fleet: Path, pybuilder: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boto3 = pytest.importorskip("boto3")
    use_test_account(monkeypatch)
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(200 * MIB)
    with (
        user_libvirt() as libvirt,
        s3_server() as url,
        loop_device(backing) as device,
    ):
        bucket = boto3.client("s3", endpoint_url=url)
        bucket.create_bucket(Bucket="fleet")
        fleet.write_text(
            FLEET.split("[[host]]")[0].replace('hosts = "hosts.csv"\n', "")
            + f"""\
[[host]]
name = "d"
output = "block:{device}"
set = {{ role = "device" }}
[[host]]
name = "v"
output = "libvirt:images"
server = "{libvirt.server}"
domain = "define"
set = {{ role = "volume" }}
[[host]]
name = "o"
output = "s3://fleet/images/{{host}}.img"
server = "{url}"
set = {{ role = "object" }}
"""
        )
        planned = pybuilder("fleet", "plan", "fleet.toml").good().out
        places = [line.split()[-1] for line in planned.splitlines()[1:4]]
        assert places == [str(device), "libvirt:images/v.img", "s3://fleet/images/o.img"]
        assert "then: the image is put to libvirt, images, and its machine is defined\n" in planned
        assert "3 built, 0 failed" in pybuilder("fleet", "build", "fleet.toml").good().out
        bucket.download_file("fleet", "images/o.img", "o.img")
        roles = [content_of(disk, "/etc/role") for disk in (device, libvirt.pool / "v.img", Path("o.img"))]
        assert roles == [b"device", b"volume", b"object"]
        assert libvirt("domstate", "v").strip() == "shut off"
        assert pybuilder("fleet", "status", "fleet.toml").good().out.count(" built ") == 3
        assert "<td>libvirt:images/v.img</td>" in Path("fleet.state/report.html").read_text()
        bucket.delete_object(Bucket="fleet", Key="images/o.img")
        ran = pybuilder("fleet", "status", "fleet.toml", "--json")
        assert [one["state"] for one in json.loads(ran.out)] == ["built", "built", "missing"]
        # A device that is in use is refused before any work.
        fleet.write_text(fleet.read_text().replace('name = "d"', 'name = "e"'))
        claimed = os.open(device, os.O_RDWR | os.O_EXCL)  # as a mount does
        ran = pybuilder("fleet", "build", "fleet.toml")
        os.close(claimed)
        ran.failed(1, f"e: cannot write to the block device {device}: it is in use")
        assert "fleet.toml: line " in ran.err
        assert not bucket.list_objects_v2(Bucket="fleet").get("Contents")


def test_mistakes_are_all_shown(home: Path, pybuilder: Command) -> None:
    Path("bad.toml").write_text('[[host]]\nname = "a b"\n[[host]]\nname = "b"\nsizee = "1G"\n')
    ran = pybuilder("fleet", "build", "bad.toml").failed(2, "'a b' is not a hostname", "no key 'sizee'")
    assert "bad.toml: 3 mistakes; nothing was built" in ran.err
    assert not Path("bad.state").exists()


def test_jobs_for_schedulers(fleet: Path, pybuilder: Command) -> None:
    script = pybuilder("fleet", "export", "fleet.toml", "--to", "slurm", "--parts", "2").good().out
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --array=1-2\n" in script
    # What the scheduler runs builds exactly the parts: all hosts, each once.
    Path("job.sh").write_text(script.replace("pybuilder", f"{sys.executable} -m imgbuilder"))
    for number in ("1", "2"):
        subprocess.run(["sh", "job.sh"], env={**os.environ, "SLURM_ARRAY_TASK_ID": number}, check=True)
    assert sorted(path.stem for path in Path("images").iterdir()) == ["db", "web1", "web2"]

    words = ["fleet", "export", "fleet.toml", "--to", "kubernetes"]
    pybuilder(*words).failed(2, "needs the name of a container image")
    job = json.loads(pybuilder(*words, "--image", "example.org/p").good().out)
    assert (job["metadata"]["name"], job["spec"]["completions"]) == ("fleet", 3)
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == str(fleet.parent)
    command = pod["containers"][0]["command"][-1]
    shown = subprocess.run(
        ["/bin/sh", "-c", command.replace("exec pybuilder", "echo")],
        env={"JOB_COMPLETION_INDEX": "2"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.endswith("--jobs 2 --only 3/3\n")
