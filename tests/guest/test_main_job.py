"""The main job, end to end, as an ordinary user: template, repository, image, boot."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from imgbuilder.customize.passwords import yescrypt_available
from tests.guest.conftest import Publisher, WebServer
from tests.guest.images import look_into
from tests.guest.machine import TEMPLATE_ROOT, booted
from tests.guest.person import Person, leftovers

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

PAGE = "<h1>Hello from pybuilder</h1>"


@pytest.mark.timeout(1800)
def test_template_is_clean_and_complete(template: Path) -> None:
    """Files that a template must and must not contain."""
    table = json.loads(
        subprocess.run(["/usr/sbin/sfdisk", "--json", template], capture_output=True, check=True).stdout
    )
    parts = table["partitiontable"]["partitions"]
    assert table["partitiontable"]["label"] == "gpt"
    assert parts[0]["type"] == "21686148-6449-6E6F-744E-656564454649", "BIOS boot partition"
    assert parts[1]["type"] == "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "EFI system partition"
    last = max(parts, key=lambda part: part["start"])
    assert last["node"].endswith(TEMPLATE_ROOT.removeprefix("/dev/sda")), "the root is the last partition"
    with look_into(template) as guest:
        assert guest.filesystem_type(TEMPLATE_ROOT) == "ext4"
        assert guest.read("/etc/machine-id").strip() == b""
        assert guest.glob("/etc/ssh/ssh_host_*") == []
        root = next(
            line for line in guest.read("/etc/shadow").decode().split("\n") if line.startswith("root:")
        )
        assert root.split(":")[1] in {"*", "!", "!*", "!!"}
        assert guest.glob("/var/lib/apt/lists/*Packages*") == []
        assert guest.glob("/var/cache/apt/archives/*.deb") == []
        assert guest.glob("/var/cache/apt/*.bin") == []
        assert guest.stat("/etc/shadow").mode & 0o7777 == 0o640
        assert guest.stat("/root").mode & 0o077 == 0
        sources = b"".join(
            guest.read(path)
            for path in guest.glob("/etc/apt/sources.list.d/*") + guest.glob("/etc/apt/sources.list")
        )
        assert b"bookworm-security" in sources
        assert b"bookworm-updates" in sources
        assert b"trusted=yes" not in sources
        assert b"console=ttyS0" in guest.read("/boot/grub/grub.cfg")
        assert b"UUID=" in guest.read("/etc/fstab")
        for log in guest.glob("/var/log/*.log"):
            assert guest.stat(log).size == 0, log


def test_catalogue(configured: Person, web: WebServer) -> None:
    short = configured.run("pybuilder", "--list").stdout
    assert re.fullmatch(r"debian-12 {15} x86_64 {4} Debian GNU/Linux 12 \(bookworm\)\n", short), short
    listed = json.loads(configured.run("pybuilder", "--list", "--list-format", "json").stdout)
    assert listed["sources"][0]["uri"] == f"{web.url}/index.asc"
    assert listed["templates"][0]["os-version"] == "debian-12"
    assert "Minimum/default size:" in configured.run("pybuilder", "--list", "--long").stdout
    assert configured.run("pybuilder", "--notes", "debian-12").stdout


@pytest.fixture(scope="module")
def key(configured: Person) -> Path:
    path = configured.home / "id_ed25519"
    configured.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)
    return path


@pytest.fixture(scope="module")
def web_image(configured: Person, key: Path) -> tuple[Path, str]:
    """An image made by one command with many options; the image and what the command printed."""
    home = configured.home
    (home / "page.html").write_text(PAGE)
    script = home / "probe.py"
    script.write_text("#!/usr/bin/perl\nopen F, '>/root/by-perl'; print F 'shebang honoured'; close F;\n")
    tree = home / "tree"
    tree.mkdir()
    (tree / "inner").write_text("inner file")
    (home / "more.txt").write_text(
        "# more operations\nwrite /root/from-file:content: with colon\nchmod 0600:/root/from-file\n"
    )
    image = home / "web.img"
    done = configured.run(
        "pybuilder", "debian-12", "-o", image, "--size", "4G",
        "--hostname", "web.example.org",
        "--timezone", "Europe/Berlin",
        "--static-ip", "10.0.2.15/24,gateway=10.0.2.2,dns=10.0.2.3",
        "--install", "nginx-light",
        "--upload", f"{home / 'page.html'}:/var/www/html/index.html",
        "--chmod", "644:/var/www/html/index.html",
        "--mkdir", "/srv/data/deep",
        "--copy-in", f"{tree}:/srv/data",
        "--write", "/etc/motd:first line\n",
        "--append-line", "/etc/motd:second line",
        "--edit", "/etc/motd:s/first/1st/",
        "--touch", "/srv/data/empty",
        "--link", "/srv/data/deep:/srv/link",
        "--copy", "/etc/motd:/srv/link/motd",
        "--move", "/srv/link/motd:/srv/data/moved",
        "--write", "/srv/data/gone:x", "--delete", "/srv/data/go*",
        "--write", "/srv/data/cut:content", "--truncate", "/srv/data/cut",
        "--run", script,
        "--run-command", "useradd -m alice",
        "--commands-from-file", home / "more.txt",
        "--ssh-inject", f"root:file:{key}.pub",
        "--password", "alice:password:wonder land",
        "--sysprep", "fs-uuids",
        "--firstboot-command", "echo first; exit 3",
        "--firstboot-command", "echo FIRSTBOOT-$(hostname)-$(cat /etc/timezone) >/dev/console",
        timeout=600,
    )  # fmt: skip
    return image, done.stdout


def test_build_reports(web_image: tuple[Path, str]) -> None:
    image, printed = web_image
    steps = re.findall(r"^\[ *\d+\.\d\] (.*)$", printed, re.MULTILINE)
    for text in (
        "Installing packages: nginx-light",
        "Setting the hostname: web.example.org",
        "Finishing off",
    ):
        assert text in steps, printed
    assert steps.index("Setting the hostname: web.example.org") < steps.index(
        "Installing packages: nginx-light"
    )
    assert printed.count("Setting random password of root to ") == 1
    assert "wonder land" not in printed
    assert re.search(r"^ +Output file: .*/web\.img$", printed, re.MULTILINE)
    assert re.search(r"^ +Output size: 4\.0G$", printed, re.MULTILINE)
    usable = re.search(r"Total usable space: ([\d.]+)G", printed)
    assert usable
    assert float(usable.group(1)) > 3.5, "the filesystem grew"
    assert image.stat().st_size == 4 * 1024**3
    assert image.stat().st_blocks * 512 < 2 * 1024**3, "sparse"


@pytest.mark.row("B26")
def test_image_content(web_image: tuple[Path, str], template: Path) -> None:
    """Every operation did what it says."""
    with look_into(template) as guest:
        fstab, shared = guest.read("/etc/fstab"), guest.filesystem_uuid(TEMPLATE_ROOT).encode()
    with look_into(web_image[0]) as guest:
        own = guest.filesystem_uuid(TEMPLATE_ROOT).encode()
        assert own != shared
        assert guest.read("/etc/fstab") == fstab.replace(shared, own)
        assert b"root=UUID=" + own in guest.read("/boot/grub/grub.cfg")
        assert shared not in guest.read("/boot/grub/grub.cfg")
        assert guest.read("/etc/hostname") == b"web.example.org\n"
        assert guest.readlink("/etc/localtime").endswith("/usr/share/zoneinfo/Europe/Berlin")
        assert guest.read("/var/www/html/index.html") == PAGE.encode()
        status = guest.stat("/var/www/html/index.html")
        assert (status.mode & 0o7777, status.uid, status.gid) == (0o644, 0, 0)
        assert guest.read("/etc/motd") == b"1st line\nsecond line\n"
        assert guest.read("/srv/data/moved") == b"1st line\nsecond line\n", "copied and moved through a link"
        assert guest.ls("/srv/data/deep") == []
        assert guest.read("/srv/data/tree/inner") == b"inner file"
        assert guest.stat("/srv/data/tree/inner").uid == 0
        assert guest.stat("/srv/data/empty").size == guest.stat("/srv/data/cut").size == 0
        assert not guest.exists("/srv/data/gone")
        assert guest.read("/root/by-perl") == b"shebang honoured"
        assert guest.read("/root/from-file") == b"content: with colon"
        assert guest.stat("/root/from-file").mode & 0o7777 == 0o600
        assert guest.is_file("/usr/sbin/nginx")
        assert re.fullmatch(rb"[0-9a-f]{32}\n", guest.read("/etc/machine-id"))
        shadow = {
            line.split(":")[0]: line.split(":")[1]
            for line in guest.read("/etc/shadow").decode().split("\n")
            if line
        }
        scheme = "$y$" if yescrypt_available() else "$6$"
        assert shadow["root"].startswith(scheme), "as Debian's PAM says"
        assert shadow["alice"].startswith(scheme)
        assert guest.stat("/etc/shadow").mode & 0o7777 == 0o640
        keys = guest.stat("/root/.ssh/authorized_keys")
        assert (keys.mode & 0o7777, keys.uid) == (0o600, 0)
        assert guest.stat("/root/.ssh").mode & 0o7777 == 0o700
        assert b"nginx" in guest.read("/tmp/builder.log")
        assert guest.is_symlink("/etc/resolv.conf") or guest.is_file("/etc/resolv.conf")
        leftover = [path for path in guest.glob("/tmp/*") + guest.glob("/tmp/.*") if "pybuilder" in path]
        assert leftover == []
    checked = subprocess.run(
        ["/usr/sbin/sfdisk", "--verify", web_image[0]], capture_output=True, text=True, check=True
    )
    assert checked.stderr == "", checked.stderr


def fetch(url: str, limit: float) -> str:
    end = time.monotonic() + limit
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                body: bytes = answer.read()
                return body.decode()
        except (urllib.error.URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(1)


def test_image_boots_and_serves(configured: Person, web_image: tuple[Path, str], key: Path) -> None:
    """First boot and its log, hostname, nginx's page and a login with the injected key."""
    image = web_image[0]
    waiting = configured.run("pybuilder", "-q", "firstboot-log", image, "--format", "raw", check=False)
    assert waiting.stdout.count(": waiting for the first boot\n") == 2
    assert waiting.returncode == 1
    with booted(configured, image, "raw", (80, 22), kept=True) as machine:
        console = machine.wait_for("FIRSTBOOT-", 300)
        machine.wait_for("web login:", 300)
        assert "FIRSTBOOT-web.example.org-Europe/Berlin" in machine.console
        assert "GRUB" in console, "the boot loader also speaks on the serial console"
        assert fetch(f"http://127.0.0.1:{machine.ports[80]}/", 120) == PAGE
        options: list[str | Path] = [
            "-i",
            key,
            "-p",
            str(machine.ports[22]),
            "-o",
            "StrictHostKeyChecking=no",
        ]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=60"]
        asked = "hostname; df --output=size -B1 / | tail -1; systemctl is-system-running; ls /etc/ssh/*_key"
        asked += "; ip -4 -o address show scope global; cat /proc/net/route; resolvectl dns"
        end = time.monotonic() + 180
        while True:  # sshd makes its host keys first, which takes a while under emulation
            answer = configured.run("ssh", *options, "root@127.0.0.1", asked, timeout=180, check=False)
            if answer.returncode != 255 or time.monotonic() > end:
                break
            time.sleep(2)
        assert answer.returncode in {0, 1}, f"{answer.stderr}\n{machine.console[-3000:]}"
        lines = answer.stdout.split("\n")
        assert lines[0] == "web.example.org"
        assert int(lines[1]) > 3.5 * 1024**3
        assert lines[2] in {"running", "starting"}, answer.stdout
        assert "/etc/ssh/ssh_host_ed25519_key" in lines
        assert re.search(r" 10\.0\.2\.15/24 (?!.*dynamic)", answer.stdout), "not by DHCP"
        assert re.search(r"\t00000000\t0202000A\t", answer.stdout), "the gateway 10.0.2.2"
        assert "10.0.2.3" in answer.stdout, answer.stdout
        configured.run("ssh", *options, "root@127.0.0.1", "poweroff", timeout=180, check=False)
        machine.wait(300)
    printed = configured.run("pybuilder", "-q", "firstboot-log", image, "--format", "raw", check=False)
    states = re.findall(
        r"^5000-(\d{4})-\S+: exit status (\d+), from \S+Z to \S+Z$", printed.stdout, re.MULTILINE
    )
    assert states == [("0001", "3"), ("0002", "0")], printed.stdout
    assert re.search("^first$", printed.stdout, re.MULTILINE)
    assert printed.returncode == 1, "one script failed"


