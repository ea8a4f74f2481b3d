"""Rows X12 to X17 as whole commands: files of the host that a hostile image names stay secret and unchanged.

Each image is offered to the client, once under the format that it claims and
once under none, and to the publisher. It is refused before a program of qemu is
started at all: what stands before qemu's programs in ``PATH`` keeps a list.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.building.build import build
from imgbuilder.building.request import BuildRequest
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import PybuilderError
from imgbuilder.host import process
from imgbuilder.services import Services, Settings
from imgindex.model import Entry
from tests.fakes.keys import KeyMaker
from tests.fakes.operations import parse_operation
from tests.fakes.template import Site, TinyAppliances, make_disk
from tests.unit.imgrepo.repository import Repository

pytestmark = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")

MIB = 1 << 20
SIZE = 4 * MIB
SECRET = b"what only the host may know " * 40
PROGRAMS = ("qemu-img", "qemu-io", "qemu-nbd")


def qcow2(image: Path, *options: str | Path) -> None:
    process.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, image, str(SIZE)])


def backed(name: str, *, kind: str | None = "raw", compat: str = "1.1") -> Callable[[Path, Path], None]:
    """An image with a backing file; ``@`` stands for the canary's path, ``%`` for its folder."""

    def make(image: Path, canary: Path) -> None:
        words = name.replace("@", str(canary)).replace("%", str(canary.parent))
        qcow2(image, "-b", words, *(["-F", kind] if kind else []), "-o", f"compat={compat}")

    return make


def unnamed_backing(image: Path, canary: Path) -> None:
    """A backing file without a format, which qemu would probe: the descriptor behind it names the canary."""
    descriptor(image.with_name("probed"), canary)
    backed(str(image.with_name("probed")))(image, canary)
    data = bytearray(image.read_bytes())
    start = struct.unpack_from(">I", data, 100)[0]
    data[start : start + 8] = bytes(8)  # the end mark, where the extension with the format was
    image.write_bytes(data)


def data_file(*, raw: str) -> Callable[[Path, Path], None]:
    def make(image: Path, canary: Path) -> None:
        away = canary.with_name("away")
        canary.rename(away)
        qcow2(image, "-o", f"data_file={canary},data_file_raw={raw}")
        away.replace(canary)

    return make


def patched(*changes: tuple[int, str, int]) -> Callable[[Path, Path], None]:
    """A good image of which some fields of the header were overwritten."""

    def make(image: Path, canary: Path) -> None:
        qcow2(image)
        with image.open("r+b") as file:
            for offset, layout, value in changes:
                file.seek(offset)
                file.write(struct.pack(layout, value))

    return make


def hidden_data_file(image: Path, canary: Path) -> None:
    """The name of a data file, without the feature that makes it one."""
    data_file(raw="on")(image, canary)
    with image.open("r+b") as file:
        file.seek(72)
        file.write(bytes(8))


def snapshot(image: Path, canary: Path) -> None:
    qcow2(image)
    process.run(["qemu-img", "snapshot", "-c", "one", image])


def encrypted(image: Path, canary: Path) -> None:
    qcow2(image, "--object", "secret,id=s,data=x", "-o", "encrypt.format=aes,encrypt.key-secret=s")


def descriptor(image: Path, canary: Path) -> None:
    """A VMDK descriptor whose only extent is the canary."""
    image.write_text(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
        f'createType="monolithicFlat"\n\nRW {SIZE // 512} FLAT "{canary}" 0\n'
    )


def other(image_format: str) -> Callable[[Path, Path], None]:
    def make(image: Path, canary: Path) -> None:
        process.run(["qemu-img", "create", "-q", "-f", image_format, image, str(SIZE)])

    return make


