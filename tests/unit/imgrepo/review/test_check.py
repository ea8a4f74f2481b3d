"""``entry check``: entries in folders, guests in memory, a real shell with a stand-in for QEMU."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from passlib.hash import md5_crypt
from PIL import Image

from imgbuilder.errors import ApplianceError, RepositoryError
from imgbuilder.events import ignore
from imgbuilder.host.hashing import Fingerprint
from imgbuilder.host.packages import install_hint
from imgbuilder.host.privatefolder import private_folder
from imgbuilder.machine.model import BOARDS
from imgrepo.cli.main import run
from imgrepo.images.compress import Compressed
from imgrepo.images.pictures import screenshot_problem
from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import (
    BOOT_FILE,
    CHECK_FILE,
    CONTENTS_FILE,
    SOURCES_FILE,
    BootRecord,
    ContentsRecord,
    ImageMark,
    Package,
    SourcesRecord,
    Verdict,
)
from imgrepo.library.running import write_run_script
from imgrepo.review import check
from imgrepo.review.check import unmet
from imgrepo.review.results import Requirement
from imgrepo.services import Services
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.fakes.qemu_stub import QemuStub
from tests.unit.imgrepo.repository import image
from tests.unit.imgrepo.review.guests import guest

TEXT = """
title = "A demo"
description = "It serves."
hints = "log in as root with the password demo"
licence = "MIT"
contributor = "Ann"
size-budget = "1M"
source-offer = "ann@example.org"
"""
CHECKED = (Requirement.CHECKED,)
GPL = Package("bash", "5-1", "amd64", "bash", "5", ("GPL-3",), copyleft=True)


@dataclass
class Library:
    """A folder of entries, and how they are checked, with a stand-in for QEMU."""

    path: Path
    qemu: QemuStub
    capsys: pytest.CaptureFixture[str]
    appliances: FakeAppliances = field(default_factory=FakeAppliances)

    def add(self, name: str = "demo", text: str = TEXT, holds: FakeGuest | None = None) -> EntryFolder:
        """Make an entry with which nothing is wrong."""
        folder = EntryFolder(self.path / name)
        folder.path.mkdir()
        folder.description.write_text(text)
        self.fill(folder, b"x", holds)
        picture = Image.new("RGB", (320, 240))
        picture.putpixel((1, 1), (255, 255, 255))
        picture.save(folder.screenshot)
        self.describe(folder)
        return folder

    def fill(self, folder: EntryFolder, fill: bytes, holds: FakeGuest | None = None) -> None:
        image(folder.path / f"{folder.name}.img", fill)
        self.appliances.disks[f"{folder.name}.img"] = FakeDisk({1: FakeFilesystem("ext4", holds or guest())})

    def describe(self, folder: EntryFolder) -> None:
        """Write down its packages and sources, and its script."""
        mark = ImageMark.of(folder.image(), ignore)
        folder.contents.mkdir(exist_ok=True)
        folder.sources.mkdir(exist_ok=True)
        CONTENTS_FILE.write(folder.contents, ContentsRecord(mark, "Debian", "debian", "12", "dpkg", (GPL,)))
        (folder.sources / "demo-sources.tar").write_bytes(b"source")
        digest = hashlib.sha512(b"source").hexdigest()
        SOURCES_FILE.write(
            folder.sources, SourcesRecord(mark, "demo-sources.tar", digest, 6, (("bash", "5"),))
        )
        write_run_script(folder, ignore)

    def services(self) -> Services:
        return dataclasses.replace(Services(), open_appliance=self.appliances)

    def type(self, *words: str, code: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()
        got = run(["entry", "check", "--library", str(self.path), *words], self.services())
        said = self.capsys.readouterr()
        assert got == code, said
        return said.out, said.err

    def items(self, *words: str, name: str = "demo", code: int = 0) -> dict[str, Any]:
        """Check by the command; return the points by their keys, and whether it is checked."""
        data = json.loads(self.type("--json", *words, code=code)[0])
        assert data["version"] == 1
        (entry,) = [entry for entry in data["entries"] if entry["name"] == name]
        return {"checked": entry["checked"], **{item["key"]: item for item in entry["items"]}}

    def bad(self, *words: str, code: int = 1) -> dict[str, str]:
        """Return the states of the points that are not well."""
        items = self.items(*words, code=code)
        del items["checked"]
        return {key: item["state"] for key, item in items.items() if item["state"] != "ok"}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Library:
    qemu = QemuStub(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{qemu.folder}:{os.environ['PATH']}")
    monkeypatch.delenv("QEMU", raising=False)
    (tmp_path / "library").mkdir()
    return Library(tmp_path / "library", qemu, capsys)


def test_an_entry_with_nothing_missing(library: Library) -> None:
    folder = library.add()
    assert unmet(CHECKED, folder, ignore) is not None, "it was not checked yet"
    assert library.items()["checked"] is True
    assert unmet(CHECKED, folder, ignore) is None
    assert library.type()[0].startswith("demo: checked\n  ok       entry.toml   it can be read\n")
    assert json.loads((folder.check / "check.json").read_text()).keys() == {
        "version", "image", "inside", "packed", "run", "archive",
    }, "no file says that it is checked"  # fmt: skip


def test_what_takes_long_is_done_once_per_image(library: Library) -> None:
    folder = library.add()
    library.type()
    assert len(library.appliances.launches) == 1
    (library.qemu.folder / "calls").unlink()
    assert library.items()["checked"] is True
    assert len(library.appliances.launches) == 1
    assert not (library.qemu.folder / "calls").exists()
    library.fill(folder, b"y")
    library.describe(folder)
    assert unmet(CHECKED, folder, ignore) is not None
    assert set(library.bad("--quick", code=0)) == {"size", "identity", "secrets", "run"}
    assert len(library.appliances.launches) == 1, "--quick looks at nothing"
    assert library.items()["checked"] is True
    assert len(library.appliances.launches) == 2


def test_a_touched_image_is_read_and_not_looked_into_again(library: Library) -> None:
    folder = library.add()
    library.type()
    os.utime(folder.image().path)
    assert unmet(CHECKED, folder, ignore) is None
    assert library.items()["checked"] is True
    assert len(library.appliances.launches) == 1
    record = CHECK_FILE.read(folder.check)
    assert record is not None
    assert record.image.fingerprint == folder.image().fingerprint, "or it would be read each time from now on"


def test_records_of_another_image_are_wrong(library: Library) -> None:
    folder = library.add()
    library.fill(folder, b"y")
    assert library.bad() == {"contents": "wrong", "sources": "unknown"}


def test_packages_without_sources(library: Library) -> None:
    folder = library.add()
    shutil.rmtree(folder.sources)
    assert library.bad() == {"sources": "missing"}
    shutil.rmtree(folder.contents)
    assert library.bad() == {"contents": "missing", "sources": "unknown"}
    folder.contents.mkdir()
    (folder.contents / "contents.json").write_text("[]")
    assert library.bad() == {"contents": "wrong", "sources": "unknown"}


@pytest.mark.parametrize("content", [b"SOURCE", b"shorter", None])
def test_an_archive_that_was_replaced(library: Library, content: bytes | None) -> None:
    folder = library.add()
    library.type()
    archive = folder.sources / "demo-sources.tar"
    archive.unlink()
    if content is not None:
        archive.write_bytes(content)
    assert library.bad("--quick") == {"sources": "wrong"}
    assert unmet(CHECKED, folder, ignore) is not None


def test_an_archive_is_read_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add()
    library.type()
    monkeypatch.setattr("imgrepo.review.facts.hash_image", None)
    assert library.bad("--quick", code=0) == {}


@pytest.mark.parametrize("name", ["../../secret", ".hidden", "/etc/passwd", "a\0b"])
def test_a_record_of_sources_cannot_leave_its_folder(library: Library, name: str) -> None:
    folder = library.add()
    (library.path.parent / "secret").write_bytes(b"source")
    path = folder.sources / "sources.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"archive": name}))
    assert "invalid" in library.items(code=1)["sources"]["detail"]


def test_an_archive_behind_a_link(library: Library) -> None:
    folder = library.add()
    archive = folder.sources / "demo-sources.tar"
    archive.rename(library.path / "elsewhere")
    archive.symlink_to(library.path / "elsewhere")
    assert library.items(code=1)["sources"]["detail"] == "demo-sources.tar is not a regular file"


def test_what_is_in_the_image_is_named(library: Library) -> None:
    made = guest()
    made.add("/etc/ssh/ssh_host_rsa_key", "x")
    made.add("/root/.bash_history", "x")
    made.add("/var/log/syslog", "x")
    library.add(holds=made)
    items = library.items(code=1)
    assert items["identity"]["state"] == items["secrets"]["state"] == "wrong"
    assert items["identity"]["notes"] == ["logs: /var/log/syslog"]
    out, _err = library.type(code=1)
    assert (
        "  wrong    identity     host keys of SSH, which all copies would share: /etc/ssh/ssh_host_rsa_key\n"
        in out
    )
    assert "note: logs: /var/log/syslog\n" in out
    assert "demo.img --sysprep all\n" in out


def test_changed_hints_cause_the_passwords_to_be_tried_again(library: Library) -> None:
    made = guest()
    made.add("/etc/shadow", f"root:{md5_crypt.hash('k3ssel')}:1::::::\n")
    folder = library.add(holds=made)
    assert library.bad() == {"secrets": "wrong"}
    folder.description.write_text(TEXT.replace("password demo", "password k3ssel"))
    library.describe(folder)
    assert library.bad("--quick", code=0) == {"secrets": "unknown", "run": "unknown"}
    assert library.items()["checked"] is True
    assert len(library.appliances.launches) == 2


def test_where_no_system_was_found_it_is_looked_for_again(library: Library) -> None:
    folder = library.add()
    library.appliances.disks["demo.img"] = FakeDisk({1: FakeFilesystem("crypto_LUKS")})
    items = library.items()
    assert items["identity"]["detail"] == items["secrets"]["detail"] == "demo.img holds an encrypted disk"
    assert library.items("--quick")["identity"]["detail"] == "demo.img holds an encrypted disk"
    assert unmet(CHECKED, folder, ignore) is not None
    library.fill(folder, b"x")
    assert library.items()["identity"]["state"] == "ok"


def test_sizes(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = library.add()
    sizes: list[int] = []
    commands: list[str] = []

    def compress(
        _image: object, target: Path, command: list[str], *_more: object, **_rest: object
    ) -> Compressed:
        commands.append(command[0])
        target.touch(exist_ok=False)
        return Compressed(target, sizes.pop(0), "", "")

    monkeypatch.setattr(check, "compress", compress)
    for mine, state, used in (
        ([1000], "ok", ["zstd"]),
        ([2 << 20], "wrong", ["zstd"]),
        ([1 << 20, 1 << 19], "ok", ["zstd", "xz"]),
        ([1 << 20, (1 << 20) + 1], "wrong", ["zstd", "xz"]),
    ):
        sizes[:], commands[:] = mine, []
        shutil.rmtree(folder.check, ignore_errors=True)
        assert library.items(code=state == "wrong")["size"]["state"] == state
        assert commands == used
    folder.description.write_text(TEXT.replace("1M", "2M"))
    assert library.items()["size"]["state"] == "ok", "what xz made of it is known"


def test_a_real_size(library: Library) -> None:
    folder = library.add()
    library.type()
    record = CHECK_FILE.read(folder.check)
    assert record is not None
    assert record.packed is not None
    assert 0 < record.packed.zstd < 4096
    ((attachment,),) = library.appliances.launches
    assert attachment.path != folder.image().path, "a copy, on which free space is given back"
    assert not attachment.path.exists()


def test_without_a_budget_nothing_is_packed_or_copied(library: Library) -> None:
    folder = library.add(text=TEXT.replace("size-budget", "# "))
    assert library.items()["checked"] is True
    ((attachment,),) = library.appliances.launches
    assert (attachment.path, attachment.readonly) == (folder.image().path, True)


def test_other_checks_need_no_appliance(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = library.add()

    def fail(_appliance: FakeAppliance) -> None:
        raise ApplianceError("there is no libguestfs", hint="install it")

    library.appliances = FakeAppliances(prepare=fail)
    items = library.items()
    assert items["checked"] is False
    assert {key for key in ("size", "identity", "secrets") if items[key]["state"] == "unknown"} == {
        "size", "identity", "secrets",
    }  # fmt: skip
    assert (items["identity"]["detail"], items["identity"]["hint"]) == (
        "there is no libguestfs",
        "install it",
    )
    assert items["run"]["state"] == "ok"
    problem = unmet(CHECKED, folder, ignore)
    assert isinstance(problem, RepositoryError)
    assert problem.message.startswith("demo is not checked: size: ")


def test_one_broken_entry_does_not_stop_the_others(library: Library) -> None:
    library.add()
    library.add("broken").description.write_text("title = ")
    (library.path / "odd name").mkdir()
    (library.path / "odd name" / "entry.toml").write_text("")
    data = json.loads(library.type("--json", code=1)[0])
    states = {entry["name"]: entry["checked"] for entry in data["entries"]}
    assert states == {"broken": False, "demo": True, "odd name": False}
    assert data["entries"][2]["items"][0]["state"] == "wrong"
    assert library.items(name="demo", code=1)["checked"] is True
    library.type("demo")
    library.type("demo/", "demo")
    library.type("odd name", code=1)


def test_wrong_input(library: Library) -> None:
    library.add()
    assert "the entry other does not exist" in library.type("other", code=2)[1]
    assert run(["entry", "check", "--library", str(library.path / "none")], library.services()) == 2
    assert run(["entry", "check", "--quickly"], library.services()) == 2
    words = f"give its name, and the folder that it is in: demo --library {library.path}\n"
    assert words in library.type(str(library.path / "demo"), code=2)[1]
    assert run(["entry", "check", "--library", str(library.path / "demo")], library.services()) == 2
    assert words in library.capsys.readouterr().err


def test_an_empty_library(library: Library) -> None:
    out, err = library.type()
    assert (out, "no entries in" in err) == ("", True)
    assert json.loads(library.type("--json")[0]) == {"version": 1, "entries": []}


def test_progress_is_not_on_standard_output(library: Library) -> None:
    library.add()
    out, err = library.type()
    assert all(line.startswith(("demo: ", "  ")) for line in out.splitlines())
    assert "Looking into demo.img" in err
    assert library.type("--quiet")[1] == ""


def test_names_that_drive_terminals(library: Library) -> None:
    folder = library.add()
    path = folder.sources / "sources.json"
    gap = {"source": "bash", "version": "5", "reason": "gone\x1b[2J\nreally"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"covered": [], "gaps": [gap]}))
    out, _err = library.type(code=1)
    assert "1 of 1 source package missing: bash 5 (gone\\x1b[2J really)\n" in out


def test_a_record_that_cannot_be_read_is_made_again(library: Library) -> None:
    folder = library.add()
    folder.check.mkdir()
    for text in ("", "[]", '{"version": 1}', '{"version": 2}'):
        (folder.check / "check.json").write_text(text)
        assert unmet(CHECKED, folder, ignore) is not None
        assert library.items()["checked"] is True


def test_a_library_that_cannot_be_written(library: Library) -> None:
    folder = library.add()
    folder.check.write_text("a file")
    _out, err = library.type()
    assert "the results are not kept" in err


def test_a_missing_or_wrong_image(library: Library) -> None:
    folder = library.add()
    path = folder.image().path
    path.rename(path.with_suffix(".qcow2"))
    assert library.items(code=1)["image"]["state"] == "wrong"
    path.with_suffix(".qcow2").unlink()
    items = library.items(code=1)
    assert items["image"]["state"] == "missing"
    assert {items[key]["state"] for key in ("size", "identity", "secrets", "run")} == {"unknown"}
    assert library.appliances.launches == []


class TestRunScript:
    def test_it_runs_elsewhere(self, library: Library) -> None:
        folder = library.add()
        folder.image().path.chmod(0o444)
        assert library.items()["run"]["state"] == "ok"
        where, _program, *words = json.loads((library.qemu.folder / "calls").read_text())
        assert where == "/"
        assert "-S" in words
        drive = words[words.index("-drive") + 1]
        assert "/another folder/demo.img,format=raw,snapshot=on" in drive
        assert str(folder.path) not in drive

    def test_none(self, library: Library) -> None:
        library.add().run_script.unlink()
        assert library.bad() == {"run": "missing"}

    def test_an_old_one(self, library: Library) -> None:
        folder = library.add()
        folder.run_script.write_text(folder.run_script.read_text() + "# mine\n")
        items = library.items(code=1)
        assert items["run"]["state"] == "wrong"
        assert (
            items["run"]["hint"] == f"write it: pybuilder-repo entry run-script demo --library {library.path}"
        )
        assert not (library.qemu.folder / "calls").exists(), "it is not run"

    def test_one_that_is_too_old_after_an_edit(self, library: Library) -> None:
        folder = library.add()
        library.type()
        folder.description.write_text(f"{TEXT}\n[machine]\nmemory = 99\n")
        assert unmet(CHECKED, folder, ignore) is not None

    def test_one_that_cannot_be_executed(self, library: Library) -> None:
        library.add().run_script.chmod(0o644)
        assert library.bad() == {"run": "wrong"}

    @pytest.mark.parametrize(
        ("how", "words"),
        [
            ("write", "QEMU opens the image for writing"),
            ("nothing", "does not open the image"),
            ("die", "status 1 before QEMU accepted commands: qemu: \\x1b[2Jno such device"),
            ("odd", "it ended with status 3"),
            ("change", "the image changed while it ran"),
        ],
    )
    def test_failures_have_their_reason(self, library: Library, how: str, words: str) -> None:
        library.add()
        library.qemu.set(how)
        if how == "change":  # which is printed at once: it is no longer the image that was looked into
            assert "changed" in library.type(code=1)[0]
            return
        found = library.items(code=1)["run"]
        assert (found["state"], words in found["detail"]) == ("wrong", True), found

    def test_two_forwards_of_one_port(self, library: Library) -> None:
        library.add(text=f'{TEXT}\n[machine]\nports = ["8080:80", "8080:81"]\n')
        assert library.bad() == {"run": "wrong"}

    def test_a_hypervisor_that_accepts_no_commands(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(check, "_START", 1.0)
        library.add()
        library.qemu.set("deaf")
        assert "within 1 seconds" in library.items(code=1)["run"]["detail"]

    def test_a_problem_of_the_host_is_unknown(
        self, library: Library, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = library.add()
        library.qemu.set("busy")
        items = library.items()
        assert (items["run"]["state"], "8080" in items["run"]["detail"]) == ("unknown", True)
        (library.qemu.folder / "qemu-system-x86_64").unlink()
        monkeypatch.setattr("imgbuilder.host.process.find_program", without_qemu)
        items = library.items()
        assert items["run"]["state"] == "unknown"
        assert items["run"]["hint"] == install_hint("qemu-system-x86_64")
        assert unmet(CHECKED, folder, ignore) is not None

    def test_a_host_without_firmware(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(BOARDS, "x86_64", dataclasses.replace(BOARDS["x86_64"], firmware=()))
        library.add(text=f'{TEXT}\n[machine]\nfirmware = "uefi"\n')
        found = library.items()["run"]
        assert (found["state"], found["hint"]) == ("unknown", install_hint("uefi-x86_64"))

    def test_nothing_is_left(self, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
        places: list[Path] = []

        @contextlib.contextmanager
        def noted() -> Iterator[Path]:
            with private_folder() as folder:
                places.append(folder)
                yield folder

        monkeypatch.setattr(check, "private_folder", noted)
        library.add()
        library.qemu.set("write")
        library.type(code=1)
        (place,) = places
        assert not place.exists()
        assert not [one for one in psutil.process_iter(["cmdline"]) if str(place) in str(one.info["cmdline"])]


def without_qemu(name: str) -> str | None:
    return None if name.startswith("qemu-system") else shutil.which(name)


class TestScreenshot:
    def test_none_and_that_of_the_boot_check(self, library: Library) -> None:
        folder = library.add()
        library.type()
        folder.boot.mkdir()
        folder.screenshot.rename(folder.boot / "screen.png")
        assert library.bad("--quick") == {"screenshot": "missing"}
        mark = ImageMark.of(folder.image(), ignore)
        record = BootRecord(mark, Verdict.BOOTED, "", "4.2", "tcg", datetime.now(UTC), 1.0, pictures=True)
        BOOT_FILE.write(folder.boot, record)
        assert library.bad("--quick", code=0) == {}
        BOOT_FILE.write(
            folder.boot, dataclasses.replace(record, image=ImageMark("0", Fingerprint(0, 0, 0, 0)))
        )
        assert library.bad("--quick") == {"screenshot": "missing"}

    @pytest.mark.parametrize(
        ("size", "colours", "words"),
        [
            ((320, 240), 2, None),
            ((1024, 768), 2, None),
            ((319, 240), 2, "319x240 pixels"),
            ((320, 239), 2, "320x239 pixels"),
            ((320, 240), 1, "one colour"),
            ((8000, 4000), 2, "too many"),
            ((9000, 300), 2, "9000 x 300"),
        ],
    )
    def test_sizes(self, tmp_path: Path, size: tuple[int, int], colours: int, words: str | None) -> None:
        picture = Image.new("L", size)
        picture.putpixel((1, 1), 255 if colours > 1 else 0)
        picture.save(tmp_path / "a.png")
        problem = screenshot_problem(tmp_path / "a.png")
        assert problem is None if words is None else words in (problem or "")

    def test_a_file_that_is_not_a_picture(self, tmp_path: Path) -> None:
        path = tmp_path / "a.png"
        Image.effect_noise((400, 300), 50).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert "cannot be read" in (screenshot_problem(path) or "")
        path.write_bytes(b"GIF89a" + whole)
        assert screenshot_problem(path) == "it is not a PNG file"
        path.unlink()
        assert screenshot_problem(path) == "it is gone"
        path.symlink_to("/etc/passwd")
        assert "cannot be read" in (screenshot_problem(path) or "")
