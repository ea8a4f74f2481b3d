"""``entry new`` and ``entry run-script``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.errors import DiskError, PybuilderError, UsageError, WorkspaceError
from imgbuilder.events import ignore
from imgbuilder.host.sparse import disk_usage
from imgrepo.cli.main import run
from imgrepo.library import new, records
from imgrepo.library.description import (
    BootTable,
    Description,
    MachineTable,
    licence_problem,
    parse_description,
)
from imgrepo.library.folder import EntryFolder, find_entries
from imgrepo.library.new import NewEntry, make_entry, skeleton
from imgrepo.library.running import write_run_script
from tests.fakes.machine import READER, WRITER, locked
from tests.unit.imgrepo.repository import Repository

SIZE = 8 << 20


def raw(path: Path, data: bytes = b"x") -> Path:
    with path.open("wb") as file:
        file.truncate(SIZE)
        file.write(data * 4096)
    return path


class TestSkeleton:
    def test_it_says_nothing_yet_and_has_every_key(self) -> None:
        text = skeleton("demo")
        read = parse_description(text, where="x")
        assert read.size_budget == 100 << 20
        assert read.model_copy(update={"size_budget": None}) == Description()
        for table in (Description, MachineTable, BootTable):
            for name in table.model_fields:
                assert re.search(rf"(?m)^(# )?{name.replace('_', '-')} = |^\[{name}\]", text), name

    def test_commented_lines_are_valid(self) -> None:
        text = re.sub(r"(?m)^# (?=[a-z-]+ = )", "", skeleton("demo"))
        read = parse_description(text, where="x")
        assert read.not_before == datetime(2026, 12, 1, tzinfo=UTC)
        assert read.machine.firmware is not None

    @given(st.text(max_size=80))
    def test_any_title_is_kept_or_refused(self, title: str) -> None:
        with contextlib.suppress(PybuilderError):
            made = skeleton("a", title=title)
            assert parse_description(made, where="x").title == title.strip()

    @pytest.mark.parametrize("title", ['a "b" \\ c', "@LICENCE@ @NAME@", "ü — 你好 🎄", "#x"])
    def test_titles(self, title: str) -> None:
        assert parse_description(skeleton("a", title=title), where="x").title == title

    def test_control_characters_in_a_title(self) -> None:
        with pytest.raises(PybuilderError, match="control characters"):
            skeleton("a", title="a\x1b[1m")


class TestLicence:
    @pytest.mark.parametrize("text", [
        "MIT", "GPL-2.0-or-later AND MIT", "(MIT OR Apache-2.0) AND LicenseRef-own",
        "GPL-2.0-only WITH Classpath-exception-2.0",
    ])  # fmt: skip
    def test_expressions(self, text: str) -> None:
        assert licence_problem(text) is None

    @pytest.mark.parametrize(
        "text", ["", "GPL", "MIT AND", "(", "MIT MIT", "mit", "free as in beer", "x" * 300]
    )
    def test_others(self, text: str) -> None:
        assert licence_problem(text)

    @settings(deadline=None)  # the first call reads a list
    @given(st.text(alphabet="ANDORWITH()MITGPL-2.0+ :\ud800\x00", max_size=40) | st.text(max_size=20))
    def test_any_text_is_judged(self, text: str) -> None:
        assert licence_problem(text) is None or licence_problem(text)


class TestNew:
    def test_a_folder_with_a_copy_of_the_image(self, tmp_path: Path) -> None:
        source = raw(tmp_path / "somewhere.raw")
        library = tmp_path / "library"
        library.mkdir()
        folder = make_entry(NewEntry(library, "demo", source, title="A demo", licence="MIT"), ignore)
        assert folder == EntryFolder(library / "demo")
        assert find_entries(library) == (folder,)
        assert folder.read().licence == "MIT"
        image = folder.image()
        assert image.name == "demo.raw"
        assert image.path.read_bytes() == source.read_bytes()
        assert disk_usage(image.path) < SIZE // 2
        assert [path.name for path in library.iterdir()] == ["demo"]
        assert all(place.is_dir() for place in (folder.boot, folder.contents, folder.sources))

    def test_moving_it(self, tmp_path: Path) -> None:
        source = raw(tmp_path / "a.img")
        inode = source.stat().st_ino
        folder = make_entry(NewEntry(tmp_path, "demo", source, move=True), ignore)
        assert not source.exists()
        assert folder.image().path.stat().st_ino == inode

    @pytest.mark.parametrize(("move", "places"), [(False, WRITER), (True, WRITER), (True, READER)])
    def test_the_disk_of_a_running_machine_stays(
        self, tmp_path: Path, move: bool, places: tuple[int, ...]
    ) -> None:
        source = raw(tmp_path / "a.img")
        with locked(source, places), pytest.raises(DiskError, match="used by another program"):
            make_entry(NewEntry(tmp_path, "demo", source, move=move), ignore)
        assert [path.name for path in tmp_path.iterdir()] == ["a.img"]

    def test_moving_it_to_another_filesystem(self, tmp_path: Path) -> None:
        other = Path("/dev/shm")
        if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is no second filesystem")
        source = raw(other / f"pybuilder-test-{os.getpid()}.img")
        try:
            content = source.read_bytes()
            folder = make_entry(NewEntry(tmp_path, "demo", source, move=True), ignore)
            assert not source.exists()
        finally:
            source.unlink(missing_ok=True)
        assert folder.image().path.read_bytes() == content

    @pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "-x", "a b", "x" * 81])
    def test_names_that_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match="cannot be the name"):
            make_entry(NewEntry(tmp_path, name), ignore)
        assert not list(tmp_path.iterdir())

    def test_existing_files_are_kept(self, tmp_path: Path) -> None:
        make_entry(NewEntry(tmp_path, "demo", title="mine"), ignore)
        (tmp_path / "link").symlink_to("nowhere")
        (tmp_path / "empty").mkdir()
        for name in ("demo", "link", "empty"):
            with pytest.raises(UsageError, match="exists already"):
                make_entry(NewEntry(tmp_path, name, title="other"), ignore)
        assert EntryFolder(tmp_path / "demo").read().title == "mine"
        assert not list((tmp_path / "empty").iterdir())

    def test_wrong_inputs_make_nothing(self, tmp_path: Path) -> None:
        wrong = raw(tmp_path / "wrong.img")
        wrong.write_bytes(b"QFI\xfb" + bytes(508))
        odd = tmp_path / "odd.img"
        odd.write_bytes(bytes(700))
        (tmp_path / "folder.img").mkdir()
        cases: list[tuple[NewEntry, type[PybuilderError]]] = [
            (NewEntry(tmp_path, "demo", wrong), DiskError),
            (NewEntry(tmp_path, "demo", wrong, move=True), DiskError),
            (NewEntry(tmp_path, "demo", odd), DiskError),
            (NewEntry(tmp_path, "demo", tmp_path / "no.img"), UsageError),
            (NewEntry(tmp_path, "demo", tmp_path / "x.iso"), UsageError),
            (NewEntry(tmp_path, "demo", tmp_path / "folder.img"), UsageError),
            (NewEntry(tmp_path, "demo", move=True), UsageError),
            (NewEntry(tmp_path, "demo", licence="GPL"), UsageError),
            (NewEntry(tmp_path / "no", "demo"), UsageError),
        ]
        before = sorted(tmp_path.iterdir())
        for request, kind in cases:
            with pytest.raises(kind):
                make_entry(request, ignore)
        assert sorted(tmp_path.iterdir()) == before

    def test_a_failed_copy_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source = raw(tmp_path / "a.img")

        def full(*_arguments: object, **_more: object) -> None:
            raise WorkspaceError("no space left")

        monkeypatch.setattr(new, "copy_sparse", full)
        with pytest.raises(WorkspaceError, match="no space left"):
            make_entry(NewEntry(tmp_path, "demo", source), ignore)
        assert list(tmp_path.iterdir()) == [source]


class TestCommands:
    def test_new_and_run_script(
        self, repository: Repository, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(repository.images)
        source = raw(repository.base / "in.img")
        services = repository.services()
        assert run(["entry", "new", "demo", "--image", str(source), "--title", "A demo"], services) == 0
        assert run(["entry", "new", "demo"], services) == 2
        assert "exists already" in capsys.readouterr().err
        folder = EntryFolder(Path("demo"))
        mark = records.ImageMark.of(folder.image(), ignore)
        boot = records.BootRecord(
            mark, records.Verdict.BOOTED, "", "7.2.11", "tcg", datetime(2026, 1, 1, tzinfo=UTC), 1.0
        )
        records.BOOT_FILE.write(folder.boot, boot)
        assert run(["entry", "run-script", "demo"], services) == 0
        script = folder.run_script
        assert script.stat().st_mode & stat.S_IXUSR
        assert "tested=7.2.11" in script.read_text()
        raw(folder.image().path, b"other")
        assert run(["entry", "run-script", "demo"], services) == 0
        assert "7.2.11" not in script.read_text()
        capsys.readouterr()
        assert run(["entry", "run-script", "demo", "--form", "libvirt-xml"], services) == 0
        assert f'file="{folder.image().path.absolute()}"' in capsys.readouterr().out
        assert run(["entry", "run-script", "demo", "--form", "virt-install"], services) == 0
        text = capsys.readouterr().out
        assert text.startswith("virt-install --import --name A-demo")
        assert run(["entry", "run-script", "demo", "--form", "virt-install", "--json"], services) == 0
        assert json.loads(capsys.readouterr().out) == {"version": 1, "form": "virt-install", "text": text}
        assert run(["entry", "run-script", "demo", "--json"], services) == 0
        assert json.loads(capsys.readouterr().out) == {"version": 1, "script": str(script)}
        assert run(["entry", "run-script", "missing"], services) == 2

    def test_the_script_works_from_anywhere_with_a_read_only_image(self, tmp_path: Path) -> None:
        qemu = tmp_path / "qemu"
        qemu.write_text("#!/bin/sh\necho QEMU emulator version 8.0\n")
        qemu.chmod(0o755)
        folder = make_entry(NewEntry(tmp_path, "demo", raw(tmp_path / "a.img")), ignore)
        write_run_script(folder, ignore)
        folder.image().path.chmod(0o444)
        moved = tmp_path / "else where"
        shutil.move(folder.path, moved)
        done = subprocess.run(
            [moved / "run", "--dry-run"],
            env={"PATH": os.environ["PATH"], "QEMU": str(qemu)}, cwd="/", capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"file={moved}/demo.img,format=raw,snapshot=on" in done.stdout
