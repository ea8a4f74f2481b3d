"""Where our files live, by the XDG Base Directory rules.

An empty variable counts as unset and a relative one as invalid, as that
specification asks; virt-builder takes an empty ``XDG_CONFIG_HOME`` for the
working directory (``virt-builder.md`` SE-3). Nothing is created here.

Root never takes a user's folders for its own, as it would by ``sudo -E`` and
``su``: what it wrote there, the user could neither read nor write afterwards.
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
"""Configuration files of the sources that everybody has who does not switch them off."""

_OURS = "pybuilder"
_THEIRS = "virt-builder"
_NO_HOME = "/nonexistent"
"""The home of users that have none, as Debian has it: nothing is found there, and nothing written."""


def settle_home(environ: MutableMapping[str, str]) -> Iterator[str]:
    """Set ``HOME`` where it is not set, to what passwd says; for root, too, where it is a user's.

    Args:
        environ: The variables, ``os.environ``; changed. Programs that are started see the same.

    Yields:
        What people should know of it.
    """
    root = os.geteuid() == 0
    home = environ.get("HOME", "")
    foreign = root and os.path.isabs(home) and _is_a_users(home)  # noqa: PTH117
    if not os.path.isabs(home) or foreign:  # noqa: PTH117 - pathlib would be slower, for every list
        import pwd  # late: it is seldom needed

        try:
            environ["HOME"] = pwd.getpwuid(os.geteuid()).pw_dir or _NO_HOME
        except KeyError:  # a number without a name, as containers have it
            environ["HOME"] = _NO_HOME
    if foreign:
        yield f"HOME is {home}, which belongs to a user: root uses {environ['HOME']} instead"
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
        if root and os.path.isabs(environ.get(name, "")) and _is_a_users(environ[name]):  # noqa: PTH117
            yield f"{name} is {environ.pop(name)}, which belongs to a user: root does not use it"


def _is_a_users(folder: str) -> bool:
    """Tell whether a folder, or the nearest above it that is there, belongs to another user than root."""
    while True:
        try:
            return os.stat(folder).st_uid != 0  # noqa: PTH116 - as above
        except OSError:
            folder = os.path.dirname(folder)  # noqa: PTH120
            if folder in {"", "/"}:
                return False


def cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of downloaded and unpacked templates.

    Raises:
        UsageError: Neither ``XDG_CACHE_HOME`` nor ``HOME`` says where.
    """
    return _required("XDG_CACHE_HOME", ".cache", "--cache DIR", environ) / _OURS


def shared_caches(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of further caches, only to be read, that ``PYBUILDER_CACHE_PATH`` names."""
    return tuple(Path(part) for part in environ.get("PYBUILDER_CACHE_PATH", "").split(":") if part)


def cache_size(environ: Mapping[str, str] = os.environ) -> int | None:
    """Return the limit of the cache in bytes that ``PYBUILDER_CACHE_SIZE`` names; None without one.

    Raises:
        UsageError: It names no size.
    """
    text = environ.get("PYBUILDER_CACHE_SIZE", "")
    try:
        return parse_size(text) if text else None
    except UsageError as error:
        raise UsageError(f"PYBUILDER_CACHE_SIZE: {error.message}", hint=error.hint) from error


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of what must outlive the cache, such as the newest signature seen per source.

    Raises:
        UsageError: Neither ``XDG_STATE_HOME`` nor ``HOME`` says where.
    """
    return _required("XDG_STATE_HOME", ".local/state", "XDG_STATE_HOME", environ) / _OURS


def config_dirs(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the folders of source configuration files, the most important first.

    The user's own before the system's, and in each place ours before virt-builder's; at the end what comes
    with the package. A user without a home has no own. ``VIRT_BUILDER_DIRS`` stands for all but the user's.
    """
    places = _config_places(environ)
    folders = tuple(place / name / "repos.d" for place in places for name in (_OURS, _THEIRS))
    return folders if environ.get("VIRT_BUILDER_DIRS") else (*folders, STOCK_SOURCES)


def configuration_files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return where files with our settings may be, the most important first, in the places of the sources."""
    return tuple(place / _OURS / "pybuilder.toml" for place in _config_places(environ))


def _config_places(environ: Mapping[str, str]) -> list[Path]:
    user = _xdg("XDG_CONFIG_HOME", ".config", environ)
    system = (environ.get("VIRT_BUILDER_DIRS") or "/etc").split(":")
    return [*([] if user is None else [user]), *(Path(part) for part in system if part)]


def user_sources(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the user's own folder of source configuration files.

    Raises:
        UsageError: Neither ``XDG_CONFIG_HOME`` nor ``HOME`` says where.
    """
    return _required("XDG_CONFIG_HOME", ".config", "XDG_CONFIG_HOME", environ) / _OURS / "repos.d"


def can_be_written(folder: Path) -> bool:
    """Tell whether files can be made in a folder, which is made for that if it is missing."""
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
