"""Uploading: a real rsync daemon, rsync through a stand-in for ssh, and S3 as moto's server has it."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import (
    RepositoryError,
    RolledBackError,
    ToolError,
    TrustError,
    UploadError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.events import Event, Progress, Reporter, Step, ignore
from imgbuilder.host import process
from imgbuilder.host.hashing import hash_file
from imgindex.gpg import GpgVerifier
from imgindex.model import Index
from imgindex.parse import parse_index
from imgrepo.cli.main import run
from imgrepo.sharing.frames import Stretch
from imgrepo.sharing.rsync import RsyncTarget
from imgrepo.sharing.s3 import S3Target, content_type, copied_parts
from imgrepo.sharing.upload import (
    NOTHING,
    Former,
    Target,
    UploadPlace,
    UploadRequest,
    UploadResult,
    read_place,
    upload,
)
from imgrepo.webroot import edit
from imgrepo.webroot.entries import NamedFile, downloads_of, files_of
from tests.fakes.blocks import BLOCK, disk
from tests.fakes.catalogues import make_library, make_site
from tests.fakes.keys import KeyMaker
from tests.fakes.s3server import s3_server, use_test_account
from tests.unit.imgrepo.conftest import MakeTwin
from tests.unit.imgrepo.repository import Repository

pytestmark = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")

SSH = """#!/bin/sh
# As ssh does it: the words after the host go to a shell there.
echo "$@" >>"$0.log"
[ "$1" = -l ] && shift 2
shift
exec /bin/sh -c "$*"
"""


class Remote(Protocol):
    """A machine to upload to, seen from behind."""

    text: str

    def target(self) -> Target: ...

    def files(self) -> dict[str, bytes]: ...

    def write(self, name: str, data: bytes) -> None: ...


class FolderRemote:
    """A folder that rsync writes to."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text

    def target(self) -> Target:
        return RsyncTarget(read_place(self.text))

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in self.folder.rglob("*")
            if path.is_file()
        }

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)


class BucketRemote:
    """A bucket of moto's server."""

    def __init__(self, client: Any, bucket: str, endpoint: str) -> None:
        self.client, self.bucket, self.endpoint = client, bucket, endpoint
        self.text = f"s3://{bucket}/images/web"

    @functools.cached_property
    def _target(self) -> Target:  # boto3 reads a megabyte of JSON for each client
        return S3Target(read_place(self.text), self.endpoint)

    def target(self) -> Target:
        return self._target

    def files(self) -> dict[str, bytes]:
        listed = self.client.list_objects_v2(Bucket=self.bucket, Prefix="images/web/").get("Contents", [])
        return {
            item["Key"].removeprefix("images/web/"): self.client.get_object(
                Bucket=self.bucket, Key=item["Key"]
            )["Body"].read()
            for item in listed
        }

    def head(self, name: str) -> dict[str, Any]:
        facts: dict[str, Any] = self.client.head_object(Bucket=self.bucket, Key=f"images/web/{name}")
        return facts

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"images/web/{name}", Body=data)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


_buckets = itertools.count()


@pytest.fixture(scope="session")
def s3_client(s3_url: str) -> Any:
    import boto3

    words = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=s3_url, **words)


