"""``pybuilder run``: what is built, what is kept, and how QEMU and ssh are started for it."""

from __future__ import annotations

import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.commands import Command
from tests.fakes.qemu_on_terminal import Programs
from tests.fakes.template import Site, TinyAppliances, make_disk

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is missing")


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> Programs:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return Programs(tmp_path / "programs", monkeypatch)


def password(text: str) -> str:
    found = re.search(r"log in as root with the password (\S+)", text)
    assert found, text
    return found[1]


def test_a_template_is_built_once_and_its_login_is_shown_each_time(
    site: Site, home: Path, programs: Programs, appliances: TinyAppliances, pybuilder: Command
) -> None:
    first = pybuilder("run", "tiny", "--hostname", "web").good()
    again = pybuilder("run", "tiny", "--hostname", "web").good()
    assert len(appliances.launches) == 1
    assert password(first.out) == password(again.out)
    issue = appliances.guest.text("/etc/issue")
    assert issue == f"Log in as root with the password {password(first.out)}\n"
    assert appliances.guest.text("/etc/hostname") == "web\n"
    (image,) = (home / "pybuilder/runs").glob("*.qcow2")
    assert programs.value("-drive") == f"if=none,id=disk0,file={image},format=qcow2,snapshot=on"
    assert list(Path().iterdir()) == [], "nothing is left here"
    listed = pybuilder("cache", "list", "-v").out
    assert re.search(r"^image of a run, [0-9.]+\w: tiny; Setting the hostname: web$", listed, re.MULTILINE)
    assert password(first.out) not in listed
    pybuilder("cache", "gc", "--cache-size", "1K").good()
    assert list((home / "pybuilder/runs").iterdir()) == []


@pytest.mark.parametrize("change", ["recipe", "template", "size"])
def test_another_recipe_or_template_is_built_anew(
    site: Site, appliances: TinyAppliances, pybuilder: Command, change: str
) -> None:
    pybuilder("run", "tiny", "--hostname", "web").good()
    words = ["--hostname", "db" if change == "recipe" else "web"]
    if change == "template":
        make_disk(site.folder / "disk.raw", b"new")
        other = site.folder / "other.raw"
        (site.folder / "disk.raw").rename(other)
        site.sign(replace(site.entry, file=other.name, sha512=_sha512(other), compressed_size=None))
    if change == "size":
        words += ["--size", "16M"]
    pybuilder("run", "tiny", *words).good()
    assert len(appliances.launches) == 2


def _sha512(path: Path) -> str:
    from imgbuilder.host.hashing import hash_file

    return hash_file(path)


@pytest.mark.usefixtures("site")
def test_a_random_password_that_is_asked_for_is_remembered_as_well(
    appliances: TinyAppliances, pybuilder: Command
) -> None:
    first = pybuilder("run", "tiny", "--root-password", "random").good()
    again = pybuilder("run", "tiny", "--root-password", "random").good()
    assert password(first.out) == password(again.out)
    ran = pybuilder("run", "tiny", "--root-password", "password:my own").good()
    assert "log in as root" not in ran.out
    assert appliances.guest.text("/etc/issue").count("\n") == 1, "only of the first"
    assert len(appliances.launches) == 2


@pytest.mark.usefixtures("site", "appliances")
def test_ports_memory_and_processors(programs: Programs, pybuilder: Command) -> None:
    ran = pybuilder("run", "tiny", "--forward", "18080:80", "--memory", "64", "--cpus", "2").good()
    assert programs.value("-nic") == "user,model=virtio-net-pci,hostfwd=tcp:127.0.0.1:18080-:80"
    assert (programs.value("-m"), programs.value("-smp")) == ("64", "2")
    assert "tcp port 18080 of this machine is port 80 of the guest" in ran.out
    assert (programs.value("-serial"), programs.value("-display")) == ("mon:stdio", "none")
    assert "Ctrl-A, then X" in ran.out


@pytest.mark.usefixtures("site")
def test_what_is_missing_is_said_before_anything_is_fetched(
    home: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, pybuilder: Command
) -> None:
    pybuilder("run", "tiny", "--memory", "9999999").failed(1, "9999999 MiB of memory do not fit", "--memory")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    pybuilder("run", "tiny", "--graphic").failed(2, "DISPLAY", "leave out --graphic")
    monkeypatch.setenv("DISPLAY", ":9")
    (programs.folder / "displays").write_text("none\ncurses\n")
    pybuilder("run", "tiny", "--graphic").failed(1, "cannot open windows", "qemu-system-gui")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        pybuilder("run", "tiny", "--forward", f"{port}:80").failed(2, f"tcp port {port}", "in use", ":80")
    monkeypatch.setattr("imgbuilder.running.checks._LEAST_SPACE", 1 << 60)
    pybuilder("run", "tiny").failed(1, "not enough space")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("imgbuilder.host.process._SYSTEM_FOLDERS", ())
    pybuilder("run", "tiny").failed(1, "qemu-system-x86_64 is not installed", "qemu-system-x86")
    assert not (home / "pybuilder/disks").exists()


@pytest.mark.usefixtures("site", "appliances")
def test_a_screen_takes_the_place_of_the_console(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, pybuilder: Command
) -> None:
    monkeypatch.setenv("DISPLAY", ":9")
    (programs.folder / "displays").write_text("none\ngtk\n")
    ran = pybuilder("run", "tiny", "--graphic").good()
    assert "virtio-vga" in programs.calls[-1]
    assert "-serial" not in programs.calls[-1]
    assert "Ctrl-A" not in ran.out


