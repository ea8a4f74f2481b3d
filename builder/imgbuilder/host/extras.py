"""Optional libraries: the command that installs them, in the way in which this program was installed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

_DEBIAN = {"repo": "virt-pybuilder-repo", "s3": "python3-boto3", "socks": "python3-socks"}
"""Debian packages, by the name of the extra in pyproject.toml."""


def install_command(extra: str) -> str:
    """Return the command that installs the libraries of an extra."""
    if sys.prefix == "/usr":
        return f"sudo apt install {_DEBIAN[extra]}"
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
