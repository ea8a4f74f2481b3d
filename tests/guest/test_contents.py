"""Contents of real images: packages by dpkg and by rpm, and their sources from the real archive."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imgbuilder.appliance import ApplianceOptions, open_appliance
from imgbuilder.errors import GuestError
from imgrepo.contents.packages import find_target, list_packages
from imgrepo.library.records import Package
from tests.guest.images import copy, look_into
from tests.guest.person import Person
from tests.guest.smallguest import small_system

pytestmark = [pytest.mark.guest, pytest.mark.timeout(400)]

SMALL = ("hostname", "dash")
"""Packages whose sources are small, and do not change within a release of Debian."""


@pytest.fixture(scope="module")
def looked(person: Person, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template, looked into once; return its entry's folder."""
    folder = person.home / "entries-looked-into" / "debian-12"
    folder.mkdir(parents=True)
    copy(template, folder / "debian-12.img")
    (folder / "entry.toml").write_text('source-offer = "sources@example.org"\n')
    person.owns(folder.parent)
    person.run("pybuilder-repo", "sbom", folder)
    return folder


def test_every_package_of_debian_is_listed(looked: Path) -> None:
    with look_into(looked / "debian-12.img") as guest:
        text = guest.read("/var/lib/dpkg/status").decode()
    expected = {
        (found[1], found[2])
        for paragraph in text.split("\n\n")
        if "\nStatus: install ok installed\n" in paragraph
        and (found := re.search(r"^Package: (\S+)$.*^Version: (\S+)$", paragraph, re.MULTILINE | re.DOTALL))
    }
    record = json.loads((looked / "contents/contents.json").read_text())
    assert {(one["name"], one["version"]) for one in record["packages"]} == expected
    assert len(expected) > 100
    named = {one["name"]: one for one in record["packages"]}
    assert named["bash"]["copyleft"] is True
    assert named["zlib1g"]["licences"] == ["Zlib"]
    kernel = next(one for name, one in named.items() if re.fullmatch(r"linux-image-[0-9].*", name))
    assert ("linux" in [source for source, _version in kernel["built_using"]]) or kernel["source"] == "linux"
    unknown = [one["name"] for one in record["packages"] if not one["licences"]]
    assert unknown == [], "every package of Debian has a copyright file that says something"


def test_the_documents_are_valid(looked: Path) -> None:
    text = (looked / "contents/contents.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    spdx = json.loads((looked / "contents/contents.spdx.json").read_text())
    assert len(spdx["packages"]) == len(json.loads(text)["components"]) + 1


@pytest.mark.network
def test_sources_from_the_real_archive(person: Person, looked: Path) -> None:
    planned = json.loads(
        person.run("pybuilder-repo", "sources", looked, "--dry-run", "--json", check=False).stdout
    )["images"][0]
    assert planned["wanted"] > 80
    # The template may be some days older than the archive.
    assert len(planned["gaps"]) < planned["wanted"] / 4
    assert planned["bytes"] > 300 << 20
    words = [word for name in SMALL for word in ("--only", name)]
    person.run("pybuilder-repo", "sources", looked, *words)
    folder = looked / "sources"
    record = json.loads((folder / "sources.json").read_text())
    assert sorted(name for name, _version in record["covered"]) == sorted(SMALL)
    assert hashlib.sha512((folder / record["archive"]).read_bytes()).hexdigest() == record["sha512"]
    assert "sources@example.org" in (folder / "OFFER.txt").read_text()
    with tarfile.open(folder / record["archive"]) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    named = [name for name in files if name.endswith(".dsc")]
    assert len(named) == len(SMALL)
    for name in named:  # each .dsc, signed by its maintainer, names the files next to it
        rows = re.findall(r"^ ([0-9a-f]{64}) ([0-9]+) (\S+)$", files[name].decode(), re.MULTILINE)
        assert rows
        for digest, size, file in rows:
            data = files[f"{Path(name).parent}/{file}"]
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, int(size))


