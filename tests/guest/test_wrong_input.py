"""Mistakes are reported once, clearly, with the next step; nothing is left; the cache is still right.

Everything here is typed as a user would, as an ordinary user, on the real template.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.fakes.keys import HomeGuard
from tests.guest.conftest import Publisher, WebServer
from tests.guest.person import Person, leftovers, person_id

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]


def fails(
    person: Person, *words: str | Path, env: dict[str, str] | None = None, code: int | None = None
) -> str:
    """Run a command that must fail properly; return its standard error."""
    before = sorted(person.home.iterdir())
    done = person.run(*words, check=False, env=env, timeout=400)
    assert done.returncode != 0, done.stdout
    if code is not None:
        assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    made = [path for path in sorted(person.home.iterdir()) if path not in before and path.name[0] != "."]
    assert made == []
    assert len(re.findall(r"^pybuilder: error: ", done.stderr, re.MULTILINE)) == 1, done.stderr
    assert leftovers(person, [person.home]) == []
    return done.stderr


@pytest.fixture
def output(configured: Person) -> Path:
    return configured.home / "wrong.img"


def test_unknown_template(configured: Person, output: Path) -> None:
    assert "debian-12" in fails(configured, "pybuilder", "debian-21", "-o", output)
    assert "debian-12" in fails(configured, "pybuilder", "debain-12", "-o", output)


def test_other_architecture(configured: Person, output: Path) -> None:
    assert "x86_64" in fails(configured, "pybuilder", "debian-12", "--arch", "aarch64", "-o", output)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--size", "1G"], "cannot be shrunk"),
        (["--run", "/missing/script"], "/missing/script"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_mistakes_are_found_before_any_work(
    configured: Person, web: WebServer, output: Path, words: list[str], expected: str
) -> None:
    """Three of many: ``test_wrong_usage`` has the others."""
    before = [line for line in web.requests if "/debian-12-" in line]
    assert expected in fails(configured, "pybuilder", "debian-12", "-o", output, *words, code=2)
    assert [line for line in web.requests if "/debian-12-" in line] == before


def test_places(configured: Person) -> None:
    home = configured.home
    assert "mkdir -p" in fails(configured, "pybuilder", "debian-12", "-o", home / "missing" / "x.img")
    assert "is a folder" in fails(configured, "pybuilder", "debian-12", "-o", home)
    assert "/usr" in fails(configured, "pybuilder", "debian-12", "-o", "/usr/x.img")


def copy_site(publisher: Publisher, folder: Path) -> Path:
    site = folder / "site"
    shutil.copytree(publisher.site, site)
    subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
    return site


def with_source(publisher: Publisher, folder: Path, index: Path) -> dict[str, str]:
    """Make a configuration whose only source is ``index``."""
    conf = folder / "config" / "pybuilder" / "repos.d"
    conf.mkdir(parents=True, exist_ok=True)
    (conf / "x.conf").write_text(f"[x]\nuri={index}\ngpgkey={publisher.public_key}\n")
    subprocess.run(["chmod", "-R", "a+rX,go-w", folder], check=True)
    return {"XDG_CONFIG_HOME": str(folder / "config"), "VIRT_BUILDER_DIRS": str(folder / "none")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that the ordinary user can look into."""
    for place in (tmp_path, *tmp_path.parents):
        mode = place.stat().st_mode
        if mode & 0o055 != 0o055 and place.stat().st_uid == os.geteuid():
            place.chmod(mode | 0o055)
    return tmp_path