@pytest.fixture
def bucket(s3_url: str, s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> BucketRemote:
    use_test_account(monkeypatch)
    name = f"bucket-{next(_buckets)}"
    s3_client.create_bucket(Bucket=name)
    return BucketRemote(s3_client, name, s3_url)


def wait_for(port: int) -> None:
    for _try in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FolderRemote]:
    folder = tmp_path / "served"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    owner = "uid = root\ngid = root\n" if os.geteuid() == 0 else ""
    config = tmp_path / "rsyncd.conf"
    config.write_text(
        f"use chroot = no\nlog file = {tmp_path}/rsyncd.log\npid file = {tmp_path}/rsyncd.pid\n{owner}"
        f"transfer logging = yes\nlog format = %o %f %b\n[images]\npath = {folder}\nread only = no\n"
    )
    words = [
        "rsync",
        "--daemon",
        "--no-detach",
        "--address=127.0.0.1",
        f"--port={port}",
        f"--config={config}",
    ]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as running:
        try:
            wait_for(port)
            yield FolderRemote(folder, f"rsync://127.0.0.1:{port}/images")
        finally:
            running.terminate()


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderRemote:
    script = tmp_path / "ssh"
    script.write_text(SSH)
    script.chmod(0o755)
    monkeypatch.setenv("RSYNC_RSH", str(script))
    folder = tmp_path / "machine"
    folder.mkdir()
    return FolderRemote(folder, f"publisher@web.example.org:{folder}/")


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FolderRemote]:
    """A folder behind OpenSSH's own server on the loopback interface, entered with a key."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None:
        pytest.skip("openssh-server is not installed")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it insists, as root
    config = tmp_path / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin prohibit-password\nPidFile none\n"
    )
    client = f"ssh -F none -p {port} -i {tmp_path}/user -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
    monkeypatch.setenv("RSYNC_RSH", f"{client} -o UserKnownHostsFile={tmp_path}/known")
    folder = tmp_path / "machine-of-ssh"
    folder.mkdir()
    log = (tmp_path / "sshd.log").open("wb")
    with log, subprocess.Popen([server, "-D", "-e", "-f", config], stderr=log) as running:
        try:
            wait_for(port)
            yield FolderRemote(folder, f"127.0.0.1:{folder}/")
        finally:
            running.terminate()


@pytest.fixture(params=["machine", "bucket"])
def remote(request: pytest.FixtureRequest) -> Remote:
    made: Remote = request.getfixturevalue(request.param)
    return made


def bring(
    repository: Repository, remote: Remote, target: Target | None = None, **changes: object
) -> UploadResult:
    request = UploadRequest(repository.web, read_place(remote.text), **changes)  # type: ignore[arg-type]
    return upload(
        request, repository.services(), lambda _place: target or remote.target(), repository.events.append
    )


def index_of(repository: Repository, files: dict[str, bytes]) -> Index | None:
    """Read what is served as a client does: verified, every file there and right; None for nothing yet."""
    if "index.asc" not in files:
        return None
    signed = GpgVerifier().verify(files["index.asc"], repository.pin, where="there")
    index = parse_index(signed, where="there")
    for entry in index.entries:
        assert hashlib.sha512(files[entry.file]).hexdigest() == entry.sha512
        assert entry.zstd is not None
        assert hashlib.sha512(files[entry.zstd.file]).hexdigest() == entry.zstd.sha512
    return index


def visible(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if not name.startswith(".")}


def publish_two(repository: Repository) -> None:
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish(zstd_level=1)


@pytest.fixture
def published(twin: MakeTwin) -> Repository:
    return twin(publish_two)


@pytest.mark.parametrize("remote", ["daemon", "bucket"], indirect=True)
def test_everything_arrives_and_nothing_twice(published: Repository, remote: Remote) -> None:
    result = bring(published, remote)
    files = remote.files()
    assert index_of(published, files) == published.read()
    assert set(result.sent) == visible(files) == {p.name for p in published.web.iterdir() if p.name[0] != "."}
    assert result.sent[-1] == "index.asc"
    assert bring(published, remote).sent == ()
    published.add("a.img", b"new")
    published.publish(zstd_level=1)
    names = {file.name for file in downloads_of(published.entry("a"))}
    assert len(names) == 3
    sent = bring(published, remote).sent
    assert set(sent) == names | {"index", "index.asc"}
    assert index_of(published, remote.files()) == published.read()


class Breaks:
    """A target of which the Nth call fails, after it did its work or before."""

    def __init__(self, target: Target, good: int, *, late: bool) -> None:
        self._target, self._left, self._late = target, good, late

    def _call(self, function: Callable[..., Any], *arguments: object) -> Any:
        self._left -= 1
        if self._left < 0 and not self._late:
            raise UploadError("broken")
        result = function(*arguments)
        if self._left < 0:
            raise UploadError("broken")
        return result

    def sizes(self) -> dict[str, int]:
        return self._call(self._target.sizes)  # type: ignore[no-any-return]

    def changed(self, folder: Path, names: Sequence[str]) -> set[str]:
        return self._call(self._target.changed, folder, names)  # type: ignore[no-any-return]

    def read(self, name: str, limit: int) -> bytes:
        return self._call(self._target.read, name, limit)  # type: ignore[no-any-return]

    def put(
        self, folder: Path, names: Sequence[str], on_event: Reporter, former: Mapping[str, Former] = NOTHING
    ) -> tuple[str, ...]:
        sent: list[str] = []
        for name in names:  # one by one, so that each file can be the one that fails
            sent += self._call(self._target.put, folder, [name], on_event, former)
        return tuple(sent)

    def delete(self, names: Sequence[str]) -> None:
        self._call(self._target.delete, names)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("kind", "late"), [("machine", False), ("bucket", True)])
def test_broken_off_at_any_step_what_is_served_is_whole(
    published: Repository, request: pytest.FixtureRequest, kind: str, late: bool
) -> None:
    remote: Remote = request.getfixturevalue(kind)
    bring(published, remote)
    old = published.read()
    published.add("a.img", b"new")
    published.publish(zstd_level=1)
    published.later = timedelta(days=8)
    new = published.read()
    seen: list[Index | None] = []
    for good in range(20):
        try:
            bring(published, remote, Breaks(remote.target(), good, late=late), prune=True, grace=timedelta())
        except UploadError:
            seen.append(index_of(published, remote.files()))
            continue
        break
    assert index_of(published, remote.files()) == new
    assert seen[0] == old
    assert all(index in (old, new) for index in seen)
    assert 6 <= len(seen) < 20


def test_old_files_go_after_the_grace_time_and_only_on_request(published: Repository, remote: Remote) -> None:
    bring(published, remote)
    old = {file.name for file in downloads_of(published.entry("a"))}
    remote.write("foreign.xz", b"x")
    published.add("a.img", b"new")
    published.publish(zstd_level=1)
    assert bring(published, remote, prune=True).deleted == ()
    published.later = timedelta(days=6)
    assert bring(published, remote, prune=True).deleted == ()
    published.later = timedelta(days=8)
    assert bring(published, remote).deleted == ()
    assert old <= set(remote.files())
    assert set(bring(published, remote, prune=True).deleted) == old
    assert not old & set(remote.files())
    assert "foreign.xz" in remote.files()
    assert index_of(published, remote.files()) == published.read()
    assert bring(published, remote, prune=True).deleted == ()


def test_a_lost_memory_only_lets_old_files_stay(published: Repository, machine: FolderRemote) -> None:
    bring(published, machine)
    published.add("a.img", b"new")
    published.publish(zstd_level=1)
    published.later = timedelta(days=8)
    assert bring(published, machine, prune=True).deleted == ()


def test_a_damaged_file_there_is_sent_again(published: Repository, remote: Remote) -> None:
    bring(published, remote)
    name = published.entry("a").file
    remote.write(name, b"cut")
    assert bring(published, remote).sent == (name,)
    assert index_of(published, remote.files()) == published.read()


def test_an_index_by_another_key_or_a_newer_one_is_not_replaced(
    published: Repository, machine: FolderRemote, keys: KeyMaker
) -> None:
    stranger = keys.make("Stranger <s@example.org>")
    machine.write("index.asc", keys.sign((published.web / "index").read_bytes(), stranger))
    with pytest.raises(TrustError):
        bring(published, machine)
    assert visible(machine.files()) == {"index.asc"}
    bring(published, machine, force=True)
    older = {name: (published.web / name).read_bytes() for name in ("index", "index.asc")}
    time.sleep(1.1)  # signatures know whole seconds
    edit.refresh(published.web, published.signing(), published.services(), print, within=None)
    bring(published, machine)
    for name, data in older.items():
        (published.web / name).write_bytes(data)
    with pytest.raises(RolledBackError, match="older; clients would reject it as a rollback") as refused:
        bring(published, machine)
    assert "publish again" in (refused.value.hint or "")


def test_a_folder_that_is_not_whole_is_not_uploaded(published: Repository, machine: FolderRemote) -> None:
    file = published.web / published.entry("b").file
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(RepositoryError, match="missing or incomplete"):
        bring(published, machine)
    file.unlink()
    with pytest.raises(RepositoryError, match="missing or incomplete"):
        bring(published, machine)
    assert machine.files() == {}


def test_web_servers_may_read_what_rsync_wrote(published: Repository, daemon: FolderRemote) -> None:
    for path in published.web.iterdir():
        if path.is_file():
            path.chmod(0o600)
    bring(published, daemon)
    assert {path.stat().st_mode & 0o777 for path in daemon.folder.iterdir() if path.is_file()} == {0o644}
    log = (daemon.folder.parent / "rsyncd.log").read_text()
    assert log.index(".xz") < log.rindex("index.asc")


def test_an_index_of_the_same_size_and_time_is_replaced(published: Repository, daemon: FolderRemote) -> None:
    bring(published, daemon)
    ours = published.web / "index"
    daemon.write("index", ours.read_bytes()[::-1])
    os.utime(daemon.folder / "index", (ours.stat().st_atime, ours.stat().st_mtime))
    assert bring(published, daemon).sent == ("index",)


def test_a_template_with_a_leaked_secret_is_gone_at_once(published: Repository, daemon: FolderRemote) -> None:
    bring(published, daemon)
    entry = published.entry("b")
    leaked = {file.name for file in downloads_of(entry)}
    assert leaked <= set(daemon.files())
    words = ["withdraw", str(published.web), "b", "--now", "-K", published.key]
    assert run(words, published.services()) == 0
    assert not leaked & {path.name for path in published.web.iterdir()}
    # Also where an earlier run could not reach the target.
    assert run([*words, "--to", daemon.text], published.services()) == 0
    assert not leaked & set(daemon.files())
    there = index_of(published, daemon.files())
    assert there is not None
    assert [entry.os_version for entry in there.entries] == ["a"]
    published.publish(zstd_level=1)
    assert published.names() == ["a"]
    assert run([*words, "--undo"], published.services()) == 2


def test_a_real_sshd(published: Repository, sshd: FolderRemote) -> None:
    assert bring(published, sshd).sent
    assert index_of(published, sshd.files()) == published.read()


def test_ssh_is_called_as_rsync_calls_it(published: Repository, machine: FolderRemote) -> None:
    bring(published, machine)
    log = (machine.folder.parent / "ssh.log").read_text()
    assert all(line.startswith("-l publisher web.example.org rsync --server") for line in log.splitlines())


def test_failures_of_rsync_are_reported(
    published: Repository, daemon: FolderRemote, machine: FolderRemote
) -> None:
    daemon.text += "/none"
    with pytest.raises(UploadError, match="status 23") as refused:
        bring(published, daemon)
    assert refused.value.hint == "create the folder on the other side first"
    daemon.text = daemon.text.replace("/images/none", "/nothing")
    with pytest.raises(UploadError, match="nothing"):
        bring(published, daemon)
    daemon.text = "rsync://user@127.0.0.1:1/images"
    with pytest.raises(UploadError, match="status 10") as gone:
        bring(published, daemon)
    assert "user@" not in gone.value.message


def test_objects_say_what_they_are_and_how_long_caches_may_keep_them(
    published: Repository, bucket: BucketRemote
) -> None:
    bring(published, bucket)
    entry = published.entry("a")
    assert entry.zstd is not None
    shown = {
        name: bucket.head(name) for name in (entry.file, entry.zstd.file, "index.asc", "index.gpg", "index")
    }
    kinds = [facts["ContentType"] for facts in shown.values()]
    assert kinds == [
        "application/x-xz", "application/zstd", "text/plain; charset=utf-8", "application/pgp-keys",
        "text/plain; charset=utf-8",
    ]  # fmt: skip
    rules = [facts["CacheControl"] for facts in shown.values()]
    assert rules == ["public, max-age=31536000, immutable"] * 2 + ["no-cache"] * 3
    assert shown[entry.file]["Metadata"]["sha512"] == entry.sha512
    assert content_type("a.b/c") == "text/plain; charset=utf-8"


def test_an_object_is_known_by_what_the_list_or_its_metadata_says(
    published: Repository, bucket: BucketRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that encrypt with a key of their own list a tag that is not the MD5."""
    bring(published, bucket)
    target = S3Target(read_place(bucket.text), bucket.endpoint)
    monkeypatch.setattr(target, "_has_tag", lambda _path, _name: False)
    assert bring(published, bucket, target).sent == ()
    bucket.write("index", (published.web / "index").read_bytes())  # by another program
    assert bring(published, bucket, target).sent == ("index",)
    bucket.write("index", (published.web / "index").read_bytes())
    assert bring(published, bucket).sent == ()


