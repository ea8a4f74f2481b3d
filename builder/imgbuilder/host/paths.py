"""Folders for configuration, cache and state, by the XDG Base Directory rules. Nothing is created here.

An empty variable counts as unset and a relative one as invalid, as that specification asks; virt-builder uses
the working directory for an empty ``XDG_CONFIG_HOME`` (docs/compatibility.md).

Root never uses a user's folders, as it would after ``sudo -E`` and ``su``: the user could neither read nor
write root's files there afterwards.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from imgbuilder.errors import UsageError
from imgbuilder.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

STOCK_SOURCES = Path(__file__).parents[1] / "stock"
"""Configuration files of the sources that come with the package."""

_OURS = "pybuilder"
_THEIRS = "virt-builder"
_NO_HOME = "/nonexistent"
"""The home of users that have none, as in Debian: nothing is read or written there."""


def settle_home(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Set ``HOME`` by passwd if it is not set or, for root, is a user's; yield warnings for the user."""
    root = os.geteuid() == 0
    home = environ.get("HOME", "")
    foreign = root and os.path.isabs(home) and _is_a_users(home)
    if not os.path.isabs(home) or foreign:
        import pwd  # late: rarely needed

        try:
            environ["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir or _NO_HOME
        except KeyError:  # a number without a name, as in containers
            environ["HOME"] = _NO_HOME
    if foreign:
        yield f"HOME is {home}, which belongs to a user: root uses {environ['HOME']} instead"
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        if root and os.path.isabs(environ.get(name, "")) and _is_a_users(environ[name]):
            yield f"{name} is {environ.pop(name)}, which belongs to a user: root does not use it"


def _is_a_users(folder: str) -> bool:
    """Tell whether a folder, or the nearest existing one above it, belongs to a user other than root."""
    while True:
        try:
            return os.stat(folder).st_uid != 0
        except OSError:
            folder = os.path.dirname(folder)
            if folder in {"", "/"}:
                return False


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of downloaded and unpacked templates."""
    return _required("XDG_CACHE_HOME", ".cache", "--cache DIR", environ) / _OURS


def shared_caches(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of further, read-only caches in ``PYBUILDER_CACHE_PATH``."""
    return tuple(Path(part) for part in environ.get("PYBUILDER_CACHE_PATH", "").split(":") if part)


def reused_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the files in ``PYBUILDER_REUSE``, whose blocks may be those of a template."""
    return tuple(Path(part) for part in environ.get("PYBUILDER_REUSE", "").split(":") if part)


def peers(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the addresses in ``PYBUILDER_PEERS`` of neighbours that lend files of their caches."""
    return tuple(environ.get("PYBUILDER_PEERS", "").split())


def cache_size(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the limit of the cache in bytes in ``PYBUILDER_CACHE_SIZE``; None without one."""
    text = environ.get("PYBUILDER_CACHE_SIZE", "")
    try:
        return parse_size(text) if text else None
    except UsageError as error:
        raise UsageError(f"PYBUILDER_CACHE_SIZE: {error.message}", hint=error.hint) from error


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of data that must outlive the cache, such as the newest signature of each source."""
    return _required("XDG_STATE_HOME", ".local/state", "XDG_STATE_HOME", environ) / _OURS


def config_dirs(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of source configuration files, the most important first.

    The user's folders come before the system's, and in each place ours before virt-builder's; the package's
    folder is last. ``VIRT_BUILDER_DIRS`` replaces all but the user's.
    """
    places = _config_places(environ)
    folders = tuple(place / name / "repos.d" for place in places for name in (_OURS, _THEIRS))
    return folders if environ.get("VIRT_BUILDER_DIRS") else (*folders, STOCK_SOURCES)


def configuration_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the possible paths of our configuration file, the most important first."""
    return tuple(place / _OURS / "pybuilder.toml" for place in _config_places(environ))


def _config_places(environ: Mapping[str, str]) -> list[Path]:
    user = _xdg("XDG_CONFIG_HOME", ".config", environ)
    system = (environ.get("VIRT_BUILDER_DIRS") or "/etc").split(":")
    return [*([] if user is None else [user]), *(Path(part) for part in system if part)]


def user_sources(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's folder of source configuration files."""
    return _required("XDG_CONFIG_HOME", ".config", "XDG_CONFIG_HOME", environ) / _OURS / "repos.d"


def can_be_written(folder: Path) -> bool:
    """Tell whether files can be made in a folder, or the folder itself if it is missing."""
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def temporary_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for large temporary files: ``TMPDIR``, else ``/var/tmp`` (``/tmp`` may be memory)."""
    return Path(environ.get("TMPDIR") or "/var/tmp").absolute()  # noqa: S108 - files in it are made by tempfile


def _xdg(variable: str, below_home: str, environ: Mapping[str, str]) -> Path | None:
    base = Path(environ.get(variable, ""))
    if base.is_absolute():
        return base
    home = Path(environ.get("HOME", ""))
    return home / below_home if home.is_absolute() else None


def _required(variable: str, below_home: str, instead: str, environ: Mapping[str, str]) -> Path:
    found = _xdg(variable, below_home, environ)
    if found is None:
        raise UsageError(
            f"neither {variable} nor HOME names an absolute folder",
            hint=f"set HOME, or give {instead}",
        )
    return found