def test_indexes_that_are_not_trusted(
    configured: Person, publisher: Publisher, folder: Path, output: Path
) -> None:
    site = copy_site(publisher, folder)
    index = site / "index.asc"
    env = with_source(publisher, folder, index)
    good = index.read_text()
    configured.run("pybuilder", "--list", env=env)
    index.write_text(good.replace("revision=1", "revision=2"))
    assert "altered" in fails(configured, "pybuilder", "debian-12", "-o", output, env=env, code=3)
    index.write_text((site / "index").read_text())
    assert "without a signature" in fails(configured, "pybuilder", "debian-12", "-o", output, env=env, code=3)
    index.write_text(good + "\n[evil]\nfile=evil.xz\n")
    fails(configured, "pybuilder", "--list", env=env, code=3)
    other = Path("/tmp") / f"pbg-other-{os.getpid()}"
    other.mkdir(mode=0o700)
    guard = HomeGuard(other)
    try:
        gpg = ["gpg", "--homedir", str(other), "--batch", "--quiet"]
        subprocess.run(
            [*gpg, "--passphrase", "", "--quick-generate-key", "other", "ed25519", "sign"],
            check=True,
            capture_output=True,
        )
        signed = subprocess.run(
            [*gpg, "--clearsign"], input=(site / "index").read_bytes(), check=True, capture_output=True
        )
        index.write_bytes(signed.stdout)
    finally:
        guard.release()
    words = fails(configured, "pybuilder", "debian-12", "-o", output, env=env, code=3)
    assert publisher.fingerprint in words.replace(" ", "")