def test_what_is_there_is_neither_read_nor_named(published: Repository, remote: Remote) -> None:
    bring(published, remote)
    names = {file.name for entry in published.read().entries for file in files_of(entry)}
    published.events.clear()
    for name in names:  # an upload that reads them would notice
        (published.web / name).write_bytes(bytes((published.web / name).stat().st_size))
    assert bring(published, remote).sent == ()
    said = "".join(event.text for event in published.events if isinstance(event, Step))
    assert not any(name in said for name in names)


def test_an_urgent_change_does_not_wait_for_an_upload(published: Repository, daemon: FolderRemote) -> None:
    target = daemon.target()
    put = target.put

    def withdraw_meanwhile(
        folder: Path, names: Sequence[str], on_event: Reporter, former: Mapping[str, Former] = NOTHING
    ) -> tuple[str, ...]:
        if published.names() == ["a", "b"]:
            edit.withdraw(published.web, published.signing(), published.services(), ["b"], None, on_event)
            with pytest.raises(WorkspaceError, match="another upload"):
                bring(published, daemon)
        return put(folder, names, on_event, former)

    target.put = withdraw_meanwhile  # type: ignore[method-assign]
    bring(published, daemon, target)
    there = index_of(published, daemon.files())
    assert there is not None
    assert [entry.os_version for entry in there.entries] == ["a", "b"]  # as it was when the upload began
    assert "changed during the upload" in published.notices()
    bring(published, daemon)
    there = index_of(published, daemon.files())
    assert there is not None
    assert [entry.os_version for entry in there.entries] == ["a"]