def test_nothing_is_left(configured: Person, web_image: tuple[Path, str]) -> None:
    assert web_image[0].exists()
    assert leftovers(configured, [configured.home]) == []


def test_second_build_uses_the_cache(configured: Person, web: WebServer) -> None:
    """Without network and appliance, qcow2, grown: nothing is downloaded but the index."""
    before = [line for line in web.requests if "/debian-12-" in line]
    image = configured.home / "second.qcow2"
    done = configured.run(
        "pybuilder", "debian-12", "-o", image, "--format", "qcow2", "--size", "3G", "--no-network",
        "--root-password", "disabled", "--write", "/root/second:x", env={"PYBUILDER_HOSTSIDE": "always"},
    )  # fmt: skip
    assert [line for line in web.requests if "/debian-12-" in line] == before
    assert "Downloading" not in done.stdout
    assert "random password" not in done.stdout
    assert subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", image], check=False).returncode == 0
    with look_into(image, "qcow2") as guest:
        assert guest.read("/root/second") == b"x"
        assert guest.filesystem_use()[0].total > 2.7 * 1024**3
    listed = configured.run("pybuilder", "--print-cache").stdout
    assert re.search(r"^debian-12 +x86_64 +cached$", listed, re.MULTILINE)


def test_fingerprint_and_plain_path(configured: Person, publisher: Publisher) -> None:
    """--source with a plain path, the key from the user's own keyring, as virt-builder does it."""
    configured.run("gpg", "--batch", "--quiet", "--import", publisher.public_key)
    for source in (str(publisher.index), f"file://{publisher.index}"):
        done = configured.run(
            "pybuilder",
            "--source",
            source,
            "--fingerprint",
            publisher.fingerprint,
            "--list",
            env={"XDG_CONFIG_HOME": "/nonexistent"},
        )
        assert done.stdout.startswith("debian-12 ")
    configured.run("gpgconf", "--kill", "all")
