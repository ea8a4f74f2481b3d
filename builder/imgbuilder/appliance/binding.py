"""Finds the Python interpreter that can load libguestfs.

The binding is not on PyPI: each distribution builds it for its Python.
Only the worker process loads it, so pybuilder itself may run under any other
interpreter, such as that of a virtual environment.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from imgbuilder.errors import ApplianceError, ToolError
from imgbuilder.host import process
from imgbuilder.host.packages import install_hint

INTERPRETER_VARIABLE = "PYBUILDER_GUESTFS_PYTHON"
"""Environment variable that names the interpreter to use, before all others."""

_PROBE = "import guestfs; g = guestfs.GuestFS(); v = g.version(); print(guestfs.__file__); \
print('%d.%d.%d' % (v['major'], v['minor'], v['release']) if isinstance(v, dict) \
else '.'.join(str(n) for _, n in v[:3]))"


@dataclass(frozen=True)
class Binding:
    """A libguestfs binding that loads.

    Attributes:
        interpreter: The Python that loads it.
        module: The binding's file.
        version: libguestfs's version.
    """

    interpreter: Path
    module: Path
    version: str


def candidates() -> list[Path]:
    """Return the interpreters to try, best first."""
    chosen = os.environ.get(INTERPRETER_VARIABLE)
    if chosen:
        return [Path(chosen)]
    found = [Path(sys.executable)] if importlib.util.find_spec("guestfs") else []
    found.append(Path("/usr/bin/python3"))
    found.extend(
        sorted(p for p in Path("/usr/bin").glob("python3.*") if re.fullmatch(r"python3\.\d+", p.name))
    )
    found.append(Path("/usr/libexec/platform-python"))
    found.append(Path("/usr/local/bin/python3"))
    return list(dict.fromkeys(path for path in found if path.exists()))


def find_binding() -> Binding:
    """Return the first interpreter that can load libguestfs, by trying it.

    Raises:
        ApplianceError: None can; the hint names the package per distribution.
    """
    tried = candidates()
    for interpreter in tried:
        try:
            answer = process.run([interpreter, "-I", "-c", _PROBE], check=False, timeout=60)
        except ToolError:
            continue  # not an interpreter, or it hangs: try the next
        lines = answer.stdout.decode(errors="replace").split("\n")
        if answer.status == 0 and len(lines) >= 2:
            return Binding(interpreter, Path(lines[0]), lines[1])
    names = ", ".join(map(str, tried)) or "none found"
    raise ApplianceError(
        f"no Python interpreter with the libguestfs binding (tried: {names})", hint=install_hint("guestfs")
    )
