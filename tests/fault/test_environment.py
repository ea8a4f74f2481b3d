"""B24, B25: closed and full outputs, and odd environments; as black boxes. B26 is in ``tests/guest``.

The builds run through the real worker, with a stand-in for the binding.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import guestfs_build
from tests.fakes.keys import KeyMaker
from tests.fakes.template import SIZE, make_site

BUILD = ("tiny", "--root-password", "disabled", "--run-command", "true")


class Place:
    """A folder with a source, a stand-in for libguestfs, and an environment."""

    def __init__(self, base: Path, keys: KeyMaker) -> None:
        self.base = base
        for name in ("site", "home", "stub", "tmp", "out"):
            (base / name).mkdir()
        make_site(base / "site", keys).configure(base / "home/.config")
        guestfs_build.install(base / "stub")
        (base / "hypervisor").write_text('#!/bin/sh\nexec sleep "$1"\n')
        (base / "hypervisor").chmod(0o755)
        self.environment = {
            "HOME": str(base / "home"), "PATH": "/usr/local/bin:/usr/bin:/bin", "TMPDIR": str(base / "tmp"),
            "VIRT_BUILDER_DIRS": "/nonexistent", "PYBUILDER_GUESTFS_PYTHON": str(base / "stub/python"),
            "LIBGUESTFS_HV": str(base / "hypervisor"), "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
            "LANG": "C.UTF-8",
        }  # fmt: skip

    def run(self, *words: str, prefix: tuple[str, ...] = (), **how: Any) -> subprocess.CompletedProcess[str]:
        arguments: dict[str, Any] = {
            "cwd": self.base / "out", "env": self.environment, "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120,
        }  # fmt: skip
        return subprocess.run(
            [*prefix, sys.executable, "-m", "imgbuilder", *words], check=False, **{**arguments, **how}
        )

    def built(self) -> None:
        (image,) = (self.base / "out").iterdir()
        assert image.stat().st_size == SIZE
        image.unlink()


@pytest.fixture
def place(tmp_path: Path, keys: KeyMaker) -> Place:
    return Place(tmp_path, keys)


@pytest.mark.row("B24")
def test_a_full_output_is_an_error_and_no_traceback(place: Place) -> None:
    for words in (("--list",), ("--help",), ("--list", "--list-format", "json"), ("--version",)):
        with open("/dev/full", "w") as full:
            done = place.run(*words, stdout=full)
        assert done.returncode == 1, words
        assert "No space left" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.row("B24")
def test_a_reader_that_has_enough(place: Place) -> None:
    """As ``pybuilder --list | head -1``: the same code in every way of listing, and no words."""
    lists = [("--list",), ("--list", "tiny"), ("--list", "t*"), ("search", "tiny"), ("--long",)]
    for words in [
        *lists,
        ("--list-format", "full", "--list"),
        ("--help",),
        ("--version",),
        (
            "source",
            "list",
        ),
    ]:
        read, write = os.pipe()
        os.close(read)
        done = place.run(*words, stdout=write)
        os.close(write)
        assert (done.returncode, done.stderr) == (141, ""), words


@pytest.mark.row("B24")
@pytest.mark.parametrize("module", ["imgbuilder.cli.customize_main", "imgrepo"])
def test_a_reader_that_has_enough_of_the_other_programs(module: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", module, "--help"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.row("B24")
@pytest.mark.parametrize("module", ["imgbuilder", "imgbuilder.cli.customize_main", "imgrepo"])
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_full_output_of_click_itself(module: str, word: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", module, word], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.endswith(": error: standard output: No space left on device\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.row("B24")
@pytest.mark.parametrize("words", [BUILD, ("--cache-all-templates",), ("source", "list", "--long")])
def test_a_full_output_is_not_blamed_on_what_was_done(place: Place, words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = place.run(*words, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "pybuilder: error: standard output: No space left on device\n"
    assert list((place.base / "out").iterdir()) == []


@pytest.mark.row("B24")
def test_messages_for_programs_that_find_no_room(place: Place) -> None:
    done = place.run(*BUILD, "--machine-readable=file:/dev/full")
    assert (done.returncode, done.stderr) == (1, "pybuilder: error: /dev/full: No space left on device\n")


@pytest.mark.row("B24")
def test_a_full_standard_error_does_not_stop_a_build(place: Place) -> None:
    with open("/dev/full", "w") as full:
        assert place.run(*BUILD, "--verbose", stderr=full).returncode == 0
    place.built()


@pytest.mark.row("B24")
def test_what_the_encoding_cannot_show(place: Place) -> None:
    """Names and notes of publishers, in what is meant for people and in JSON."""
    place.environment.update(PYTHONIOENCODING="latin-1", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    folder = place.base / "site/Prix €"
    folder.mkdir()
    (place.base / "site/index.asc").rename(folder / "index.asc")
    words = ("--no-check-signature", "--source", str(folder / "index.asc"), "--list")
    done = place.run(*words, "--long", env={**place.environment, "PYTHONUTF8": "1"}, encoding="latin-1")
    assert done.returncode == 0, done.stderr
    assert "site/Prix \\u20ac/index.asc" in done.stdout
    done = place.run(*words, "--list-format", "json", env={**place.environment, "PYTHONUTF8": "1"})
    assert json.loads(done.stdout)["sources"][0]["uri"].endswith("site/Prix €/index.asc")


@pytest.mark.row("B24")
@pytest.mark.parametrize("closed", ["1", "2"])
def test_closed_outputs(place: Place, closed: str) -> None:
    done = place.run(*BUILD, prefix=("sh", "-c", f'exec "$0" "$@" {closed}>&-'))
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0, done
    place.built()


@pytest.mark.row("B24")
def test_an_error_with_all_streams_closed(place: Place) -> None:
    for closed in ("2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"):
        done = place.run("tiny", "--size", "nonsense", prefix=("sh", "-c", f'exec "$0" "$@" {closed}'))
        assert done.returncode == 2
    assert list((place.base / "out").iterdir()) == []


@pytest.mark.row("B25")
@pytest.mark.parametrize("mask", [0o000, 0o077, 0o022])
def test_umask(place: Place, mask: int) -> None:
    done = place.run(*BUILD, umask=mask)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((place.base / "out/tiny.img").stat().st_mode) == 0o666 & ~mask
    place.built()
    key = next((place.base / "site").glob("*.gpg"))
    source = ("source", "add", "mine", f"file://{place.base}/site/index.asc", "--gpgkey", str(key))
    # Not even the folders above ours, where they were missing.
    del place.environment["VIRT_BUILDER_DIRS"]
    place.environment["XDG_CONFIG_HOME"] = str(place.base / "home/a/b")
    assert place.run(*source, umask=mask).returncode == 0
    made = [path for path in (place.base / "home").rglob("*") if ".config" not in path.parts]
    assert {"a", ".cache", ".local", "state", "sources", "repos.d", "mine.conf"} <= {
        path.name for path in made
    }
    for path in made:
        assert not path.stat().st_mode & 0o022, f"{path} can be written by others"


@pytest.mark.row("B25")
@pytest.mark.parametrize("tmpdir", ["missing", "file", "readonly"])
def test_a_temporary_folder_that_is_none(place: Place, tmpdir: str) -> None:
    chosen = place.base / tmpdir
    if tmpdir == "file":
        chosen.touch()
    elif tmpdir == "readonly":
        chosen.mkdir(mode=0o500)
    place.environment["TMPDIR"] = str(chosen)
    for words in (BUILD, (*BUILD, "--format", "vmdk", "--size", "64M", "-o", "tiny.img")):
        done = place.run(*words)
        assert "Traceback" not in done.stderr
        assert done.returncode in {0, 1}
        if done.returncode:
            assert str(chosen) in done.stderr
            assert list((place.base / "out").iterdir()) == []
        else:
            (place.base / "out/tiny.img").unlink()


@pytest.mark.row("B25")
def test_few_descriptors(place: Place) -> None:
    done = place.run(*BUILD, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)))
    assert done.returncode == 0, done.stderr
    place.built()


@pytest.mark.row("B25")
@pytest.mark.parametrize("locale", ["C", "POSIX", "de_DE.UTF-8", "nonsense"])
def test_locales(place: Place, locale: str) -> None:
    place.environment.update(LANG=locale, LC_ALL=locale)
    done = place.run(*BUILD, "-o", "größe.img")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (place.base / "out").iterdir()] == ["größe.img"]
    place.built()


NUMBER = 12345
"""A user who is not in /etc/passwd, as containers start programs."""


@pytest.fixture
def nameless(place: Place) -> tuple[str, ...]:
    """A place that such a user may use, and what comes before a command to be that user; root alone can."""
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    # They stay so: tests that run at the same time have folders below them as well.
    for folder in place.base.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    for path in [place.base, *place.base.rglob("*")]:
        os.chown(path, NUMBER, NUMBER, follow_symlinks=False)
    return ("setpriv", f"--reuid={NUMBER}", f"--regid={NUMBER}", "--clear-groups", "--")


@pytest.mark.row("B25")
def test_no_home(place: Place, nameless: tuple[str, ...]) -> None:
    """And the user is not in passwd: what needs no home works, after a warning."""
    place.environment["XDG_CONFIG_HOME"] = str(place.base / "home/.config")
    for home in (None, "/", "/dev/null", str(place.base / "closed")):
        (place.base / "closed").mkdir(mode=0o500, exist_ok=True)
        if home is None:
            del place.environment["HOME"]
        else:
            place.environment["HOME"] = home
            os.chown(place.base / "closed", NUMBER, NUMBER)
        listed = place.run("--list", prefix=nameless)
        assert listed.returncode == 0, listed.stderr
        assert listed.stdout.startswith("tiny ")
        assert listed.stderr.count("\n") == 1
        assert "cannot be written to" in listed.stderr
        done = place.run(*BUILD, prefix=nameless)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        place.built()


@pytest.mark.row("B25")
def test_home_comes_from_passwd(place: Place) -> None:
    """As for programs that cron or a service manager starts with an empty environment."""
    place.environment["XDG_CONFIG_HOME"] = str(place.base / "home/.config")
    place.environment["XDG_STATE_HOME"] = str(place.base / "state")
    del place.environment["HOME"]
    done = place.run("--list")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.row("B25")
def test_root_leaves_nothing_in_the_folders_of_a_user(place: Place, nameless: tuple[str, ...]) -> None:
    """As by ``sudo -E``, and by ``su`` without a dash."""
    home = place.base / "home"
    assert place.run("--list", prefix=nameless).returncode == 0
    before = {path: path.stat().st_ino for path in home.rglob("*")}
    assert any(path.suffix == ".json" for path in before)
    # Root's own folders are elsewhere, so that this test does not depend on them.
    mine = {
        "XDG_STATE_HOME": str(place.base.parent / "root-state"),
        "XDG_CACHE_HOME": str(place.base / "home/c"),
    }
    index = next((place.base / "site").glob("index.asc"))
    for words in (
        ("--list",),
        ("--list", "--no-check-signature", "--source", str(index)),
        ("--print-cache",),
    ):
        done = place.run(*words, env={**place.environment, **mine})
        assert f"HOME is {home}, which belongs to a user: root uses " in done.stderr
        assert "XDG_CACHE_HOME is " in done.stderr
    assert {path: path.stat().st_ino for path in home.rglob("*")} == before
    listed = place.run("--list", prefix=nameless)
    assert (listed.returncode, listed.stderr) == (0, "")


@pytest.mark.row("B25")
def test_configuration_that_others_may_change(place: Place) -> None:
    """Sources, and programs to start: a user who may write there chooses what is trusted."""
    folder = place.base / "home/.config/pybuilder"
    settings = folder / "pybuilder.toml"
    settings.write_text('cache-size = "1G"\n')
    settings.chmod(0o646)
    done = place.run("--print-cache")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"every user may change {settings}" in done.stderr
    settings.unlink()
    (source,) = (folder / "repos.d").glob("*.conf")
    source.chmod(0o646)
    done = place.run("--list")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"warning: every user may change {source}" in done.stderr
    source.chmod(0o644)
    (folder / "repos.d").chmod(0o777)
    assert "every user may replace" in place.run("--list").stderr
    (folder / "repos.d").chmod(0o755)
    assert place.run("--list").stderr == ""


@pytest.mark.row("B25")
def test_what_root_once_left_in_a_home(place: Place, nameless: tuple[str, ...]) -> None:
    """It is named with what to do, and it can be forgotten without root."""
    assert place.run("--list", prefix=nameless).returncode == 0
    folder = place.base / "home/.local/state/pybuilder/sources"
    for path in folder.iterdir():
        os.chown(path, 0, 0)
        path.chmod(0o600)
    listed = place.run("--list", prefix=nameless)
    assert listed.returncode == 3
    assert "belongs to another user" in listed.stderr
    assert f"sudo chown -R {NUMBER} {folder.parent}" in listed.stderr
    source = f"{place.base}/site/index.asc"
    done = place.run("source", "forget", source, prefix=nameless)
    assert done.returncode == 0, done.stderr
    assert place.run("--list", prefix=nameless).returncode == 0


@pytest.mark.row("B25")
def test_a_file_size_limit(place: Place) -> None:
    limit = 2 << 20
    done = place.run(*BUILD, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert done.returncode == 1
    assert "files are limited to 2.0M (ulimit -f)" in done.stderr
    assert list((place.base / "out").iterdir()) == []


@pytest.mark.row("B16")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("image_format", ["raw", "vmdk"])
def test_an_image_is_durable_before_it_has_its_name(place: Place, image_format: str) -> None:
    log = place.base / "calls"
    prefix = ("strace", "-f", "-y", "-qq", "-e", "trace=fsync,rename,renameat,renameat2", "-o", str(log))
    done = place.run(*BUILD, "--format", image_format, "-o", "x.img", prefix=prefix)
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    out = str(place.base / "out")
    calls = [line.split(maxsplit=1)[1] for line in log.read_text().splitlines() if out in line]
    kinds = [(call.partition("(")[0], ".part" in call, 'x.img"' in call) for call in calls]
    renamed = next(at for at, (name, _part, final) in enumerate(kinds) if name.startswith("rename") and final)
    assert any(name == "fsync" and part for name, part, _final in kinds[:renamed]), calls
    assert any(name == "fsync" and not part for name, part, _final in kinds[renamed:]), calls
    log.unlink()
    (place.base / "out/x.img").unlink()
    place.run(*BUILD, "--no-sync", "--format", image_format, "-o", "x.img", prefix=prefix)
    assert not [line for line in log.read_text().splitlines() if "fsync" in line and out in line]
