"""The commands that install packages of the distribution, by ``packages.txt``, and optional libraries."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

TABLE = Path(__file__).parents[1] / "packages.txt"
_KNOWN_BEST = "debian"
"""The column whose names are shown on a host of another distribution."""
_EXTRAS = {
    "fleet": "python3-distributed",
    "repo": "virt-pybuilder-repo",
    "s3": "python3-boto3",
    "socks": "python3-socks",
}
"""Debian packages with optional libraries, by the name of the extra in pyproject.toml."""


def install_command(*needs: str) -> str:
    """Return the command that installs what the table names; other names are taken for packages.

    It is empty when this distribution has none of it.
    """
    column = _distribution()
    table = _column(column or _KNOWN_BEST)
    packages = dict.fromkeys(word for need in needs for word in table.get(need, need).split() if word != "-")
    if not packages:
        return ""
    command = " ".join([table["command"], *packages])
    if column is None:
        return f"{command}  (on Debian; see {TABLE} for others)"
    return command if os.geteuid() == 0 else f"sudo {command}"


def install_hint(*needs: str) -> str:
    """Return the advice of an error about missing programs or libraries."""
    command = install_command(*needs)
    return f"run: {command}" if command else f"this distribution has no package of {' and '.join(needs)}"


def packages_elsewhere(need: str) -> str:
    """Return the package on each distribution, for a text that is read on another machine."""
    head, *rows = _rows()
    found = next(row for row in rows if row[0] == need)
    names: dict[str, list[str]] = {}
    for place in range(2, len(head)):
        names.setdefault(found[place], []).append(head[place])
    return ", ".join(f"{package} ({', '.join(places)})" for package, places in names.items())


def _distribution() -> str | None:
    """Return the column for this host, by ID and ID_LIKE of os-release(5); None when it has none."""
    try:
        facts = platform.freedesktop_os_release()
    except OSError:
        return None
    names = [facts.get("ID", ""), *facts.get("ID_LIKE", "").split()]
    return next((name for name in names if name in _rows()[0][2:]), None)


def _column(name: str) -> Mapping[str, str]:
    head, *rows = _rows()
    place = head.index(name)
    return {row[0]: row[place] for row in rows}


def _rows() -> list[list[str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return [re.split(r" *\| *", line) for line in lines if not line.startswith("#")]


def extra_command(extra: str) -> str:
    """Return the command that installs the libraries of an extra, in the way that installed this program."""
    if sys.prefix == "/usr":
        return f"sudo apt install {_EXTRAS[extra]}"
    wanted = shlex.quote(f"virt-pybuilder[{extra}]{_origin()}")
    # A tool's environment has no pip, and belongs to the tool.
    if Path(sys.prefix, "pipx_metadata.json").exists():
        return f"pipx install --force {wanted}"
    if Path(sys.prefix, "uv-receipt.toml").exists():
        return f"uv tool install --force {wanted}"
    return f"{shlex.quote(sys.executable)} -m pip install {wanted}"


def _origin() -> str:
    """Return where the program was installed from, unless that was an index of packages."""
    from importlib import metadata  # late: this module is loaded for each download

    try:
        # Written by all installers: https://packaging.python.org/specifications/direct-url/
        text = metadata.distribution("virt-pybuilder").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return ""
    record = json.loads(text or "{}")
    vcs = record.get("vcs_info", {}).get("vcs")
    url = record.get("url")
    return f" @ {vcs + '+' if vcs else ''}{url}" if url else ""
