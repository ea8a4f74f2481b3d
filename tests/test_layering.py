"""Imports between rooms, and the one module that may import each foreign package."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = (ROOT / "index", ROOT / "builder", ROOT / "repo-tools")

ONLY_IN = {
    "guestfs": {"imgbuilder/appliance/worker.py"},
    # Calls into C; in these, only confined processes read an image with it.
    "ctypes": {
        "imgbuilder/appliance/hostside/confine.py",
        "imgbuilder/appliance/hostside/ext2.py",
        "imgbuilder/appliance/hostside/libext2fs.py",
        "imgbuilder/appliance/hostside/programs.py",
        "imgbuilder/customize/passwords.py",
        "imgbuilder/host/sparse.py",
        "imgrepo/catalogue/make.py",
    },
    "requests": {"imgbuilder/fetch/session.py"},
    "urllib3": {"imgbuilder/fetch/session.py"},
    "gnupg": {"imgindex/signer.py"},
    "subprocess": {"imgbuilder/host/process.py", "imgindex/gpg.py"},
    "tqdm": {"imgbuilder/terminal/reporter.py"},
    "passlib": {"imgbuilder/customize/passwords.py"},
    "boto3": {"imgbuilder/outputs/s3.py"},
    "botocore": {"imgbuilder/outputs/s3.py"},
    "jinja2": {"imgrepo/catalogue/render.py"},
    "markupsafe": {"imgrepo/catalogue/render.py"},
    "distributed": {"imgbuilder/fleet/cluster.py"},
    "filelock": {"imgbuilder/host/locks.py"},
    "debian": {"imgrepo/contents/debcontrol.py"},
    "cyclonedx": {"imgrepo/contents/documents.py"},
    "packageurl": {"imgrepo/contents/documents.py"},
    "license_expression": {"imgrepo/contents/licences.py", "imgrepo/library/description.py"},
    "PIL": {"imgrepo/bootcheck/hypervisor.py", "imgrepo/images/pictures.py"},
    "regex": {"imgrepo/bootcheck/console.py"},
    "tomli_w": {"imgbuilder/recipe/writer.py"},
    # Reads what strangers may have written. Never in imgbuilder: lists must start fast.
    "pydantic": {
        "imgrepo/library/description.py",
        "imgrepo/publishing/settings.py",
        "imgrepo/recordfile.py",
    },
    "tomllib": {
        "imgbuilder/catalog/known.py",
        "imgrepo/library/description.py",
        "imgrepo/publishing/settings.py",
        "imgbuilder/terminal/configuration.py",
        "imgbuilder/recipe/document.py",
    },
}
"""Foreign module -> the files that may import it (for typing alone, any may)."""

PUBLISHER_MAY_USE = {
    "api", "appliance", "building.target", "cache.partial", "cache.supply", "cache.unpack", "cli.entry",
    "cli.getopt", "cli.program", "customize", "disk",
    "errors", "events", "fetch", "guests", "host", "machine", "outputs", "recipe.document", "sizes",
    "terminal",
}  # fmt: skip
"""Rooms of imgbuilder that imgrepo may import: lower rooms, modules that move bytes (ADR 0032), and the
interface for programs."""


def modules() -> list[tuple[str, Path]]:
    return [(str(path.relative_to(root)), path) for root in PACKAGES for path in sorted(root.rglob("*.py"))]


def imported(path: Path, *, typing_too: bool) -> set[str]:
    """Return the dotted names that a file imports."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_foreign_things_have_one_door() -> None:
    for name, path in modules():
        tops = {module.split(".")[0] for module in imported(path, typing_too=False)}
        for foreign, allowed in ONLY_IN.items():
            assert foreign not in tops or name in allowed, f"{name} must not import {foreign}"
        assert "click" not in tops or "/cli/" in name, f"{name} must not import click"


def test_publisher_uses_lower_modules_only() -> None:
    used = set()
    for name, path in modules():
        if name.startswith("imgrepo/"):
            for module in imported(path, typing_too=True):
                parts = module.split(".")
                if parts[0] == "imgbuilder" and len(parts) > 1:
                    used.add(
                        ".".join(parts[1:3])
                        if parts[1] in {"building", "cache", "cli", "recipe"}
                        else parts[1]
                    )
    assert used <= PUBLISHER_MAY_USE | {""}, f"not for the publisher: {used - PUBLISHER_MAY_USE}"


def test_nothing_below_the_command_line_prints_or_exits() -> None:
    for name, path in modules():
        if "/cli/" in name or name.endswith(
            (
                "__main__.py",
                "appliance/worker.py",
                "instant/program.py",
                "hostside/confine.py",
                "fleet/delivery.py",
            )
        ):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "sys.exit", "exit", "input"}, (
                    f"{name}:{node.lineno} calls {called}"
                )


def test_the_worker_stands_alone() -> None:
    """It runs under the distribution's interpreter, which sees neither our packages nor our dependencies."""
    path = ROOT / "builder/imgbuilder/appliance/worker.py"
    tops = {module.split(".")[0] for module in imported(path, typing_too=True)}
    assert tops <= {
        "__future__",
        "errno",
        "guestfs",
        "io",
        "json",
        "os",
        "resource",
        "socket",
        "struct",
        "sys",
        "typing",
    }


def test_the_confined_processes_load_only_the_standard_library() -> None:
    """They run without the program's packages, and load as little as possible before they are confined."""
    path = ROOT / "builder/imgbuilder/appliance/hostside/confine.py"
    tops = {module.split(".")[0] for module in imported(path, typing_too=True)}
    assert tops <= sys.stdlib_module_names
