"""Four weeks of a library: ten templates, two operators, ``update`` alone, and the loss of a machine.

The images are tiny, and all that makes and reads them is real: mmdebstrap, the appliance, QEMU, gpg, rsync.
Only the clocks are simulated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imgindex.model import Index
from imgindex.parse import parse_index
from imgindex.trust import UnverifiedText
from tests.fakes.debarchive import DebArchive
from tests.fakes.keys import HomeGuard, KeyMaker
from tests.fakes.webfolder import WebFolder
from tests.guest.conftest import gpg, long
from tests.guest.images import look_into
from tests.guest.operators import WEEK, Clock, Distribution, Operator, bootable, tools, two_persons
from tests.guest.person import Person
from tests.guest.smallguest import SMALL_ROOT
from tests.guest.tinyarchive import PANICS, TinyArchive

pytestmark = [
    pytest.mark.guest,
    long,
    pytest.mark.timeout(14400),
    pytest.mark.skipif(
        shutil.which("cc") is None, reason="a compiler of C, which makes the simulated clock, is missing"
    ),
]

SETTINGS = """\
webroot = "{webroot}"
keys = ["{key}"]
expire = 30
xz-preset = "0"
base-url = "{public}"
targets = ["localhost:{there}"]
title = "Four weeks"
steps = ["boot-check", "sbom", "catalogue"]
"""
MADE = """\
recipe = "debian-12"
size = "1G"
uefi = false
mirror = "{archive}"
security-mirror = "{archive}"
suite-keyring = "archive.gpg"
"""
TABLES = """\
[made.debian-12]
{made}
[made.word]
{made}include = ["word"]
every = 14
steps = ["boot-check", "sbom", "sources"]
[made.rare]
{made}every = 365
[imported.nova]
address = "{cloud}/nova.img"
key = "distribution.gpg"
[imported.rock]
address = "{cloud}/rock.qcow2"
key = "distribution.gpg"
[built.web]
base = "debian-12"
recipe = "web.toml"
[built.nova-db]
base = "nova"
recipe = "db.toml"
"""
ORIGINS = {"debian-12", "word", "rare", "nova", "rock", "web", "nova-db"}
ENTRIES = ("guess", "life", "carol")


@dataclass
class Weeks:
    """The library, its two operators and all who give it something."""

    base: Path
    anna: Operator
    bert: Operator
    key: str
    keys: KeyMaker
    archive: TinyArchive
    archive_key: Path
    distribution: Distribution
    servers: WebFolder
    public: WebFolder
    client: Person

    @property
    def library(self) -> Path:
        return self.base / "library"

    @property
    def webroot(self) -> Path:
        return self.base / "webroot"

    @property
    def there(self) -> Path:
        return self.base / "there"

    def settle(self, owner: Operator) -> None:
        """Put what people wrote into the folder of the library: settings, keys, recipes."""
        self.library.mkdir()
        made = MADE.format(archive=f"{self.servers.url}/archive")
        (self.library / "library.toml").write_text(
            SETTINGS.format(webroot=self.webroot, key=self.key, public=self.public.url, there=self.there)
            + TABLES.format(made=made, cloud=f"{self.servers.url}/cloud")
        )
        shutil.copy(self.archive_key, self.library / "archive.gpg")
        exported = self.keys.export(self.distribution.key)
        (self.library / "distribution.gpg").write_bytes(exported)
        for name in ("web", "db"):
            self.recipe(name, "one")
        owner.owns(self.library)
        if owner.person.prefix:  # of a colleague, they would not be trusted
            for name in ("archive.gpg", "distribution.gpg"):
                os.chown(self.library / name, 0, 0)
                (self.library / name).chmod(0o644)

    def recipe(self, name: str, content: str) -> None:
        path = self.library / f"{name}.toml"
        path.write_text(f'[[operation]]\nwrite = "/etc/{name}"\ncontent = "{content}"\n')
        path.chmod(0o664)

    def contribute(self, name: str, version: int, owner: Operator) -> None:
        """Hand in an entry, or a new image of one."""
        folder = self.library / name
        folder.mkdir(exist_ok=True)
        (folder / "entry.toml").write_text(f'title = "The {name}"\nlicence = "MIT"\n')
        bootable(folder / f"{name}.img", self.base / "handed-in", version)
        owner.owns(folder)

    def index(self) -> Index:
        """Return what users get."""
        return parse_index(UnverifiedText((self.there / "index").read_text()), where="there")

    def revisions(self) -> dict[str, int]:
        return {entry.os_version: entry.revision for entry in self.index().entries}

    def packed(self) -> int:
        """Return how many images were packed so far."""
        return len((self.anna.tools / "packed").read_text().splitlines())

    def read_as_users(self, days: int, build: str, path: str, content: str) -> None:
        """List by our client and by virt-builder, and build an image."""
        names = sorted(self.revisions())
        env = {
            **self.anna.clock.after(days),
            "XDG_CONFIG_HOME": str(self.client.home / "weeks-config"),
            "PYBUILDER_HOSTSIDE": "auto",
        }
        listed = json.loads(self.client.run("pybuilder", "list", "--list-format", "json", env=env).stdout)
        assert sorted(one["os-version"] for one in listed["templates"]) == names
        source = ["--source", f"{self.public.url}/index.asc", "--fingerprint", self.key]
        theirs = self.client.run("virt-builder", *source, "--list", "--no-cache", env={
            **self.anna.clock.after(days), "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
            "XDG_CONFIG_HOME": "/nonexistent",
        }).stdout  # fmt: skip
        assert sorted(line.split()[0] for line in theirs.splitlines()) == names
        image = self.client.home / "weeks.img"
        self.client.run(
            "pybuilder",
            build,
            "-o",
            image,
            "--root-password",
            "disabled",
            "--no-network",
            env=env,
            timeout=900,
        )
        with look_into(image, root=SMALL_ROOT) as guest:
            assert guest.read(path).decode().strip() == content
        image.unlink()


@pytest.fixture
def weeks(person: Person, keys: KeyMaker) -> Iterator[Weeks]:
    base = Path(tempfile.mkdtemp(prefix="weeks-", dir="/var/tmp"))
    base.chmod(0o755)
    homes = [Path(tempfile.mkdtemp(prefix="wk-", dir="/tmp")) for _operator in range(2)]
    guards = [HomeGuard(home) for home in homes]
    servers, there = base / "servers", base / "there"
    for folder in (servers / "archive", servers / "cloud", base / "archive-work", there, base / "webroot"):
        folder.mkdir(parents=True)
    try:
        with (
            two_persons(base, person.bin) as persons,
            WebFolder(servers) as server,
            WebFolder(there) as public,
        ):
            programs, clock = tools(base / "tools"), Clock.make(base)
            anna, bert = (
                Operator(one, home, programs, clock) for one, home in zip(persons, homes, strict=True)
            )
            signer = keys.make("Images <images@example.org>", "ed25519", usage="cert")
            keys.add_subkey(signer)
            secrets = base / "keys.backup"
            secrets.write_bytes(keys.gpg("--export-secret-subkeys", signer))
            secrets.chmod(0o600)
            for operator in (anna, bert):
                gpg(operator.gnupg, "--import", secrets)
                subprocess.run(["gpgconf", "--homedir", operator.gnupg, "--kill", "all"], check=True)
                if operator.person.prefix:
                    subprocess.run(["chown", "-R", operator.person.name, operator.gnupg], check=True)
            archive_key = base / "archive.gpg"
            made_by, cloud_key = (
                keys.make("Archive <archive@example.org>"),
                keys.make("Cloud <c@example.org>"),
            )
            archive_key.write_bytes(keys.export(made_by))
            archive = TinyArchive(DebArchive(servers / "archive", keys, made_by), base / "archive-work")
            distribution = Distribution(servers / "cloud", keys, cloud_key)
            made = Weeks(
                base, anna, bert, signer, keys, archive, archive_key, distribution, server, public, person
            )
            for folder in (there, made.webroot):
                anna.owns(folder)
            public_key = person.home / "weeks.gpg"
            public_key.write_bytes(keys.export(signer))
            sources = person.home / "weeks-config/pybuilder/repos.d"
            sources.mkdir(parents=True)
            (sources / "weeks.conf").write_text(
                f"[weeks]\nuri={public.url}/index.asc\ngpgkey=file://{public_key}\n"
            )
            for path in (person.home / "weeks-config", public_key):
                person.owns(path)
            person.run("gpg", "--batch", "--quiet", "--import", public_key)
            yield made
    finally:
        for guard in guards:
            guard.release()
        shutil.rmtree(base, ignore_errors=True)


def renewed(report: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["renewed"] for one in report["templates"] if one["renewed"]}


def published(report: dict[str, Any]) -> set[str]:
    return {one["name"] for one in report["templates"] if one["published"]}


def problems(report: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["problem"] for one in report["templates"] if one["problem"]}


KEPT = {"debian-12": 1, "word": 2, "rare": 1, "nova": 2, "rock": 1, "web": 2, "nova-db": 2}
KEPT |= {"life": 2, "carol": 1, "mill": 1}


def first_week(weeks: Weeks) -> None:
    """Anna has everything made, imported, built and taken in."""
    library, anna, bert = weeks.library, weeks.anna, weeks.bert
    weeks.distribution.offer("nova.img", "rock.qcow2")
    weeks.settle(anna)
    for name in ENTRIES:
        weeks.contribute(name, 1, anna)
    assert set(renewed(anna.update(0, library, 0, "--dry-run"))) == ORIGINS
    assert weeks.packed() == 0
    report = anna.update(0, library, 0)
    assert published(report) == {*ORIGINS, *ENTRIES}
    assert {one["name"]: one["steps"] for one in report["templates"]}["word"] == {
        "boot-check": "boots", "sbom": "23 packages", "sources": "2 sources",
    }  # fmt: skip
    assert weeks.packed() == 10
    assert anna.update(0, library, 4)["outcome"] == "nothing"
    assert bert.update(0, library, 4)["outcome"] == "nothing", "for a colleague as well"
    weeks.read_as_users(0, "web", "/etc/web", "one")


def second_week(weeks: Weeks) -> None:
    """Bert's turn: there are a newer package, a newer import, and a contributor's new image."""
    library, bert = weeks.library, weeks.bert
    weeks.archive.offer(2)
    weeks.distribution.offer("nova.img")
    weeks.contribute("life", 2, bert)
    report = bert.update(WEEK, library, 0)
    assert renewed(report) == {"nova": "a newer one is offered", "nova-db": "its base changed"}
    assert published(report) == {"nova", "nova-db", "life"}
    assert weeks.packed() == 13
    assert bert.update(WEEK, library, 4)["outcome"] == "nothing"
    weeks.read_as_users(WEEK, "nova-db", "/srv/version", "3")


def third_week(weeks: Weeks) -> None:
    """A recipe changes, one entry is withdrawn, one is new; one import does not boot."""
    library, anna, bert = weeks.library, weeks.anna, weeks.bert
    weeks.recipe("web", "two")
    done = bert.run(2 * WEEK, "pybuilder-repo", "withdraw", library, "guess")
    assert done.returncode == 0, done.stderr
    weeks.contribute("mill", 1, anna)
    weeks.distribution.offer("rock.qcow2", boot=PANICS)
    report = anna.update(2 * WEEK, library, 5)
    assert report["outcome"] == "partly"
    assert renewed(report) == {
        "word": "it is 14 days old", "web": "its origin was changed", "rock": "a newer one is offered",
    }  # fmt: skip
    assert published(report) == {"word", "web", "mill"}
    assert set(problems(report)) == {"rock"}
    assert "rock.qcow2 does not boot: " in problems(report)["rock"]
    assert weeks.packed() == 16
    assert anna.update(2 * WEEK, library, 5)["changes"] == [], "and it is not booted again"
    weeks.read_as_users(2 * WEEK, "web", "/etc/web", "two")
    assert weeks.revisions() == KEPT


def fourth_week(weeks: Weeks) -> None:
    """The machine is lost, with all images and Anna's account.

    Bert has the served folder, a copy of the key, and what people wrote; at first without a network.
    """
    library, anna, bert = weeks.library, weeks.anna, weeks.bert
    shutil.rmtree(library)
    shutil.rmtree(anna.gnupg)
    weeks.distribution.offer("rock.qcow2")
    weeks.settle(bert)
    index = (weeks.there / "index.asc").read_bytes()
    away = weeks.base / "servers-away"
    (weeks.base / "servers").rename(away)
    assert bert.update(3 * WEEK, library, 1)["outcome"] == "failed"
    assert (weeks.there / "index.asc").read_bytes() == index
    away.rename(weeks.base / "servers")
    report = bert.update(3 * WEEK, library, 0)
    assert set(renewed(report)) == ORIGINS
    assert published(report) == ORIGINS - {"nova"}, "the same import is the same template"
    assert weeks.packed() == 22
    assert weeks.revisions() == {
        name: revision + (name in ORIGINS - {"nova"}) for name, revision in KEPT.items()
    }
    assert bert.update(3 * WEEK, library, 4)["outcome"] == "nothing"
    weeks.read_as_users(3 * WEEK, "rock", "/srv/version", "5")
    history = bert.run(3 * WEEK, "pybuilder-repo", "history", library)
    assert history.returncode == 0, history.stderr
    status = bert.run(3 * WEEK, "pybuilder-repo", "status", library)
    assert status.returncode == 0, status.stdout + status.stderr


def test_four_weeks_of_a_library(weeks: Weeks) -> None:
    for week in (first_week, second_week, third_week, fourth_week):
        week(weeks)
