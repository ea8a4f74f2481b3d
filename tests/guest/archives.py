"""Small archives of packages, and a web server for them that guests in the appliance can reach."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.keys import KeyMaker
from tests.guest.machine import HOST


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder by HTTP; yield its address as the appliance sees it."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_port}"
        server.shutdown()


_WORDS = (("word", "1"), ("word", "2"), ("other", "1"), ("forged", "1"))
"""Packages with their version in a file in /usr/share; the last one is never signed."""


def rpm_repository(folder: Path, keys: KeyMaker | None = None) -> Path:
    """Make a repository of rpm packages; with keys, the index and the packages are signed."""
    repository = folder / "repository"
    for name, version in _WORDS:
        spec = folder / f"{name}-{version}.spec"
        spec.write_text(
            f"Name: {name}\nVersion: {version}\nRelease: 1\nSummary: A word\nLicense: Public\n"
            "BuildArch: noarch\n%description\nA word.\n%install\nmkdir -p %{buildroot}/usr/share\n"
            f"echo {version} >%{{buildroot}}/usr/share/{name}\n%files\n/usr/share/{name}\n"
        )
        subprocess.run(
            ["rpmbuild", "-bb", "--quiet", f"--define=_topdir {folder}/build",
             f"--define=_rpmdir {repository}", spec],
            check=True, capture_output=True,
        )  # fmt: skip
    if keys is not None:
        defines = {"__gpg": shutil.which("gpg"), "_gpg_name": keys.publisher, "_gpg_path": keys.home}
        signed = [path for path in repository.rglob("*.rpm") if not path.name.startswith("forged")]
        subprocess.run(
            ["rpmsign", "--addsign", *(f"--define={name} {text}" for name, text in defines.items()), *signed],
            check=True, capture_output=True,
        )  # fmt: skip
    subprocess.run(["createrepo_c", "--quiet", repository], check=True)
    if keys is not None:
        index = repository / "repodata/repomd.xml"
        Path(f"{index}.asc").write_bytes(_signature(keys, index, "--armor"))
        Path(f"{index}.key").write_bytes(keys.export(keys.publisher, armor=True))
    return repository


def pacman_repository(folder: Path, keys: KeyMaker) -> Path:
    """Make a signed repository of the same for pacman; its folder ``next`` has what comes later."""
    repository = folder / "words"
    for name, version in _WORDS:
        place = repository / "next" if name == "forged" or version == "2" else repository
        place.mkdir(parents=True, exist_ok=True)
        tree = folder / f"{name}-{version}"
        (tree / "usr/share").mkdir(parents=True)
        (tree / "usr/share" / name).write_text(f"{version}\n")
        (tree / ".PKGINFO").write_text(
            f"pkgname = {name}\npkgbase = {name}\npkgver = {version}-1\narch = any\nsize = 10\n"
            "builddate = 1700000000\nlicense = PD\n"
        )
        package = place / f"{name}-{version}-1-any.pkg.tar.gz"
        subprocess.run(["bsdtar", "-czf", package, "-C", tree, ".PKGINFO", "usr"], check=True)
        subprocess.run(
            ["repo-add", "-q", place / "words.db.tar.gz", package], check=True, capture_output=True
        )
        if name != "forged":
            Path(f"{package}.sig").write_bytes(_signature(keys, package))
    for index in repository.rglob("words.db"):
        signature = Path(f"{index}.sig")
        signature.write_bytes(_signature(keys, index))
        for file in (index, signature):  # pacman asks for newer ones
            later = time.time() + (3600 if index.parent.name == "next" else 0)
            os.utime(file, (later, later))
    return repository


def _signature(keys: KeyMaker, file: Path, *options: str) -> bytes:
    return keys.gpg("--local-user", keys.publisher, *options, "--detach-sign", data=file.read_bytes())


def deb_repository(folder: Path) -> Path:
    """Make an archive of a daemon with configuration, and of a kernel whose update is a new package."""
    repository = folder / "debs"
    repository.mkdir()
    index = []
    for name, version, depends in (
        ("mydaemon", "1", ""), ("mydaemon", "2", ""), ("word", "1", ""),
        ("kern-1", "1", ""), ("kern-2", "2", ""), ("kern", "1", "kern-1"), ("kern", "2", "kern-2"),
    ):  # fmt: skip
        tree = folder / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\n"
        control += f"Description: test\n{f'Depends: {depends}' + chr(10) if depends else ''}"
        (tree / "DEBIAN/control").write_text(control)
        if name == "mydaemon":
            (tree / "etc").mkdir()
            for file in ("mydaemon.conf", "untouched.conf"):
                (tree / "etc" / file).write_text(f"shipped {version}\n")
            (tree / "DEBIAN/conffiles").write_text("/etc/mydaemon.conf\n/etc/untouched.conf\n")
        if name == "word":
            (tree / "usr/share").mkdir(parents=True)
            (tree / "usr/share/word").write_text("word\n")
        deb = repository / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "-b", "--root-owner-group", tree, deb], check=True, capture_output=True)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        index.append(f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n\n")
    (repository / "Packages").write_text("".join(index))
    return repository
