"""Messages of the real command: what it is about, what happened, and what to do next."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.faultserver import FaultServer, Hang, Pause, Reply, Step, answer, honest
from tests.fakes.keys import KeyMaker
from tests.fakes.template import make_site
from tests.fault.test_cache_places import mounted
from tests.fault.test_environment import BUILD, Place

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def place(tmp_path: Path, keys: KeyMaker) -> Place:
    """A place whose template has half a megabyte that cannot be packed, outside of its partitions."""
    made = Place(tmp_path, keys)
    site = make_site(tmp_path / "site", keys)
    disk = tmp_path / "site" / "disk.raw"
    with disk.open("r+b") as file:
        file.seek(7 << 20)
        file.write(os.urandom(500_000))
    content = subprocess.run(["xz", "-0c", disk], check=True, capture_output=True).stdout
    (tmp_path / "site" / "tiny.xz").write_bytes(content)
    digest = hashlib.sha512(content).hexdigest()
    site.sign(replace(site.entry, sha512=digest, compressed_size=len(content)))
    site.configure(tmp_path / "home/.config")
    return made


def by_files(place: Place, template: Callable[[bytes], bytes]) -> Reply:
    """Serve the site, its template by another reply."""

    def reply(head: bytes) -> bytes:
        name = head.split()[1].decode().lstrip("/")
        if name == "tiny.xz":
            return template(head)
        return answer((place.base / "site" / name).read_bytes())

    return reply


def move_to(place: Place, server: FaultServer) -> None:
    repos = place.base / "home" / ".config" / "pybuilder" / "repos.d" / "test.conf"
    site = place.base / "site"
    repos.write_text(f"[test]\nuri={server.url}/index.asc\ngpgkey={site}/key.gpg\n")


def packed(place: Place) -> bytes:
    return (place.base / "site" / "tiny.xz").read_bytes()


def test_verifying_says_what_was_looked_at(place: Place) -> None:
    assert place.run("cache", "verify").stdout.endswith("files: 0 looked at, none damaged\n")
    assert place.run(*BUILD).returncode == 0
    done = place.run("cache", "verify")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "files: 2 looked at, none damaged")
    for path in (place.base / "home/.cache/pybuilder/templates").iterdir():
        if len(path.name) == 128:
            path.chmod(0o600)
            path.write_bytes(b"x" + path.read_bytes()[1:])
    done = place.run("cache", "verify")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "files: 2 looked at, 1 damaged and removed")


def test_adding_says_what_was_added_and_what_is_wrong(place: Place) -> None:
    stick = place.base / "stick"
    stick.mkdir()
    shutil.copy(place.base / "site" / "tiny.xz", stick)
    (place.base / "site" / "tiny.xz").unlink()
    done = place.run("cache", "add", str(stick / "tiny.xz"))
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "added: tiny of test")
    assert "in the cache already: tiny of test" in place.run("cache", "add", str(stick / "tiny.xz")).stdout
    os.truncate(stick / "tiny.xz", 100)
    done = place.run("cache", "add", str(stick / "tiny.xz"))
    assert done.returncode == 1
    assert "has 100 bytes instead of" in done.stderr
    assert "copy it again" in done.stderr
    (stick / "other").write_bytes(b"x")
    for name in ("other", "missing", "."):
        done = place.run("cache", "add", str(stick / name))
        assert done.returncode == (2 if name == "missing" else 1)
        assert "Verifying" not in done.stdout or name == "other"
        assert str(stick) in done.stderr
        assert len(done.stderr.splitlines()) == 2, "and what to do"


def test_offline_pretends_no_download(place: Place) -> None:
    with FaultServer([by_files(place, honest(packed(place)))]) as server:
        move_to(place, server)
        assert place.run("--list").returncode == 0
        asked = len(server.requests)
        for words in (["--dry-run", "tiny"], ["tiny"], ["--cache-all-templates"]):
            done = place.run("--offline", *words)
            assert done.returncode == 1
            assert "tiny is not on this machine" in done.stderr
            assert "cache add FILE" in done.stderr
            assert re.search(r"signed (less than a|[0-9]+) minutes? ago", done.stderr)
            assert "ownload" not in done.stdout
        assert len(server.requests) == asked
        assert place.run("--cache-all-templates").returncode == 0
        shared = place.base / "shared"
        (place.base / "home/.cache/pybuilder").rename(shared)
        asked = len(server.requests)
        place.environment["PYBUILDER_CACHE_PATH"] = str(shared)
        for words in ([], ["--no-cache"]):
            assert place.run("--offline", *BUILD, *words).returncode == 0
            place.built()
        assert len(server.requests) == asked


def test_one_template_that_cannot_be_had_is_not_the_end(place: Place) -> None:
    """There is no room for it; a smaller one may come after it."""
    cache = place.base / "cache"
    with mounted(cache, "-t", "tmpfs", "-o", "mode=700,size=100k", "none"):
        done = place.run("--cache-all-templates", "--cache", str(cache))
    assert done.returncode == 1
    assert f"{cache}/templates has " in done.stderr
    assert done.stderr.splitlines()[-1].endswith("1 of 1 templates could not be had")


def test_a_template_that_is_gone_or_cut_on_the_server(place: Place) -> None:
    whole = packed(place)
    for template in (answer(b"", status="404 Not Found"), answer(whole[:1000])):
        with FaultServer([by_files(place, lambda _head, template=template: template)]) as server:  # type: ignore[misc]
            move_to(place, server)
            done = place.run("--cache-all-templates")
            assert done.returncode == 1
            assert f"{server.url}/tiny.xz" in done.stderr
            assert "in the middle of an update" in done.stderr


def test_a_proxy_that_is_not_there_is_named_without_its_password(place: Place) -> None:
    place.environment.update(http_proxy="http://me:canary@127.0.0.1:9", no_proxy="")
    with FaultServer([by_files(place, honest(packed(place)))]) as server:
        move_to(place, server)
        done = place.run("--list")
    assert done.returncode != 0
    assert "proxy http://127.0.0.1:9: Connection refused" in done.stderr
    assert "check https_proxy, http_proxy" in done.stderr
    assert "canary" not in done.stderr


def test_ftp_is_refused_with_advice(place: Place) -> None:
    done = place.run("--source", "ftp://ftp.example.org/index.asc", "--fingerprint", "A" * 40, "--list")
    assert done.returncode == 2
    assert "ftp is not supported" in done.stderr
    assert "https://" in done.stderr


def test_usage_errors_show_no_traceback(place: Place) -> None:
    for words in (["--print-cache", "x", "-v"], ["--nonsense", "-v"], ["cache", "add", "-v"]):
        done = place.run(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_ctrl_c_keeps_the_download_and_says_so(place: Place) -> None:
    """On a terminal, as people press it; the next run says where it goes on."""
    whole = packed(place)
    half = len(whole) // 2
    first = by_files(place, honest(whole, upto=half))
    slowly: list[Step] = [lambda head: first(head)[:-100], Pause(1), lambda head: first(head)[-100:], Hang()]
    with FaultServer(slowly) as server:
        move_to(place, server)
        child, terminal = pty.fork()
        if child == 0:
            os.chdir(place.base)
            words = [
                "env",
                "--default-signal=INT",
                sys.executable,
                "-m",
                "imgbuilder",
                "--cache-all-templates",
            ]
            os.execvpe("env", words, {**place.environment, "TERM": "xterm"})
        said, pressed, end = b"", False, time.monotonic() + 60
        while time.monotonic() < end:
            if not pressed and b"\rtiny:" in said:  # a bar is shown
                os.write(terminal, b"\x03")
                pressed = True
            os.set_blocking(terminal, False)
            try:
                piece = os.read(terminal, 4096)
            except BlockingIOError:
                time.sleep(0.02)
                continue
            except OSError:  # it has ended
                break
            if not piece:
                break
            said += piece
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(terminal)
        words_ = said.decode()
        assert status == 128 + signal.SIGINT, words_
        assert "stopped by SIGINT" in words_
        assert "the download continues where it was stopped, if the server can" in words_
        server.behave([by_files(place, honest(whole))])
        done = place.run("--cache-all-templates")
        assert done.returncode == 0
        assert "continuing after the" in done.stdout
        begun = re.search(rb"Range: bytes=(\d+)-", server.requests[-1])
        assert begun is not None
        assert 0 < int(begun[1]) <= half  # what had come when the key was pressed


def test_a_full_disk_is_noticed_before_the_download(place: Place) -> None:
    """C5: the image cannot be smaller than its template."""
    with FaultServer([by_files(place, honest(packed(place)))]) as server:
        move_to(place, server)
        with mounted(place.base / "out", "-t", "tmpfs", "-o", "mode=700,size=100k", "none") as out:
            done = subprocess.run(
                [sys.executable, "-m", "imgbuilder", *BUILD],
                cwd=out, env=place.environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 1
        assert f"not enough space in {out} for the image: " in done.stderr
        assert "K needed" in done.stderr
        assert not any(b"/tiny.xz" in head for head in server.requests)
