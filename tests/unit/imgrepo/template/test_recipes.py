"""Recipes, and the files of ours that they put into a guest."""

from __future__ import annotations

import configparser
import tarfile
from pathlib import Path

import pytest

from imgbuilder.errors import UsageError
from imgrepo.template.disk import Layout, RootKind
from imgrepo.template.recipes import (
    DEBIAN,
    DEBIAN_MIRROR,
    RECIPES,
    Arch,
    Kernel,
    Mirrors,
    build_sources,
    check_combination,
    check_locale,
    check_packages,
    finish_script,
    guest_files,
    packages_of,
    recipe_named,
    write_overlay,
)

BOOKWORM = recipe_named("debian-12")


def files(name: str = "debian-12", sources: Mirrors = DEBIAN) -> dict[str, str]:
    return {file.path: file.content for file in guest_files(recipe_named(name), sources)}


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="debian-7") as refused:
        recipe_named("debian-7")
    assert refused.value.hint is not None
    assert "debian-12" in refused.value.hint


def test_kernel_flavour_decides_the_kernel_package() -> None:
    assert "linux-image-cloud-amd64" in packages_of(BOOKWORM, Kernel.CLOUD, ())
    assert "linux-image-amd64" not in packages_of(BOOKWORM, Kernel.CLOUD, ())
    assert "linux-image-amd64" in packages_of(BOOKWORM, Kernel.GENERIC, ())


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("root", RootKind)
def test_each_combination_has_its_packages_or_is_refused(name: str, arch: Arch, root: RootKind) -> None:
    recipe, layout = recipe_named(name), Layout(root, uefi=True, lvm=True)
    possible = (arch is Arch.AMD64 or name in {"debian-11", "debian-12"}) and (name, root) != (
        "debian-11",
        RootKind.XFS,
    )
    if not possible:
        with pytest.raises(UsageError):
            check_combination(recipe, arch, layout)
        return
    check_combination(recipe, arch, layout)
    packages = packages_of(recipe, Kernel.CLOUD, (), arch=arch, layout=layout)
    wanted = {
        Arch.AMD64: {"linux-image-cloud-amd64", "grub-efi-amd64-bin"},
        Arch.I386: {"linux-image-686-pae", "grub-efi-ia32-bin"},
    }[arch]
    assert wanted | {"lvm2", root.package, "grub-pc-bin"} <= set(packages)
    assert ("systemd-resolved" in packages) == (name != "debian-11")
    assert "lvm2" not in packages_of(recipe, Kernel.CLOUD, (), arch=arch)


def test_a_rolling_suite_has_no_updates_and_no_security() -> None:
    sid = recipe_named("debian-sid")
    assert build_sources(sid, DEBIAN, Path("/k")) == (f"deb [signed-by=/k] {DEBIAN_MIRROR} sid main",)
    assert files("debian-sid")["/etc/apt/sources.list.d/debian.sources"].count("Types:") == 1


def test_a_locale_is_generated_and_set() -> None:
    found = {file.path: file.content for file in guest_files(BOOKWORM, DEBIAN, "de_DE.UTF-8")}
    assert found["/etc/locale.gen"] == "de_DE.UTF-8 UTF-8\n"
    assert found["/etc/default/locale"] == "LANG=de_DE.UTF-8\n"
    assert finish_script("de_DE.UTF-8").startswith("locale-gen\n")
    assert "locale-gen" not in finish_script()
    assert "/etc/locale.gen" not in files()


@pytest.mark.parametrize(
    "name", ["", "de_DE", "de_DE.ISO-8859-1", "C", "de_DE.UTF-8\nx", "../x", "de_DE.UTF-8;"]
)
def test_what_is_no_locale_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_locale(name)


def test_included_packages_are_added_once() -> None:
    packages = packages_of(BOOKWORM, Kernel.CLOUD, ("nginx", "zstd"))
    assert "nginx" in packages
    assert packages.count("zstd") == 1