@pytest.mark.usefixtures("site", "appliances")
def test_a_hypervisor_that_fails_is_an_error(programs: Programs, pybuilder: Command) -> None:
    programs.how("status 3")
    pybuilder("run", "tiny").failed(1, "qemu-system-x86_64 ended with status 3")


def test_keep_makes_an_image_here_and_runs_it(
    site: Site, home: Path, programs: Programs, appliances: TinyAppliances, pybuilder: Command
) -> None:
    ran = pybuilder("run", "tiny", "--keep").good()
    assert password(ran.out)
    assert not appliances.guest.exists("/etc/issue"), "what is kept is as a build makes it"
    kept = Path("tiny.qcow2").absolute()
    assert programs.value("-drive") == f"if=none,id=disk0,file={kept},format=qcow2,snapshot=off"
    assert f"linked image: {kept}" in pybuilder("cache", "list", "-v").out
    assert list((home / "pybuilder/runs").iterdir()) == []
    pybuilder("run", "tiny", "--keep").failed(2, "tiny.qcow2 is there already", "run ./tiny.qcow2 --keep")
    pybuilder("run", "tiny.qcow2", "--keep").good()
    assert programs.value("-drive").endswith(f"file={kept},format=qcow2,snapshot=off")
    pybuilder("run", "tiny.qcow2").good()
    assert programs.value("-drive").endswith("snapshot=on")
    assert len(appliances.launches) == 1
    appliances.roots = {"/dev/sda2": {"type": "linux", "arch": "x86_64"}}
    pybuilder("run", "tiny.qcow2", "--hostname", "web").good()
    (disk,) = (home / "pybuilder/disks").glob("*.raw")
    assert appliances.launches[-1][0].backing == (kept, disk)
    pybuilder("run", "tiny", "--keep", "-o", "other.qcow2").good()
    pybuilder("run", "tiny", "-o", "third.qcow2").failed(2, "--keep")


def test_an_image_is_customized_in_an_overlay(
    tmp_path: Path, programs: Programs, appliances: TinyAppliances, pybuilder: Command
) -> None:
    appliances.roots = {"/dev/sda2": {"type": "linux", "arch": "x86_64"}}
    image = make_disk(tmp_path / "disk.img")
    before = image.read_bytes()
    pybuilder("run", str(image)).good()
    assert programs.value("-drive") == f"if=none,id=disk0,file={image},format=raw,snapshot=on"
    assert appliances.launches == []
    pybuilder("run", str(image), "--hostname", "web").good()
    ((disk, *_rest),) = appliances.launches
    assert disk.path.name == "overlay.qcow2"
    assert disk.backing == (image,)
    assert appliances.guest.text("/etc/hostname") == "web\n"
    assert not disk.path.exists()
    assert image.read_bytes() == before
    pybuilder("run", str(image), "--hostname", "web", "--keep").failed(
        2, "--hostname would stay", "customize"
    )


@pytest.mark.row("Q2")
@pytest.mark.usefixtures("site", "appliances")
def test_a_file_is_not_taken_for_a_template(programs: Programs, pybuilder: Command) -> None:
    make_disk(Path("mine"))
    make_disk(Path("tiny"))
    pybuilder("run", "tiny").good()
    assert "/pybuilder/runs/" in programs.value("-drive")
    pybuilder("run", "mine").failed(2, "mine", "to run the file: pybuilder run ./mine")
    pybuilder("run", "./mine").good()
    pybuilder("run", "./missing").failed(2, "missing")


@needs_ssh_keygen
def test_ssh_logs_root_in_with_a_key_of_its_own(
    site: Site, home: Path, programs: Programs, appliances: TinyAppliances, pybuilder: Command
) -> None:
    programs.how("ssh", ssh=7)
    ran = pybuilder("run", "tiny", "--ssh")
    assert ran.code == 7, ran.err
    assert "Ctrl-A" not in ran.out
    key = home / "pybuilder/run/id_ed25519"
    assert key.stat().st_mode & 0o777 == 0o600
    assert appliances.guest.text("/root/.ssh/authorized_keys") == key.with_suffix(".pub").read_text()
    assert programs.session[-1] == "root@127.0.0.1"
    assert str(key) in programs.session
    assert f":{programs.session[programs.session.index('-p') + 1]}-:22" in programs.value("-nic")
    before = key.read_text()
    programs.how("ssh", ssh=0)
    pybuilder("run", "tiny", "--ssh").good()
    assert key.read_text() == before
    assert len(appliances.launches) == 1
    assert not (programs.folder / "shut-down").exists()


@needs_ssh_keygen
@pytest.mark.usefixtures("site", "appliances")
def test_a_kept_guest_is_shut_down_after_the_session(programs: Programs, pybuilder: Command) -> None:
    programs.how("ssh")
    pybuilder("run", "tiny", "--ssh", "--keep").good()
    assert (programs.folder / "shut-down").exists()


@needs_ssh_keygen
@pytest.mark.usefixtures("site", "appliances")
def test_a_session_that_the_guest_cut_is_an_error_unless_it_was_shut_down(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, pybuilder: Command
) -> None:
    programs.how("off", ssh=255)
    pybuilder("run", "tiny", "--ssh").good()
    monkeypatch.setattr("imgbuilder.running.console._GRACE", 0.3)
    programs.how("ssh", ssh=255)
    pybuilder("run", "tiny", "--ssh").failed(1, "could not be logged in by SSH")


@needs_ssh_keygen
@pytest.mark.usefixtures("site", "appliances")
def test_a_guest_that_ends_before_its_server_answers_shows_its_console(
    programs: Programs, pybuilder: Command
) -> None:
    programs.how("status 0")
    pybuilder("run", "tiny", "--ssh").failed(
        1, "ended before its SSH server answered", "the console of the guest"
    )