def test_template_that_does_not_fit_its_digest(
    configured: Person, publisher: Publisher, folder: Path, output: Path
) -> None:
    site = copy_site(publisher, folder)
    for packed in site.glob("debian-12-*"):
        content = bytearray(packed.read_bytes())
        content[len(content) // 2] ^= 1
        packed.write_bytes(content)
    env = with_source(publisher, folder, site / "index.asc")
    cache = folder / "cache"
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    env["XDG_CACHE_HOME"] = str(cache)
    assert "SHA-512" in fails(configured, "pybuilder", "debian-12", "-o", output, env=env, code=3)
    assert [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 4096] == []


def test_source_that_is_not_there(
    configured: Person, publisher: Publisher, folder: Path, output: Path
) -> None:
    env = with_source(publisher, folder, folder / "missing" / "index.asc")
    assert "missing/index.asc" in fails(configured, "pybuilder", "debian-12", "-o", output, env=env)
    no_key = folder / "config/pybuilder/repos.d/x.conf"
    no_key.write_text(f"[x]\nuri={publisher.index}\n")
    assert "gpgkey" in fails(configured, "pybuilder", "debian-12", "-o", output, env=env)


def test_script_that_fails(configured: Person, output: Path) -> None:
    script = configured.home / "failing.sh"
    script.write_text("#!/bin/sh\necho one thing\necho the last thing >&2\nexit 7\n")
    words = fails(
        configured,
        "pybuilder",
        "debian-12",
        "-o",
        output,
        "--root-password",
        "disabled",
        "--run",
        script,
        code=1,
    )
    assert "7" in words
    assert "the last thing" in words
    assert str(script) in words
    log = re.search(r"(/\S+\.log)", words)
    assert log, "says where the log is"
    script.unlink()


@pytest.mark.row("B12")
def test_existing_output_survives_a_failure(configured: Person) -> None:
    image = configured.home / "precious.img"
    image.write_text("precious")
    configured.owns(image)
    fails(configured, "pybuilder", "debian-12", "-o", image, "--run-command", "false")
    assert image.read_text() == "precious"
    image.unlink()


def test_no_network_inside_the_guest(configured: Person, output: Path) -> None:
    """A resolver that leads nowhere: the host's own configuration, hidden by a mount of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("only root can give the build another /etc/resolv.conf")
    nowhere = configured.home / "resolv.conf"
    nowhere.write_text("nameserver 127.0.0.1\n")
    inner = " ".join(configured.command("pybuilder", "debian-12", "-o", output, "--install", "nginx-light"))
    hidden = f"mount --bind {nowhere} $(readlink -f /etc/resolv.conf) && exec {inner}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hidden],
        env=configured.environment(), cwd=configured.home, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    nowhere.unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "network" in done.stderr
    assert "Installing packages" in done.stdout
    assert not output.exists()
    assert leftovers(configured, [configured.home]) == []


@pytest.mark.row("B15")
def test_full_disk(configured: Person, publisher: Publisher, folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small filesystem")
    small = folder / "small"
    small.mkdir()
    owner = f"uid={person_id(configured)}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=64M,mode=0700,{owner}", "tmpfs", small], check=True)
    try:
        words = fails(configured, "pybuilder", "debian-12", "-o", small / "x.img", "--no-network")
        assert str(small) in words
        assert "space" in words
        cacheless = fails(
            configured,
            "pybuilder",
            "debian-12",
            "-o",
            configured.home / "x.img",
            "--cache",
            small,
            "--no-network",
        )
        assert "space" in cacheless
        assert [path for path in small.rglob("*") if path.is_file() and path.stat().st_size > 4096] == []
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_binding(configured: Person, output: Path) -> None:
    words = fails(
        configured, "pybuilder", "debian-12", "-o", output, env={"PYBUILDER_GUESTFS_PYTHON": "/bin/false"}
    )
    assert "python3-guestfs" in words


def stub(person: Person, body: str) -> Path:
    """Write a hypervisor that answers libguestfs's questions and then does ``body``."""
    path = person.home / "stub-hypervisor"
    path.write_text(
        '#!/bin/sh\ncase " $* " in *guestfsd.sock*) ;; *) exec /usr/bin/qemu-system-x86_64 "$@";; esac\n'
        + body
    )
    path.chmod(0o755)
    return path


@pytest.mark.row("B4")
def test_hypervisor_that_dies(configured: Person, output: Path) -> None:
    hypervisor = stub(configured, "echo it burns >&2; exit 3\n")
    words = fails(
        configured, "pybuilder", "debian-12", "-o", output, env={"LIBGUESTFS_HV": str(hypervisor)}, code=1
    )
    assert "doctor" in words
    assert "it burns" in words
    hypervisor.unlink()


@pytest.mark.row("B1")
@pytest.mark.parametrize(
    ("phase", "number"),
    [
        ("Copying", signal.SIGTERM),
        ("Opening the new disk", signal.SIGINT),
        ("Running: sleep 600", signal.SIGINT),
        ("Running: sleep 600", signal.SIGTERM),
    ],
)
def test_signals_leave_nothing(configured: Person, output: Path, phase: str, number: signal.Signals) -> None:
    process = configured.start(
        "pybuilder", "debian-12", "-o", output, "--root-password", "disabled", "--run-command", "sleep 600",
        env={"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if phase in line:
                break
        else:
            pytest.fail(f"{phase!r} was never reached: {process.communicate()[1]}")
        time.sleep(1.0 if phase != "Copying" else 0.05)
        os.kill(process.pid, number)
        _, words = process.communicate(timeout=20)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, words
    assert signal.Signals(number).name in words
    assert not output.exists()
    assert leftovers(configured, [configured.home]) == []


@pytest.mark.row("B3")
def test_sigkill_takes_the_appliance_along(configured: Person, output: Path) -> None:
    """docs/threat-model.md B3: no hypervisor is left, and the next run sweeps the rest."""
    process = configured.start(
        "pybuilder", "debian-12", "-o", output, "--root-password", "disabled", "--run-command", "sleep 600",
        env={"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if "Running: sleep 600" in line:
            break
    process.kill()
    process.communicate()
    end = time.monotonic() + 10
    while running(configured) and time.monotonic() < end:
        time.sleep(0.2)
    assert running(configured) == []
    assert not output.exists()
    parts = list(configured.home.glob(".pybuilder-*"))
    assert len(parts) == 1
    configured.run(
        "pybuilder", "debian-12", "-o", output, "--root-password", "disabled",
        env={"PYBUILDER_HOSTSIDE": "always"},
    )  # fmt: skip
    output.unlink()
    assert leftovers(configured, [configured.home]) == []


def running(person: Person) -> list[str]:
    return [item for item in leftovers(person, []) if not item.startswith("/")]


def test_doctor(configured: Person) -> None:
    done = configured.run("pybuilder", "doctor")
    for subject in (
        "libguestfs binding",
        "kernel for the appliance",
        "KVM",
        "qemu-img",
        "gpgv",
        "xz",
        "cache",
        "appliance",
        "network inside the appliance",
    ):
        assert re.search(rf"^ *\w+  {subject}: ", done.stdout, re.MULTILINE), (subject, done.stdout)
    assert "PROBLEM" not in done.stdout
    broken = configured.run(
        "pybuilder", "doctor", env={"PYBUILDER_GUESTFS_PYTHON": "/bin/false"}, check=False
    )
    assert broken.returncode == 1
    assert broken.stdout.splitlines()[-1].endswith("apt-get install --no-install-recommends python3-guestfs")