def raw_disk(image: Path, canary: Path) -> None:
    """A raw disk that is called qcow2; without a format its size differs from the promise."""
    image.write_bytes(b"\xeb\x63\x90" + bytes(2 * MIB - 3))


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "x13 absolute": backed("@"),
    "x13 relative": backed("canary"),
    "x13 upwards": backed("../host/canary"),
    "x13 old version": backed("@", compat="0.10"),
    "x13 as qcow2": backed("@", kind="qcow2"),
    "x13 as vmdk": backed("@", kind="vmdk"),
    "x13 probed": unnamed_backing,
    "x13 json": backed('json:{"driver":"file","filename":"@"}'),
    "x13 json raw": backed('json:{"driver":"raw","file":{"driver":"file","filename":"@"}}'),
    "x13 file:": backed("file:@"),
    "x13 fat:": backed("fat:%"),
    "x13 fat:rw:": backed("fat:rw:%"),
    "x13 nbd": backed("nbd://127.0.0.1:1/"),
    "x13 nbd unix": backed("nbd+unix:///?socket=@"),
    "x13 ssh": backed("ssh://127.0.0.1@"),
    "x13 https": backed("https://127.0.0.1:1@"),
    "x13 blkdebug": backed("blkdebug::@"),
    "x13 device": backed("/dev/zero"),
    "x14 raw": data_file(raw="on"),
    "x14 not raw": data_file(raw="off"),
    "x14 hidden": hidden_data_file,
    "x14 without a name": patched((72, ">Q", 4)),
    "x15 dirty": patched((72, ">Q", 1)),
    "x15 corrupt": patched((72, ">Q", 2)),
    "x15 unknown feature": patched((72, ">Q", 1 << 40)),
    "x15 encrypted": encrypted,
    "x15 luks": patched((32, ">I", 2)),
    "x15 snapshot": snapshot,
    "x15 version 1": patched((4, ">I", 1)),
    "x15 version 4": patched((4, ">I", 4)),
    "x16 size": patched((24, ">Q", 1 << 60)),
    "x16 l1": patched((36, ">I", 1 << 31)),
    "x16 clusters": patched((20, ">I", 63)),
    "x16 refcounts": patched((96, ">I", 9)),
    "x16 header length": patched((100, ">I", 0xFFFFFFFF)),
    "x17 raw": raw_disk,
    "x17 vmdk descriptor": descriptor,
    "x17 vmdk": other("vmdk"),
    "x17 vdi": other("vdi"),
    "x17 vhdx": other("vhdx"),
    "x17 vpc": other("vpc"),
    "x17 qed": other("qed"),
}


