"""The place of a host's image: a file, a block device, or a place on another machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.errors import UsageError
from imgbuilder.fleet.entries import DOMAIN, Problems, Value
from imgbuilder.host.paths import temporary_dir
from imgbuilder.outputs.store import Domain, Remote, check_server, read_remote
from imgbuilder.sizes import whole_number

_MOST = 1 << 24


@dataclass(frozen=True)
class OutputReader:
    """Reads the place of a host's image.

    Attributes:
        host: The host's name.
        folder: The folder of the fleet's file.
        settings: The settings of the host's recipe.
        given: The keys of the host.
        problems: Where mistakes in keys about a place go.
    """

    host: str
    folder: Path
    settings: Mapping[str, Any]
    given: Mapping[str, Value]
    problems: Problems

    def read(self) -> tuple[Path, Remote | None]:
        """Return the file or device of the image, and its place if that is on another machine.

        An image that goes to another machine is a temporary file first.

        Raises:
            UsageError: It is not a place, or the image cannot go there.
        """
        kind = self.settings.get("format", "qcow2" if self.settings.get("linked") else "raw")
        default = f"{self.host}.{'img' if kind == 'raw' else kind}"
        text = self.given["output"].text if "output" in self.given else default
        if "{" in text or not text.strip():
            raise UsageError(f"{text!r} is not a file", hint="the marks are {host} and, in ranges, {n}")
        remote = read_remote(text, default, self._text("server"), self._domain())
        self._check_keys(remote)
        if remote is not None:
            if self.settings.get("linked"):
                raise UsageError("a linked image is of use only where its template is", hint="linked = false")
            if remote.kind == "libvirt" and OutputFormat(kind).working is None:
                raise UsageError(f"libvirt's pools take no {kind} images", hint='format = "qcow2"')
            return temporary_dir() / default, remote
        if not text.startswith("block:"):
            return Path(os.path.normpath(self.folder / text)), None
        device = Path(text.removeprefix("block:"))
        if not (device.is_absolute() and device.is_block_device()):
            raise UsageError(f"{device} is not a block device", hint="see which there are with: lsblk")
        return device, None

    def _text(self, key: str) -> str:
        return self.given[key].text if key in self.given else ""

    def _domain(self) -> Domain | None:
        """Return the machine that libvirt is to run; its MAC address is added later."""
        wanted = self._text("domain")
        if not wanted:
            return None
        with self.problems.collect(self.given["domain"].place):
            if wanted not in ("define", "start"):
                raise UsageError(f"{wanted!r} is neither define nor start")
        network = self._text("net") or DOMAIN["net"][1]
        return Domain(self.host, self._number("memory"), self._number("cpus"), network, "", wanted == "start")

    def _number(self, key: str) -> int:
        number = whole_number(self._text(key) or DOMAIN[key][1], _MOST)
        if not number:
            self.problems.add(self.given[key].place, "a positive whole number is expected here")
        return number or 1

    def _check_keys(self, remote: Remote | None) -> None:
        """Find keys that this place does not have."""
        for key in ("server", *DOMAIN):
            kinds = ("libvirt", "s3") if key == "server" else ("libvirt",)
            if key in self.given and (remote is None or remote.kind not in kinds):
                places = " or ".join(f"{kind}:..." for kind in kinds)
                self.problems.add(self.given[key].place, f"{key} is for an output of {places}")
            elif key in ("memory", "cpus", "net") and key in self.given and "domain" not in self.given:
                self.problems.add(self.given[key].place, f"{key} needs domain", 'domain = "define"')
        if remote is not None and remote.server:
            with self.problems.collect(self.given["server"].place):
                check_server(remote.kind, remote.server)


def output_key(output: Path, remote: Remote | None) -> str:
    """Return the same text for outputs that are the same; a device may have several names."""
    if remote is not None:
        return f"{remote}{' at ' if remote.server else ''}{remote.server}"
    return str(output.resolve() if output.is_block_device() else output)
