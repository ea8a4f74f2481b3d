"""Filesystems with random changes of their metadata go the way of a build without an appliance.

Whatever they hold, this process goes on, nothing takes long, and a disk that comes out at the end is clean.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment
from imgbuilder.appliance.hostside import programs
from imgbuilder.appliance.hostside.connection import open_hostside
from imgbuilder.appliance.hostside.gate import SUPERBLOCK, Place, require_fit
from imgbuilder.appliance.launch import LibguestfsAppliance
from imgbuilder.errors import GuestCallError, UnfitError
from tests.fakes.fuzz import examples
from tests.unit.imgbuilder.appliance.hostside import filesystems
from tests.unit.imgbuilder.disks import MIB

pytestmark = pytest.mark.row("B28", "T14")

SIZE = 8 * MIB
PLACE = Place(0, SIZE)
BLOCK = 1024
KINDS = {
    "without checksums": ("-O", "^metadata_csum,^metadata_csum_seed,^uninit_bg"),
    "ext4": (),
    "ext2": ("-t", "ext2"),
}
PER_KIND = -(-examples(18) // len(KINDS))
SEED = 20240612
FOLDERS = ("/", "/etc", "/etc/deep", "/many")
KEPT = "/etc/keep"
WORDS = (0, 1, 2, 11, 12, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Base:
    """A good filesystem, and the places of its metadata.

    Attributes:
        data: All its bytes.
        places: Offset and length of each structure that is changed.
    """

    data: bytes
    places: tuple[tuple[int, int], ...]


def make_base(folder: Path, words: tuple[str, ...]) -> Base:
    tree = folder / "tree"
    (tree / "etc/deep/deeper").mkdir(parents=True)
    (tree / "many").mkdir()
    for number in range(120):
        (tree / "many" / f"a-file-with-a-longer-name-{number}").write_text("x" * number)
    (tree / "etc/keep").write_bytes(random.Random(1).randbytes(40_000))
    (tree / "etc/holes").write_bytes(b"a" + bytes(300_000) + b"b")
    (tree / "etc/link").symlink_to("keep")
    (tree / "etc/long").symlink_to("/etc/" + "deep/../" * 12 + "keep")
    os.link(tree / "etc/keep", tree / "etc/deep/hard")
    os.setxattr(tree / "etc/keep", "user.note", b"kept")
    image = filesystems.make(folder / "base", "-b", str(BLOCK), "-d", str(tree), *words, size=SIZE)
    said = subprocess.run(
        ["/usr/sbin/dumpe2fs", image], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    group = said.partition("Group 0:")[2].partition("Group 1:")[0]
    table = re.search(r"Inode table at (\d+)", group)
    bitmaps = re.findall(r"(?:Block|Inode) bitmap at (\d+)", group)
    assert table is not None
    assert len(bitmaps) == 2
    places = [(SUPERBLOCK, SUPERBLOCK), (2 * BLOCK, BLOCK), (int(table[1]) * BLOCK, 160 * 256)]
    places += [(int(number) * BLOCK, BLOCK) for number in bitmaps]
    for name in FOLDERS:
        blocks = debugfs(image, f"blocks {name}").split()
        places += [(int(number) * BLOCK, BLOCK) for number in blocks]
    return Base(image.read_bytes(), tuple(places))


def debugfs(image: Path, request: str) -> str:
    return subprocess.run(
        ["/usr/sbin/debugfs", "-R", request, image], capture_output=True, text=True, errors="replace",
        check=True,
    ).stdout  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return make_base(tmp_path_factory.mktemp("base"), KINDS[request.param])


def mutate(base: Base, draw: random.Random) -> bytes:
    data = bytearray(base.data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        start, length = draw.choice(base.places)
        offset = start + draw.randrange(length)
        if draw.random() < 0.5:
            data[offset] = draw.randrange(256)
        else:
            offset &= ~3
            data[offset : offset + 4] = draw.choice(WORDS).to_bytes(4, "little")
    if draw.random() < 0.8:  # the gate stops at a wrong checksum
        raw = bytes(data[SUPERBLOCK : 2 * SUPERBLOCK])
        if raw[0x65] & 4:
            data[SUPERBLOCK : 2 * SUPERBLOCK] = filesystems.with_checksum(raw)
    return bytes(data)


REQUESTS: tuple[Callable[[LibguestfsAppliance], object], ...] = (
    lambda guest: guest.write("/etc/new", b"new\n" * 2000),
    lambda guest: guest.append("/etc/new", b"end"),
    lambda guest: guest.mkdir_p("/srv/a/b/c"),
    lambda guest: guest.symlink("/etc/new", "/srv/link"),
    lambda guest: guest.chmod(0o4711, "/etc/new"),
    lambda guest: guest.chown(1, 70_000, "/etc/deep"),
    lambda guest: guest.read("/etc/long"),
    lambda guest: guest.files_below("/"),
    *(
        partial(LibguestfsAppliance.write, path=f"/many/another-file-with-a-long-name-{number}", content=b"")
        for number in range(30)
    ),
    lambda guest: guest.move("/etc/holes", "/srv/holes"),
    lambda guest: guest.replace("/srv/link", b"replaced"),
    lambda guest: guest.remove("/etc/deep"),
    lambda guest: guest.truncate("/srv/holes"),
    lambda guest: guest.filesystem_use(),
)


def request_all(image: Path) -> None:
    """Make all requests, going on after those that fail.

    Raises:
        UnfitError: Only an appliance can do them.
    """
    unfit: UnfitError | None = None
    with open_hostside(Attachment(image, "raw")) as guest:
        guest.mount("/dev/sda", "/")
        for request in REQUESTS:
            try:
                request(guest)
            except GuestCallError:
                continue
            except UnfitError as error:  # a build would stop here; the worker must survive more
                unfit = unfit or error
        guest.shutdown()
    if unfit is not None:
        raise unfit


def objection(step: Callable[[], object]) -> str:
    """Return why a step needs an appliance; empty when it succeeded."""
    try:
        step()
    except UnfitError as error:
        return str(error)
    return ""


def digest(image: Path) -> str:
    """Return the digest of a file that no request changes."""
    return hashlib.sha256(debugfs(image, f"cat {KEPT}").encode()).hexdigest()


def check(image: Path) -> None:
    with image.open("rb") as disk:
        require_fit(disk.fileno(), PLACE)
        programs.check(disk.fileno(), PLACE)


def change(image: Path) -> None:
    request_all(image)
    check(image)


@pytest.mark.timeout(60 + 5 * PER_KIND)
def test_nothing_damaged_is_delivered(base: Base, tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    image = tmp_path / "image"
    for number in range(PER_KIND):
        image.write_bytes(mutate(base, random.Random(SEED + number)))
        before = objection(partial(check, image))
        kept = before or digest(image)
        after = objection(partial(change, image))  # even of a damaged one, which a build would not open
        for said in (before, after):
            assert not re.search(r"Traceback|sign of life|did not end", said), f"{number}: {said}"
        assert image.stat().st_size == SIZE, number
        outcomes[f"{'damaged' if before else 'good'}, {'given up' if after else 'changed'}"] += 1
        if not before and not after:
            done = subprocess.run(
                ["/usr/sbin/e2fsck", "-fn", image], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{number}: {done.stdout}"
            assert digest(image) == kept, number
    print(dict(outcomes))
    assert outcomes["damaged, given up"]


def test_the_filesystem_itself_is_delivered(base: Base, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(base.data)
    check(image)
    change(image)
    assert debugfs(image, "cat /etc/new") == "replaced"
