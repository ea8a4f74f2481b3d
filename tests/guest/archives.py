"""Small archives of packages, and a web server for them that guests in the appliance can reach."""

from __future__ import annotations

import functools
import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def rpm_repository(folder: Path) -> Path:
    """Make a repository of one package, which says a word in /usr/share, and its update."""
    repository = folder / "repository"
    for version in ("1", "2"):
        spec = folder / f"word-{version}.spec"
        spec.write_text(
            f"Name: word\nVersion: {version}\nRelease: 1\nSummary: A word\nLicense: Public\n"
            "BuildArch: noarch\n%description\nA word.\n%install\nmkdir -p %{buildroot}/usr/share\n"
            f"echo {version} >%{{buildroot}}/usr/share/word\n%files\n/usr/share/word\n"
        )
        subprocess.run(
            ["rpmbuild", "-bb", "--quiet", f"--define=_topdir {folder}/build",
             f"--define=_rpmdir {repository}", spec],
            check=True, capture_output=True,
        )  # fmt: skip
    subprocess.run(["createrepo_c", "--quiet", repository], check=True)
    return repository


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
