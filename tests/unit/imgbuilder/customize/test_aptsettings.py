"""--mirror and --package-cache."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.customize import aptsettings
from imgbuilder.customize.facts import PackageManager
from imgbuilder.customize.run import customize, validate
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

STANZAS = """\
# http://deb.debian.org/debian stays here
Types: deb
URIs: http://deb.debian.org/debian
 https://security.debian.org:443/debian-security
Suites: bookworm http://deb.debian.org/x

Types: deb
URIs: https://download.example.com/debian http://deb.debian.org.evil.example/debian
"""
LINES = """\
# deb http://deb.debian.org/debian bookworm main
deb [signed-by=/k] http://deb.debian.org/debian bookworm main
deb-src\thttp://archive.ubuntu.com/ubuntu noble main
deb https://download.example.com/debian stable main
"""


def test_only_the_distributions_own_archives_go_to_the_mirror() -> None:
    assert aptsettings.redirect_sources(STANZAS, "http://m/x/", stanzas=True) == (
        STANZAS.replace("URIs: http://deb.debian.org/", "URIs: http://m/x/").replace(
            "https://security.debian.org:443/", "http://m/x/"
        )
    )
    assert aptsettings.redirect_sources(LINES, "http://m", stanzas=False) == (
        LINES.replace("] http://deb.debian.org/", "] http://m/").replace("archive.ubuntu.com", "m")
    )


def apt_guest(seen: dict[str, bytes]) -> FakeGuest:
    """Return a guest whose apt lists one package to fetch, but fetches a second one as well."""
    guest = debian_guest()
    guest.add("/etc/apt/sources.list.d/debian.sources", STANZAS)
    digest = hashlib.sha256(b"package bytes").hexdigest()

    def listing(_script: str) -> CommandResult:
        text = f"'http://h/a' a_1%3a2_all.deb 13 SHA256:{digest}\n'http://h/../x' ../x 1 SHA256:{digest}\n"
        guest.write(f"{aptsettings.FOLDER}/wanted", text.encode())
        return CommandResult(0, "")

    def install(script: str) -> CommandResult:
        seen.update(guest.tree())
        assert " update\n" not in script
        guest.write(f"{aptsettings.FOLDER}/archives/new_1_all.deb", b"new")
        guest.write(f"{aptsettings.FOLDER}/archives/evil;name.deb", b"new")
        return CommandResult(0, "")

    guest.on_sh("install -- a", install)
    guest.on_sh("--print-uris", listing)
    return guest


def test_packages_come_from_the_hosts_folder_and_go_there(tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}
    guest = apt_guest(seen)
    folder = tmp_path / "cache"
    operations = [parse_operation("install", "a"), parse_operation("package-cache", str(folder))]
    validate(operations)
    (folder / "a_1%3a2_all.deb").write_bytes(b"package bytes")
    customize(guest, operations, context_of(guest))
    assert seen[f"{aptsettings.FOLDER}/archives/a_1%3a2_all.deb"] == b"package bytes"
    (config,) = [content for path, content in seen.items() if path.endswith("/apt.conf")]
    assert b'Dir::Cache::archives "/var/cache/apt/pybuilder/archives";' in config
    assert b"sourcelist" not in config
    assert sorted(path.name for path in folder.iterdir()) == ["a_1%3a2_all.deb", "new_1_all.deb"]
    assert not guest.exists(aptsettings.FOLDER)
    assert not [path for path in guest.tree() if "apt.conf" in path]


def test_a_package_with_other_bytes_is_not_given(tmp_path: Path) -> None:
    seen: dict[str, bytes] = {}
    guest = apt_guest(seen)
    (tmp_path / "a_1%3a2_all.deb").write_bytes(b"poisoned bytes")
    customize(
        guest,
        [parse_operation("install", "a"), parse_operation("package-cache", str(tmp_path))],
        context_of(guest),
    )
    assert f"{aptsettings.FOLDER}/archives/a_1%3a2_all.deb" not in seen


def test_the_mirror_holds_for_all_commands_and_leaves_nothing(guest: FakeGuest, tmp_path: Path) -> None:
    guest.add("/etc/apt/sources.list.d/debian.sources", STANZAS)
    seen: dict[str, bytes] = {}

    def command(script: str) -> CommandResult:
        seen.update(guest.tree())
        assert ". /tmp/pybuilder" in script
        return CommandResult(0, "")

    guest.on_sh("apt-get moo", command)
    before = guest.tree()
    customize(
        guest,
        [
            parse_operation("mirror", "http://u:secret-word@m.example/"),
            parse_operation("run-command", "apt-get moo"),
        ],
        context_of(guest),
    )
    (sources,) = [
        content for path, content in seen.items() if "pybuilder" in path and path.endswith(".sources")
    ]
    assert b"URIs: http://u:secret-word@m.example/debian\n" in sources
    (environment,) = [content for path, content in seen.items() if path.endswith("/environment")]
    assert b"APT_CONFIG=/tmp/pybuilder." in environment
    assert "secret-word" not in "".join(guest.scripts)
    after = guest.tree()
    assert after["/etc/apt/sources.list.d/debian.sources"] == before["/etc/apt/sources.list.d/debian.sources"]
    assert [path for path in after if "pybuilder" in path] == []


@pytest.mark.parametrize(
    "text", ["", "m.example.org", "file:///srv", "http://", "http://m/?x", 'http://m/"; x', "http://m/ x"]
)
def test_an_invalid_mirror_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--mirror: this is not the address"):
        parse_operation("mirror", text)


@pytest.mark.parametrize("keyword", ["mirror", "package-cache"])
def test_other_package_managers_are_refused_before_a_change(keyword: str, tmp_path: Path) -> None:
    text = "http://m" if keyword == "mirror" else str(tmp_path)
    guest = debian_guest()
    context = context_of(guest)
    context = replace(context, facts=replace(context.facts, package_manager=PackageManager.DNF))
    before = guest.tree()
    with pytest.raises(OperationError, match="apt only, and the guest has dnf"):
        customize(guest, [parse_operation(keyword, text)], context)
    assert guest.tree() == before


def test_a_folder_that_cannot_be_made_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        validate([parse_operation("package-cache", f"{tmp_path}/file/sub")])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_of_a_hostile_guest_do_not_stay_in_the_folder(tmp_path: Path) -> None:
    """Files with the digest in apt's lists stay; others are replaced, and nothing is removed."""
    name, other = "n_1_all.deb", tmp_path / "other_1_all.deb"
    real, poison = (bytes(100_000) + middle + bytes(100_000) for middle in (b"real", b"evil"))
    other.write_bytes(b"of another build")

    def build(content: bytes, wanted: dict[str, str]) -> bytes:
        guest = debian_guest()
        context = context_of(guest, package_cache=tmp_path)
        before = (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b""
        with aptsettings.folder_in_guest(guest, context):
            given = aptsettings.upload_packages(guest, context, wanted)
            assert given == (wanted.get(name) == _digest(before))
            guest.write(f"{aptsettings.FOLDER}/archives/{name}", content)
        return (tmp_path / name).read_bytes()

    assert build(b"hostile", {}) == b"hostile"
    assert build(b"as long", {}) == b"as long"
    assert build(poison, {}) == poison
    right = {name: _digest(real)}
    assert build(real, right) == real, "though size, beginning and end are the same"
    assert build(poison, right) == real
    assert build(real, right) == real
    assert build(poison, {name: _digest(b""), other.name: _digest(b"")}) == real
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, other.name]
    assert other.read_bytes() == b"of another build"