def test_large_files_arrive_in_parts(bucket: BucketRemote, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 20
    (tmp_path / "large.xz").write_bytes(data)
    assert bucket.target().put(tmp_path, ["large.xz"], lambda _event: None) == ("large.xz",)
    assert bucket.files()["large.xz"] == data
    assert "-" in bucket.head("large.xz")["ETag"]
    target = bucket.target()
    assert target.sizes() == {"large.xz": len(data)}
    assert target.changed(tmp_path, ["large.xz"]) == set()
    (tmp_path / "large.xz").write_bytes(data[:-1] + b"!")
    assert target.changed(tmp_path, ["large.xz"]) == {"large.xz"}


@pytest.mark.parametrize("kind", ["machine", "bucket"])
def test_to_find_nothing_changed_costs_little(
    repository: Repository, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Two connections of rsync, or a few lists of S3, whatever the number of pages; no template is read."""
    remote: Remote = request.getfixturevalue(kind)
    pages = repository.web / "catalogue"
    repository.add("a.img")
    repository.publish(zstd_level=1)
    make_site(repository)
    assert len(list(pages.rglob("*"))) > 5
    bring(repository, remote)
    target, asked = remote.target(), list[str]()
    if isinstance(target, S3Target):
        target._bucket.client.meta.events.register(
            "before-call.s3.*", lambda model, **_: asked.append(model.name)
        )
        most = ["ListObjectsV2"] * 2
    else:
        plain = RsyncTarget._rsync

        def counted(*arguments: Any, **options: Any) -> Any:
            asked.append("rsync")
            return plain(*arguments, **options)

        monkeypatch.setattr(RsyncTarget, "_rsync", counted)
        most = ["rsync"] * 2
    for file in downloads_of(repository.entry("a")):
        monkeypatch.setattr("imgrepo.sharing.s3.hash_file", refusing(repository.web / file.name))
    assert bring(repository, remote, target).sent == ()
    assert asked == most
    one = next(pages.rglob("*.html"))
    facts = one.stat()
    one.write_bytes(one.read_bytes()[::-1])  # the same size and time
    os.utime(one, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert bring(repository, remote).sent == (str(one.relative_to(repository.web)),)


def refusing(path: Path) -> Callable[..., str]:
    def hash_other(other: Path, *arguments: Any, **options: Any) -> str:
        assert other != path, "a template was read"
        return hash_file(other, *arguments, **options)

    return hash_other


@pytest.mark.parametrize("kind", ["machine", "bucket"])
def test_the_rate_is_limited(
    repository: Repository, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The programs that send know the limit; how well they keep it is theirs."""
    remote: Remote = request.getfixturevalue(kind)
    repository.add("a.img")
    repository.publish()
    limits: list[str] = []
    plain = process.start

    def start(words: list[str], **options: Any) -> Any:
        limits.extend(word for word in words if word.startswith("--bwlimit"))
        return plain(words, **options)

    monkeypatch.setattr("imgrepo.sharing.rsync.process.start", start)
    place = read_place(remote.text)
    target: Target
    if isinstance(remote, BucketRemote):
        target = S3Target(place, remote.endpoint, 2 << 20)
        assert target._bucket._config.max_bandwidth == 2 << 20
    else:
        target = RsyncTarget(place, 2 << 20)
    bring(repository, remote, target)
    assert index_files(remote.files()) >= {"index", "index.asc"}
    assert set(limits) == (set() if isinstance(remote, BucketRemote) else {"--bwlimit=2048"})


def index_files(files: dict[str, bytes]) -> set[str]:
    return {name for name in files if name.startswith("index")}


def test_rsync_sends_what_is_new_in_a_revision(
    repository: Repository, daemon: FolderRemote, tmp_path: Path
) -> None:
    names = [f"debian-{number}" for number in (11, 12, 13)]
    for number, name in enumerate(names):
        repository.add(f"{name}.img")
        (repository.images / f"{name}.img").write_bytes(disk(number))
    repository.publish(zstd_level=1)
    bring(repository, daemon)
    log = tmp_path / "rsyncd.log"
    before = len(log.read_text())
    (repository.images / "debian-12.img").write_bytes(disk(1, changed=2))
    repository.publish(zstd_level=1)
    sent = bring(repository, daemon).sent
    entry = repository.entry("debian-12")
    assert set(sent) == {file.name for file in downloads_of(entry)} | {"index", "index.asc"}
    assert index_of(repository, daemon.files()) == repository.read()
    assert not list(daemon.folder.glob(".rsync-*"))
    moved: dict[str, int] = {}
    for line in log.read_text()[before:].splitlines():
        word, name, count = line.split()[-3:]
        if word == "recv":
            moved[Path(name).name] = moved.get(Path(name).name, 0) + int(count)
    assert entry.zstd is not None
    assert 2 * BLOCK < moved[entry.zstd.file] < 4 * BLOCK
    assert moved[entry.file] < (repository.web / entry.file).stat().st_size * 2 // 3


def test_s3_copies_what_an_old_object_has(bucket: BucketRemote, tmp_path: Path) -> None:
    old = os.urandom(24 << 20)
    new = old[: 12 << 20] + b"new" + old[12 << 20 :]
    digest = hashlib.sha512(old).hexdigest()
    (tmp_path / "old.zst").write_bytes(old)
    (tmp_path / "new.zst").write_bytes(new)
    place = 12 << 20
    common = (
        Stretch(0, place, 0), Stretch(place, place + 3, None), Stretch(place + 3, len(new), place)
    )  # fmt: skip
    target = bucket.target()
    target.put(tmp_path, ["old.zst"], ignore)
    steps: list[Event] = []
    former = {"new.zst": Former(NamedFile("old.zst", len(old), digest), common)}
    assert target.put(tmp_path, ["new.zst"], steps.append, former) == ("new.zst",)
    said = "".join(event.text for event in steps if isinstance(event, Step))
    assert "5.0M of 24.0M, the rest is in old.zst" in said
    assert bucket.files()["new.zst"] == new
    assert bucket.head("new.zst")["Metadata"] == {"sha512": hashlib.sha512(new).hexdigest()}
    assert bucket.head("new.zst")["ContentType"] == "application/zstd"
    bucket.write("old.zst", bytes(len(old)))  # by another program, without a digest
    bucket.client.delete_object(Bucket=bucket.bucket, Key="images/web/new.zst")
    target.put(tmp_path, ["new.zst"], ignore, former)
    assert bucket.files()["new.zst"] == new


def test_parts_of_an_object_that_was_stopped_are_not_kept(bucket: BucketRemote, tmp_path: Path) -> None:
    data = os.urandom(12 << 20)
    digest = hashlib.sha512(data).hexdigest()
    for name in ("old.zst", "new.zst"):
        (tmp_path / name).write_bytes(data)
    target = bucket.target()
    target.put(tmp_path, ["old.zst"], ignore)
    former = {"new.zst": Former(NamedFile("old.zst", len(data), digest), (Stretch(0, len(data), 0),))}

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.label == "new.zst":
            assert "Uploads" in bucket.client.list_multipart_uploads(Bucket=bucket.bucket)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target.put(tmp_path, ["new.zst"], stop, former)
    assert "new.zst" not in bucket.files()
    assert "Uploads" not in bucket.client.list_multipart_uploads(Bucket=bucket.bucket)


_LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1)


@given(_LENGTHS)
def test_parts_of_an_object_are_as_large_as_s3_asks(lengths: list[tuple[int, bool]]) -> None:
    found, at = [], 0
    for length, known in lengths:
        found.append(Stretch(at, at + length, 1000 + at if known else None))
        at += length
    parts = copied_parts(found, 10, 30)
    if not parts:
        return
    assert [part.start for part in parts] + [at] == [0, *(part.end for part in parts)]
    assert all(10 <= part.end - part.start <= 30 for part in parts[:-1])
    assert parts[-1].end - parts[-1].start <= 30
    assert any(part.old is not None for part in parts)
    for part in parts:
        if part.old is not None:
            assert part.old == 1000 + part.start
            assert any(
                one.old is not None and one.start <= part.start and part.end <= one.end for one in found
            )


@pytest.mark.row("S3")
def test_failures_of_s3_are_reported(
    published: Repository, bucket: BucketRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.text = "s3://no-such-bucket/x"
    with pytest.raises(UploadError, match="NoSuchBucket"):
        bring(published, bucket)
    bucket = BucketRemote(bucket.client, bucket.bucket, bucket.endpoint)
    with pytest.raises(UploadError, match="larger than"):
        bucket.write("x", b"1234")
        bucket.target().read("x", 3)
    with pytest.raises(UploadError):
        S3Target(UploadPlace("s3://b", "b"), "nonsense")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UploadError, match="credentials") as refused:
        bring(published, BucketRemote(bucket.client, bucket.bucket, bucket.endpoint))
    assert refused.value.hint is not None


def test_without_boto3_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ToolError, match="boto3") as refused:
        S3Target(UploadPlace("s3://b", "b"))
    assert "virt-pybuilder[s3]" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "text",
    ["", "web", "/srv/www", "s3://", "s3://B/x", "s3://b", "s3://bucket/../x", "rsync://host", "rsync://host/",
     "rsync://-oProxyCommand=x/m", "-oProxyCommand=x:/srv", "host::module", "host:/a b", "host:/a;id",
     "host:$(id)", "host:/a\nb", "ssh://host/x", "https://host/x", "user@-x:/srv", "host:'a'", "h:/ü"],
)  # fmt: skip
def test_what_is_not_a_target_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an upload target"):
        read_place(text)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://bucket", UploadPlace("s3://bucket", "bucket", "")),
        ("s3://bucket/", UploadPlace("s3://bucket", "bucket", "")),
        ("s3://bucket/a/b/", UploadPlace("s3://bucket/a/b", "bucket", "a/b/")),
        ("rsync://u@host:8730/module/path/", UploadPlace("rsync://u@host:8730/module/path")),
        ("host:/srv/www/", UploadPlace("host:/srv/www")),
        ("u@host.example.org:www", UploadPlace("u@host.example.org:www")),
        ("[fe80::1]:/srv", UploadPlace("[fe80::1]:/srv")),
        ("host:", UploadPlace("host:")), ("host:/", UploadPlace("host:/")),
    ],
)  # fmt: skip
def test_targets_are_read(text: str, place: UploadPlace) -> None:
    assert read_place(text) == place


