"""What becomes of local files on their way into the guest; ``tests/guest`` has the rest."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

from imgbuilder.appliance.guestfiles import GuestFiles
from imgbuilder.errors import GuestCallError


class Recorder:
    """Takes the calls of an empty guest, and looks at local files as the worker would."""

    def __init__(self) -> None:
        self.archives: list[tuple[Path, list[str]]] = []
        self.uploads: list[tuple[str, bytes]] = []

    def call(self, method: str, *words: Any, **_options: Any) -> Any:
        match method:
            case "realpath":
                return words[0]
            case "statns":
                raise GuestCallError("no such file", errno_name="ENOENT")
            case "ls":
                return []
            case "tar_in":
                with tarfile.open(words[0]) as archive:
                    self.archives.append((Path(words[0]), archive.getnames()))
            case "upload":
                words[0].encode()  # the binding takes nothing else
                self.uploads.append((words[0], Path(words[0]).read_bytes()))
        return None


def test_trees_are_packed_in_the_folder_with_room(tmp_path: Path) -> None:
    scratch, tree = tmp_path / "scratch", tmp_path / "tree"
    scratch.mkdir()
    tree.mkdir()
    (tree / "file").write_text("x")
    recorder = Recorder()
    GuestFiles(recorder, scratch).copy_in(tree, "/srv")  # type: ignore[arg-type]  # all that it uses
    ((archive, names),) = recorder.archives
    assert archive.parent == scratch
    assert names == ["tree", "tree/file"]
    assert list(scratch.iterdir()) == []


def test_a_local_name_that_is_no_utf8(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    local = tmp_path / os.fsdecode(b"caf\xe9")
    local.write_bytes(b"x")
    recorder = Recorder()
    GuestFiles(recorder, scratch).upload(local, "/x")  # type: ignore[arg-type]
    ((_name, content),) = recorder.uploads
    assert content == b"x"