SPEC = """\
Name: tiny
Epoch: 2
Version: 1.0~rc1
Release: 3
Summary: A package without files
License: GPL-2.0-or-later AND MIT
BuildArch: noarch
%description
Nothing.
%files
"""


FEDORA = 'ID=fedora\nVERSION_ID=40\nPRETTY_NAME="Not quite Fedora"\n'


def rpm_system(folder: Path, *programs: str) -> Path:
    root = small_system(folder, *programs, release=FEDORA)
    (root / "usr/lib/sysimage/rpm").mkdir(parents=True)
    return root


def image_of(root: Path) -> Path:
    image = root.with_name("tiny.img")
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", root, image, "96M"], check=True)
    return image


@pytest.fixture(scope="module")
def rpm_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small system whose packages are known to rpm: that of this machine, with a database of its own."""
    if shutil.which("rpmbuild") is None:
        pytest.skip("rpmbuild is not installed")
    folder = tmp_path_factory.mktemp("rpm")
    root = rpm_system(folder, "rpm")
    shutil.copytree(
        "/usr/lib/rpm", root / "usr/lib/rpm", ignore=shutil.ignore_patterns("*.py", "*.sh", "find-*")
    )
    spec = folder / "tiny.spec"
    spec.write_text(SPEC)
    build = ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {folder}/build", str(spec)]
    subprocess.run(build, check=True, capture_output=True)
    (package,) = (folder / "build/RPMS").rglob("*.rpm")
    database = root / "usr/lib/sysimage/rpm"
    subprocess.run(
        ["rpm", "--dbpath", database, "-i", "--justdb", "--nodeps", "--nosignature", package], check=True
    )
    assert (database / "rpmdb.sqlite").is_file()
    return image_of(root)


def test_packages_of_rpm(rpm_image: Path) -> None:
    before = hashlib.sha256(rpm_image.read_bytes()).hexdigest()
    found = list_packages(find_target(rpm_image).image, open_appliance, ApplianceOptions(), print)
    assert (found.manager, found.distribution, found.release) == ("rpm", "fedora", "40")
    licences = ("GPL-2.0-or-later", "MIT")
    assert found.packages == (
        Package("tiny", "2:1.0~rc1-3", "noarch", "tiny", "1.0~rc1-3", licences, copyleft=True),
    )
    assert hashlib.sha256(rpm_image.read_bytes()).hexdigest() == before


HOSTILE = """\
#!/bin/sh
touch /etc/changed && : >/etc/os-release
list=
for one in /sys/class/net/*; do list="$list-${one##*/}"; done
printf 'net%s\\t\\t1\\t1\\tnoarch\\t(none)\\tMIT\\n' "$list"
"""


def test_a_hostile_rpm_has_no_network_and_changes_nothing(tmp_path: Path) -> None:
    """T21: it can only lie, which its database could as well."""
    root = rpm_system(tmp_path, "touch")
    (root / "usr/lib/sysimage/rpm/rpmdb.sqlite").write_bytes(b"")
    (root / "usr/bin/rpm").write_text(HOSTILE)
    (root / "usr/bin/rpm").chmod(0o755)
    image = image_of(root)
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    found = list_packages(find_target(image).image, open_appliance, ApplianceOptions(), print)
    assert [package.name for package in found.packages] == ["net-lo"]
    assert found.distribution == "fedora"
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before


def test_an_rpm_that_fills_the_memory(tmp_path: Path) -> None:
    root = rpm_system(tmp_path)
    (root / "usr/lib/sysimage/rpm/rpmdb.sqlite").write_bytes(b"")
    (root / "usr/bin/rpm").write_text("#!/bin/sh\nwhile cat /usr/bin/sh; do :; done\nexit 0\n")
    (root / "usr/bin/rpm").chmod(0o755)
    with pytest.raises(GuestError, match="more than"):
        list_packages(find_target(image_of(root)).image, open_appliance, ApplianceOptions(), print)
