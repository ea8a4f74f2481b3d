"""The configuration file ``pybuilder.toml``: defaults for what environment variables say.

Options come before variables, and variables before the file of the user, which
comes before those of the system (``docs/adr/0006``).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.host import paths
from imgindex.files import check_writers, open_file

_LARGEST = 64 * 1024
"""Most bytes that are read of a file."""


def apply_configuration(environ: MutableMapping[str, str]) -> None:
    """Give variables that are not set the values of the configuration files."""
    for path in paths.configuration_files(environ):
        for variable, value in _read(path).items():
            if not environ.get(variable):
                environ[variable] = value


def _read(path: Path) -> dict[str, str]:
    """Return the variables that a file sets; none when there is no file."""
    try:
        with open_file(path) as file:
            check_writers(path, os.fstat(file.fileno()))  # it names programs to start
            content = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise UsageError(f"{path} is larger than the limit of {_LARGEST} bytes")
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not a TOML file: {error}", hint="see FILES in pybuilder(1)") from error
    return dict(_variable(path, key, value) for key, value in table.items())


def _variable(path: Path, key: str, value: object) -> tuple[str, str]:
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
        raise UsageError(f"{path}: the key {key!r} is not known", hint=hint)
    variable, expected, convert = KEYS[key]
    text = convert(value)
    if text is None or "\0" in text:
        raise UsageError(f"{path}: {key} = {value!r} is not {expected}")
    return variable, text


def _size(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return f"{value}b" if isinstance(value, int) else value


def _paths(value: object) -> str | None:
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(item, str) and item for item in paths):
        return None
    return None if any(":" in item for item in paths) else ":".join(paths)


def _addresses(value: object) -> str | None:
    addresses = [value] if isinstance(value, str) else value
    if not isinstance(addresses, list) or not all(isinstance(item, str) and item for item in addresses):
        return None
    return None if any(item.split() != [item] for item in addresses) else " ".join(addresses)


def _when(value: object) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) and value in {"yes", "no", "auto"} else None


def _hostside(value: object) -> str | None:
    return value if isinstance(value, str) and value in {"auto", "never", "always"} else None


def _mebibytes(value: object) -> str | None:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _program(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


KEYS: Mapping[str, tuple[str, str, Callable[[object], str | None]]] = {
    "cache-size": ("PYBUILDER_CACHE_SIZE", 'a size such as "20G"', _size),
    "cache-path": ("PYBUILDER_CACHE_PATH", "a folder, or a list of them, without colons", _paths),
    "reuse": ("PYBUILDER_REUSE", "a file, or a list of them, without colons", _paths),
    "peers": ("PYBUILDER_PEERS", "an address, or a list of them", _addresses),
    "instant": ("PYBUILDER_INSTANT", 'true, false or "auto"', _when),
    "hostside": ("PYBUILDER_HOSTSIDE", '"auto", "never" or "always"', _hostside),
    "memsize": ("LIBGUESTFS_MEMSIZE", "a number of MiB", _mebibytes),
    "hypervisor": ("LIBGUESTFS_HV", "the name of a program", _program),
    "guestfs-python": ("PYBUILDER_GUESTFS_PYTHON", "the name of a program", _program),
}
"""For each key its variable, the values it takes, and a function that returns a value's text or None."""
