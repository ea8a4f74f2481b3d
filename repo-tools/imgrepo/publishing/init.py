"""Sets up a library: its folders, its ``library.toml``, and the files for users, web servers and timers.

Those files are the examples of the package, with the library's own names in them.
"""

from __future__ import annotations

import getpass
import importlib.resources
import json
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from imgbuilder.errors import UsageError
from imgbuilder.host.workspace import explaining
from imgrepo.publishing.settings import SETTINGS_NAME, parse_settings
from imgrepo.recordfile import write_text
from imgrepo.services import Services, Signing
from imgrepo.webroot.transaction import check_can_be_made

SETUP_FOLDER = "setup"
_TRIAL_URL = "http://localhost:8000/"
"""The address at which ``serve`` serves by default."""
_PATH = re.compile(r"[A-Za-z0-9._/+-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXAMPLES = (
    "nginx.conf", "apache.conf", "crontab", "pybuilder-refresh.service", "pybuilder-refresh.timer",
    "pybuilder-library.service", "pybuilder-library.timer", "pybuilder-status.service",
    "pybuilder-status.timer", "alerts.yml",
)  # fmt: skip


@dataclass(frozen=True)
class InitRequest:
    """A library to set up.

    Attributes:
        webroot: The folder to serve; None for ``web`` in the library.
        signing: The key that signs, and how long signatures are valid; with ``new_key`` the key is made.
        new_key: Name and mail address of the key to make; None to use an existing one.
        base_url: The address under which users will find the served folder; empty when it is not known yet.
    """

    folder: Path
    signing: Signing
    new_key: str | None = None
    webroot: Path | None = None
    base_url: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        if (self.folder / SETTINGS_NAME).exists():
            raise UsageError(f"{self.folder} has a {SETTINGS_NAME} already", hint="edit that file")
        check_can_be_made(self.folder)
        for folder in (self.folder, self.served):
            if not _PATH.fullmatch(str(folder.absolute())):
                raise UsageError(
                    f"{folder.absolute()} cannot stand in the files of web servers and timers",
                    hint="choose a path of letters, digits, '.', '_', '+' and '-'",
                )
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} cannot be the name of a source for users",
                hint="begin the folder's name with a letter or digit",
            )

    @property
    def served(self) -> Path:
        """The folder to serve."""
        return self.folder / "web" if self.webroot is None else self.webroot

    @property
    def name(self) -> str:
        """The name of the source in users' configuration."""
        return self.folder.absolute().name


@dataclass(frozen=True)
class Initialised:
    """The result: the fingerprint of the key, the files, and the address for users."""

    fingerprint: str
    written: tuple[Path, ...]
    url: str


def init(request: InitRequest, services: Services) -> Initialised:
    """Set up a library; ``library.toml`` comes last, so that a run that failed can be repeated."""
    keys = services.make_keys(request.signing)
    fingerprint = (
        keys.check_key(request.signing.key) if request.new_key is None else keys.make_key(request.new_key)
    )
    url = request.base_url or _TRIAL_URL
    setup = request.folder / SETUP_FOLDER
    for folder in (request.folder, request.served, setup):
        with explaining(folder):
            folder.mkdir(exist_ok=True)
    key_file = setup / f"{request.name}.gpg"
    texts = {
        key_file: keys.export_public_key(fingerprint).decode("ascii"),
        setup / f"{request.name}.conf": _source(request.name, url),
        **{setup / name: _filled_in(name, request, fingerprint, url) for name in _EXAMPLES},
        request.folder / SETTINGS_NAME: _settings(request, fingerprint),
    }
    for path, text in texts.items():
        write_text(path, text)
    return Initialised(fingerprint, tuple(texts), url)


def _source(name: str, url: str) -> str:
    return (
        f"# For users: put this file into ~/.config/pybuilder/repos.d, or for virt-builder into\n"
        f"# /etc/virt-builder/repos.d, and {name}.gpg where gpgkey= says. With pybuilder, type:\n"
        f"#     pybuilder source add {name} {url}index.asc --gpgkey {name}.gpg\n"
        f"[{name}]\nuri={url}index.asc\ngpgkey=file:///etc/pybuilder/{name}.gpg\n"
    )


def _filled_in(name: str, request: InitRequest, fingerprint: str, url: str) -> str:
    text = importlib.resources.files("imgrepo").joinpath("setup", name).read_text()
    own = {
        "/srv/www/images": str(request.served.absolute()),
        "/srv/library": str(request.folder.absolute()),
        "images@example.org": fingerprint,
        "images.example.org": urlsplit(url).hostname or "",
        "User=publisher": f"User={getpass.getuser()}",
    }
    return re.sub("|".join(map(re.escape, own)), lambda match: own[match[0]], text)


def _settings(request: InitRequest, fingerprint: str) -> str:
    served = request.served.absolute()
    library = request.folder.absolute()
    webroot = served.relative_to(library) if served.is_relative_to(library) else served
    values = {
        "webroot": str(webroot),
        "keys": [fingerprint],
        "title": request.title,
        "base-url": request.base_url,
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    if request.signing.valid_for is not None:
        lines.append(f"expire = {request.signing.valid_for.days}")
    text = "\n".join(["# See LIBRARY SETTINGS in pybuilder-repo(1).", *lines, ""])
    parse_settings(text, where=SETTINGS_NAME)
    return text
