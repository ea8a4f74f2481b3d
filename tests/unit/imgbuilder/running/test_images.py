"""The key of a run's image: the same for the same request, another one when something changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from imgbuilder.appliance import Attachment
from imgbuilder.building.request import BuildRequest, NetworkMode
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.registry import all_operations
from imgbuilder.disk.diskimage import OutputFormat
from imgbuilder.guests.unlocking import DiskKey
from imgbuilder.running.images import run_key
from tests.fakes.operations import parse_operation


def key(*operations: Operation, **fields: object) -> str:
    return run_key(replace(BuildRequest("tiny", "x86_64"), operations=operations, **fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"template": "other"},
        {"arch": "aarch64"},
        {"size": 1 << 30},
        {"network": NetworkMode.OFF},
        {"seed": "1"},
        {"keys": (DiskKey("all", "secret"),)},
        {"attachments": (Attachment(Path("/dev/null")),)},
    ],
    ids=str,
)
def test_another_request_has_another_key(fields: dict[str, object]) -> None:
    assert key() == key()
    assert key(**fields) != key()


def test_what_does_not_change_the_image_does_not_change_the_key(tmp_path: Path) -> None:
    assert key(output=tmp_path, format=OutputFormat.QCOW2, linked=True, sync=False) == key()
    cache = parse_operation("package-cache", str(tmp_path))
    before = key(cache)
    (tmp_path / "package.deb").touch()
    assert key(cache) == before


def test_the_order_and_the_text_of_operations_count() -> None:
    one, two = parse_operation("write", "/a:1"), parse_operation("write", "/a:2")
    assert len({key(one, two), key(two, one), key(one), key(two)}) == 4
    passwords = [parse_operation("root-password", f"password:{text}") for text in ("one", "two")]
    assert key(passwords[0]) != key(passwords[1]), "although neither is shown"


def _write(path: Path) -> None:
    path.write_text("more")


def _touch(path: Path) -> None:
    os.utime(path, (1, 1))


@pytest.mark.parametrize("change", [_write, _touch, Path.unlink])
@pytest.mark.parametrize("keyword", ["upload", "copy-in", "run"])
def test_a_changed_local_file_is_noticed(
    tmp_path: Path, keyword: str, change: Callable[[Path], None]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / "file"
    file.write_text("#!/bin/sh\n")
    text = {"upload": f"{file}:/etc", "copy-in": f"{folder}:/etc", "run": str(file)}[keyword]
    given = parse_operation(keyword, text)
    before = key(given)
    assert key(given) == before
    change(file)
    assert key(given) != before


def test_the_fields_of_all_operations_have_keys() -> None:
    known = {"str", "int", "bool", "Path", "PasswordSelector", "Crypto", "None", "bytes"}
    for keyword, spec in all_operations().items():
        for name, kind in spec.cls.__annotations__.items():
            words = set(str(kind).replace("tuple[", "").replace(", ...]", "").replace("]", "").split(" | "))
            words = {word for part in words for word in part.split(", ")}
            assert words <= known or name.isupper(), f"--{keyword}: {name} is {kind}"