def test_no_recipe_installs_the_grub_that_asks_where_to_go() -> None:
    assert all("grub-pc" not in recipe.packages for recipe in RECIPES.values())


@pytest.mark.parametrize(
    "name", ["", "-y", "a", "Nginx", "nginx;id", "nginx vim", "/tmp/x.deb", "?essential"]
)
def test_what_is_no_package_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_packages((name,))


@pytest.mark.parametrize(
    "url",
    [
        "", "deb.debian.org", "ftp://example.org/debian", "http:", "http://a b/", "http://a/[trusted=yes]",
        "http://a/\nhttp://b", "http://a/#x", "http://[", "copy:/x", "http://a/ü",
    ],
)  # fmt: skip
def test_what_is_no_mirror_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        Mirrors(mirror=url)
    with pytest.raises(UsageError):
        Mirrors(security=url)


def test_each_build_source_names_the_keys_that_may_sign_it_and_none_is_trusted_blindly() -> None:
    lines = build_sources(
        recipe_named("debian-13"), Mirrors("http://m/debian", "http://s/sec"), Path("/k.gpg")
    )
    assert lines == (
        "deb [signed-by=/k.gpg] http://m/debian trixie main",
        "deb [signed-by=/k.gpg] http://m/debian trixie-updates main",
        "deb [signed-by=/k.gpg] http://s/sec trixie-security main",
    )
    assert not any("trusted" in line for line in lines)


def test_the_guest_gets_suite_updates_and_security_from_its_own_mirrors() -> None:
    text = files(sources=Mirrors("http://m/debian", "http://s/sec"))["/etc/apt/sources.list.d/debian.sources"]
    stanzas = [dict(line.split(": ", 1) for line in part.split("\n") if line) for part in text.split("\n\n")]
    assert [(one["URIs"], one["Suites"]) for one in stanzas] == [
        ("http://m/debian", "bookworm bookworm-updates"),
        ("http://s/sec", "bookworm-security"),
    ]
    assert all(one["Signed-By"].endswith("debian-archive-keyring.gpg") for one in stanzas)


def test_every_wired_interface_asks_for_an_address() -> None:
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment]
    unit.read_string(files()["/etc/systemd/network/99-dhcp.network"])
    assert unit["Match"]["Name"] == "en* eth*"
    assert unit["Network"]["DHCP"] == "yes"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/etc/default/grub", 'GRUB_TERMINAL="console serial"'),
        ("/etc/default/grub", "console=tty0 console=ttyS0,115200n8"),
        ("/etc/hostname", "debian-12\n"),
        ("/etc/hosts", "127.0.1.1\tdebian-12\n"),
        ("/etc/systemd/system/ssh-host-keys.service", "Before=ssh.service"),
        ("/etc/systemd/system/ssh-host-keys.service", "PathExistsGlob=!/etc/ssh/ssh_host_*_key"),
    ],
)
def test_what_the_files_of_the_guest_say(path: str, text: str) -> None:
    assert text in files()[path]


def test_host_keys_are_those_of_one_machine() -> None:
    assert "ssh-host-keys.service" in finish_script()
    assert "rm -f /etc/ssh/ssh_host_*" in finish_script()


def test_the_overlay_belongs_to_root_and_has_plain_modes(tmp_path: Path) -> None:
    archive = tmp_path / "overlay.tar"
    wanted = guest_files(BOOKWORM, DEBIAN)
    write_overlay(wanted, archive)
    with tarfile.open(archive) as tar:
        members = {f"/{member.name}": member for member in tar}
        for file in wanted:
            content = tar.extractfile(members[file.path])
            assert content is not None
            assert content.read().decode() == file.content
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    assert {member.mode for member in members.values() if member.isdir()} == {0o755}
    assert {member.mode for member in members.values() if member.isfile()} == {0o644}
    assert len(members) == len(set(members))
