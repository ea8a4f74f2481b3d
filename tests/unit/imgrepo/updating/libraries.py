"""A library with an image of each origin: real gpg and HTTP; guests, make-template and QEMU stand in."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from imgbuilder.errors import ToolError
from imgbuilder.events import Reporter
from imgrepo.cli.main import run
from imgrepo.services import Services
from imgrepo.template.make import TemplateRequest
from tests.fakes.bootcheck_stub import Stub
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import SIZE, Repository, image

CLOUD = "nova-12.qcow2"
EVERYTHING = """
steps = ["boot-check", "sbom", "catalogue"]
base-url = "{web}"
targets = ["localhost:{there}"]
"""
TABLES = """
[made.debian-12]
recipe = "debian-12"
include = ["vim"]
[imported.nova]
address = "{distribution}/{cloud}"
key = "distribution.gpg"
[built.web]
base = "debian-12"
recipe = "web.toml"
"""
RECIPE = """
[[operation]]
write = "/etc/motd"
content = "hello"
[[operation]]
upload = "page.html"
destination = "/etc/page.html"
"""


@dataclass
class Library:
    """The library, its distribution's server, and what was made."""

    repository: Repository
    stub: Stub
    keys: KeyMaker
    distribution_key: str
    cloud: Path
    there: Path
    server: str
    web: str
    made: list[str] = field(default_factory=list)
    log: Path | None = None
    fails: dict[str, str] = field(default_factory=dict)
    contents: bytes = b"1"
    packages: dict[str, str] = field(default_factory=lambda: {"dash": "1"})

    @property
    def folder(self) -> Path:
        return self.repository.images

    def settle(self, *, everything: bool = True) -> None:
        """Write library.toml; without ``everything``, images are only published."""
        head = f'webroot = "../web"\nkeys = ["{self.repository.key}"]\nexpire = 30\nxz-preset = "0"\n'
        head += EVERYTHING.format(web=self.web, there=self.there) if everything else "steps = []\n"
        tables = TABLES.format(distribution=self.server, cloud=CLOUD)
        (self.folder / "library.toml").write_text(head + tables)

    def edit(self, old: str, new: str) -> None:
        """Change library.toml."""
        path = self.folder / "library.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def tools(self, *without: str) -> Path:
        """Return a folder with the programs of this machine but for some."""
        folder = self.folder.parent / "tools"
        folder.mkdir()
        for place in ("/usr/bin", "/bin", "/usr/sbin"):
            for path in Path(place).iterdir():
                if path.name not in without and not (folder / path.name).exists():
                    (folder / path.name).symlink_to(path)
        return folder

    def offer(self, fill: int, size: int = SIZE) -> None:
        """Let the distribution offer a new image."""
        path = self.cloud / CLOUD
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
        fill_it: list[str | Path] = ["qemu-io", "-f", "qcow2", "-c", f"write -P {fill} 0 64k", path]
        subprocess.run(fill_it, check=True, stdout=subprocess.DEVNULL)
        sums = f"{hashlib.sha512(path.read_bytes()).hexdigest()}  {CLOUD}\n".encode()
        (self.cloud / "SHA512SUMS").write_bytes(sums)
        signature = self.keys.gpg("--local-user", f"{self.distribution_key}!", "--detach-sign", data=sums)
        (self.cloud / "SHA512SUMS.sign").write_bytes(signature)

    def make_template(self, request: TemplateRequest, _services: Services, _on_event: Reporter) -> None:
        """Stand in for make-template."""
        name = request.output.stem
        self.made.append(name)
        if self.log is not None:  # read by another process
            with self.log.open("a") as file:
                file.write(f"{name}\n")
        if name in self.fails:
            raise ToolError(self.fails[name])
        image(request.output, self.contents)
        request.output.with_suffix(".json").write_text(json.dumps({"packages": self.packages}))

    def update(self, *words: str) -> int:
        """Type the command."""
        return run(["update", str(self.folder), *words], self.repository.services())

    def state(self) -> dict[str, tuple[bytes, int]]:
        """Return all files of library, web root and target, with their times."""
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for folder in (self.folder, self.repository.web, self.there)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def wait(self, days: int) -> None:
        self.repository.later += timedelta(days=days)