class Host:
    """Files of the host that an image names, and a list of the qemu programs that were started.

    Attributes:
        canary: A file with a secret.
    """

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._base = base
        folder = base / "host"
        folder.mkdir()
        self.canary = folder / "canary"
        self.canary.write_bytes(SECRET)
        self._list = base / "started"
        shims = base / "shims"
        shims.mkdir()
        for name in PROGRAMS:
            if (real := shutil.which(name)) is not None:
                (shims / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {self._list}\nexec {real} "$@"\n')
                (shims / name).chmod(0o755)
        self._path = f"{shims}:{os.environ['PATH']}"
        self._monkeypatch = monkeypatch
        self._before: list[tuple[str, int, int, int]] = []

    def _state(self) -> list[tuple[str, int, int, int]]:
        found = [self.canary.parent, *self.canary.parent.rglob("*")]
        facts = [(str(path), path.lstat()) for path in sorted(found)]
        return [(name, fact.st_mode, fact.st_size, fact.st_mtime_ns) for name, fact in facts]

    def watch(self) -> None:
        """From now on nothing may change, and what is started is listed."""
        self._before = self._state()
        self._monkeypatch.setenv("PATH", self._path)

    def started(self) -> list[str]:
        """Return the command lines of the qemu programs."""
        return self._list.read_text().splitlines() if self._list.exists() else []

    def judge(self) -> None:
        """Nothing was changed, and nothing outside holds the secret."""
        assert self._state() == self._before
        assert self.canary.read_bytes() == SECRET
        for folder, _folders, names in os.walk(self._base):
            for path in (Path(folder, name) for name in names):
                if path == self.canary or not stat.S_ISREG(path.lstat().st_mode):
                    continue
                assert SECRET[:28] not in path.read_bytes(), f"the secret is in {path}"


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "VIRT_BUILDER_DIRS"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    return Host(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def publisher(keys: KeyMaker) -> str:
    return keys.make("publisher of images")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in folder.iterdir()] in ([], ["x.img"])


def offer(folder: Path, image: Path, keys: KeyMaker, key: str, image_format: str | None, size: int) -> Site:
    """Sign an index that offers an image as it is."""
    content = image.read_bytes()
    digest = hashlib.sha512(content).hexdigest()
    entry = Entry(
        os_version="x", file=image.name, arch="x86_64", size=size, name=None, format=image_format,
        sha512=digest, compressed_size=len(content), expand="/dev/sda2",
    )  # fmt: skip
    site = Site(folder, entry, keys, key)
    site.sign()
    site.configure(folder.parent / "home")
    return site


def ask(services: Services, **fields: object) -> None:
    operations = (parse_operation("root-password", "disabled"),)
    request = BuildRequest(template="x", arch="x86_64", operations=operations)
    build(replace(request, **fields), services, lambda _event: None)  # type: ignore[arg-type]


def test_there_are_enough_of_them() -> None:
    """Hostile images (``docs/threat-model.md`` X12 to X18): at least 60, for client and publisher."""
    assert 2 * len(HOSTILE) >= 60


@pytest.mark.row("X13", "X14", "X15", "X16")
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("claim", ["named", "unnamed"])
def test_the_client_refuses(
    tmp_path: Path, host: Host, out: Path, keys: KeyMaker, publisher: str, name: str, claim: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    image = site / "x.image"
    HOSTILE[name](image, host.canary)
    offer(site, image, keys, publisher, "qcow2" if claim == "named" else None, SIZE)
    host.watch()
    appliances = TinyAppliances()
    with pytest.raises(PybuilderError):
        ask(Services(Settings(), open_appliance=appliances))
    assert appliances.launches == []
    assert host.started() == []
    assert not list((tmp_path / "home/pybuilder/disks").iterdir()), "no refused image is kept"
    host.judge()


@pytest.mark.parametrize("name", HOSTILE)
def test_the_publisher_refuses(tmp_path: Path, host: Host, keys: KeyMaker, publisher: str, name: str) -> None:
    repository = Repository(tmp_path, keys.home, keys.pin(publisher), publisher)
    HOSTILE[name](repository.images / "x.qcow2", host.canary)
    host.watch()
    with pytest.raises(PybuilderError, match=r"no image can be published"):
        repository.publish()
    assert repository.appliances.launches == []
    assert host.started() == []
    assert not [path for path in repository.web.iterdir() if path.suffix in {".xz", ".asc"}]
    host.judge()


LIES = {name: make for name, make in HOSTILE.items() if name.startswith(("x13 absolute", "x14 raw", "x17"))}


@pytest.mark.parametrize("name", [name for name in LIES if name != "x17 raw"])
def test_the_publisher_refuses_what_is_called_raw(
    tmp_path: Path, host: Host, keys: KeyMaker, publisher: str, name: str
) -> None:
    repository = Repository(tmp_path, keys.home, keys.pin(publisher), publisher)
    image = repository.images / "x.img"
    LIES[name](image, host.canary)
    os.truncate(image, -(-image.stat().st_size // 512) * 512)
    host.watch()
    with pytest.raises(PybuilderError, match=r"no image can be published"):
        repository.publish()
    assert host.started() == []
    host.judge()


@pytest.mark.row("X12")
@pytest.mark.parametrize(
    "start", [b"QFI\xfb\0\0\0\3", b"KDMV", b"# Disk DescriptorFile\n", b"vhdxfile", b"conectix", "backing"]
)
@pytest.mark.parametrize("output", [OutputFormat.RAW, OutputFormat.QCOW2])
def test_what_is_named_raw_is_raw_to_the_end(
    tmp_path: Path, host: Host, out: Path, keys: KeyMaker, publisher: str,
    start: bytes | str, output: OutputFormat,
) -> None:  # fmt: skip
    site = tmp_path / "site"
    site.mkdir()
    disk = make_disk(site / "x.image")
    if isinstance(start, str):
        backed("@")(site / "head", host.canary)
        start = (site / "head").read_bytes()[:446]
    elif start.startswith(b"#"):
        descriptor(site / "head", host.canary)
        start = (site / "head").read_bytes()[:446]
    with disk.open("r+b") as file:
        file.write(start[:446])  # where the boot code of an MBR is
    content = disk.read_bytes()
    offer(site, disk, keys, publisher, "raw", len(content))
    host.watch()
    appliances = TinyAppliances()
    ask(Services(Settings(), open_appliance=appliances), format=output, output=Path("x.img"), size=64 * MIB)
    for line in host.started():
        words = line.split()
        assert "-f" in words or "--image-opts" in words, f"{line} would probe the format"
    assert [disk.format for disk in appliances.launches[0]] == [output.value]
    process.run(["qemu-img", "convert", "-f", output, "-O", "raw", out / "x.img", tmp_path / "back"])
    assert (tmp_path / "back").read_bytes()[: len(start)] == start
    assert host.canary.read_bytes() == SECRET
    for path in (out / "x.img", tmp_path / "back"):
        assert SECRET[:28] not in path.read_bytes()