def test_a_package_that_is_wanted_many_times_is_given_once(guest: FakeGuest, tmp_path: Path) -> None:
    (tmp_path / "n_1_all.deb").write_bytes(b"n")
    guest.mkdir_p(f"{aptsettings.FOLDER}/archives")
    wanted = aptsettings.parse_wanted(f"'http://h/n' n_1_all.deb 1 SHA256:{_digest(b'n')}\n" * 10_000)
    assert aptsettings.upload_packages(guest, context_of(guest, package_cache=tmp_path), wanted) == 1


def test_a_guest_cannot_fill_the_host_with_packages(guest: FakeGuest, tmp_path: Path) -> None:
    context = context_of(guest, package_cache=tmp_path)
    with aptsettings.folder_in_guest(guest, context):
        guest.add_sparse(f"{aptsettings.FOLDER}/archives/big_1_all.deb", 8 << 40)
        guest.add_fifo(f"{aptsettings.FOLDER}/archives/pipe_1_all.deb")
        guest.add(f"{aptsettings.FOLDER}/archives/fine_1_all.deb", "fine")
    assert [path.name for path in tmp_path.iterdir()] == ["fine_1_all.deb"]


def test_sources_of_apt_have_limits(guest: FakeGuest) -> None:
    guest.add_sparse("/etc/apt/sources.list", 8 << 30)
    with pytest.raises(GuestCallError):
        list(aptsettings.read_sources(guest))
    guest.remove("/etc/apt/sources.list")
    for number in range(201):
        guest.add(f"/etc/apt/sources.list.d/{number}.list", "#")
    with pytest.raises(GuestCallError, match="too many or too large"):
        list(aptsettings.read_sources(guest))