def test_the_commands_as_they_are_typed(
    repository: Repository, daemon: FolderRemote, bucket: BucketRemote, capsys: pytest.CaptureFixture[str]
) -> None:
    services = repository.services()
    repository.add("a.img")
    words = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key]
    words += ["--zstd", "--zstd-level", "1", "--to", daemon.text]
    assert run([*words, "--dry-run"], services) == 0
    assert daemon.files() == {}
    s3 = ["--to", bucket.text, "--endpoint-url", bucket.endpoint]
    assert run([*words, *s3], services) == 0
    out = capsys.readouterr().out
    assert f"{daemon.text}: 6 files sent" in out
    assert f"{bucket.text}: 6 files sent" in out
    for remote in (daemon, bucket):
        assert index_of(repository, remote.files()) == repository.read()
    assert run(["upload", str(repository.web), daemon.text], services) == 0
    assert "nothing new to upload" in capsys.readouterr().out
    assert run(["upload", str(repository.web), "ftp://x/"], services) == 2
    assert run(["upload", str(repository.images), daemon.text], services) == 2
    assert not (repository.images / ".pybuilder-repo.lock").exists()
    assert run([*words, "--to", "nonsense"], services) == 2


def test_the_catalogue_comes_along(repository: Repository, remote: Remote) -> None:
    make_library(repository)
    make_site(repository, calendar=True)
    site = repository.web / "catalogue"
    result = bring(repository, remote)
    files = remote.files()
    ours = {f"catalogue/{path.relative_to(site)}" for path in site.rglob("*") if path.is_file()}
    assert {name for name in files if name.startswith("catalogue/")} == ours
    assert all(files[name] == (repository.web / name).read_bytes() for name in ours)
    assert result.sent[-4:] == (
        "catalogue/atom.xml", "catalogue/index.html", "catalogue/catalogue.json", "index.html",
    )  # fmt: skip
    assert result.sent.index("index.asc") < min(result.sent.index(name) for name in ours)
    assert bring(repository, remote).sent == ()
    remote.write("catalogue/other.txt", b"not ours")
    make_site(repository, calendar=False, title="Another")
    result = bring(repository, remote)
    assert "catalogue/index.html" in result.sent
    assert "catalogue/style.css" not in result.sent
    assert set(result.deleted) == {name for name in ours if name.startswith("catalogue/calendar/")}
    there = {name for name in remote.files() if name.startswith("catalogue/")}
    assert there == ours - set(result.deleted) | {"catalogue/other.txt"}
    if isinstance(remote, BucketRemote):
        facts = remote.head("catalogue/index.html")
        assert (facts["ContentType"], facts["CacheControl"]) == ("text/html; charset=utf-8", "no-cache")
