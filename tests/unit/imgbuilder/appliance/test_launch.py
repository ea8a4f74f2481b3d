"""Starting an appliance: the wrapper of the hypervisor, names of disks, and libguestfs's build folder."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from imgbuilder.appliance import launch
from imgbuilder.errors import ApplianceError


@pytest.mark.parametrize(
    ("noexec", "chosen"), [((), "run"), (("run",), "large"), (("run", "large"), None), (("large",), "run")]
)
def test_the_wrapper_is_where_it_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noexec: tuple[str, ...], chosen: str | None
) -> None:
    def statvfs(path: Path) -> SimpleNamespace:
        return SimpleNamespace(f_flag=os.ST_NOSUID | (os.ST_NOEXEC if path.name in noexec else 0))

    hypervisor = tmp_path / "qemu"
    hypervisor.write_text("#!/bin/sh\n")
    hypervisor.chmod(0o755)
    monkeypatch.setenv("LIBGUESTFS_HV", str(hypervisor))
    folders = launch._Folders(tmp_path / "run", tmp_path / "large")
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(os, "statvfs", statvfs)
    wrapper = launch._hypervisor(folders, Path("/usr/bin/python3"), os.getpid(), None)
    assert wrapper == (None if chosen is None else tmp_path / chosen / "hypervisor")
    if wrapper is not None:
        assert str(folders.runtime / "elsewhere") in wrapper.read_text(), "claims stay in the short folder"


@pytest.mark.row("F16")
def test_only_the_worker_starts_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the worker has ended already, and the machine would stay."""
    monkeypatch.setenv("LIBGUESTFS_HV", "/bin/echo")
    folders = launch._Folders(tmp_path, tmp_path)
    for worker, status in ((os.getpid(), 0), (os.getppid(), 1)):
        wrapper = launch._hypervisor(folders, Path("/usr/bin/python3"), worker, None)
        assert wrapper is not None
        machine = subprocess.run([wrapper, "-kernel", "k"], check=False, capture_output=True)
        assert (machine.returncode, machine.stdout) == (status, b"" if status else b"-kernel k\n")
        query = subprocess.run(
            ["sh", "-c", '"$0" -device "?"; true', wrapper], check=True, capture_output=True
        )
        assert query.stdout == b"-device ?\n"


def test_links_for_paths_that_libguestfs_refuses(tmp_path: Path) -> None:
    for number, name in enumerate((b"a:b", b"caf\xe9")):
        disk = tmp_path / os.fsdecode(name)
        disk.touch()
        link = launch._plain_name(disk, tmp_path / f"link{number}")
        assert link.name == f"link{number}"
        assert link.samefile(disk)
    assert launch._plain_name(tmp_path / "größe, x", tmp_path / "link") == tmp_path / "größe, x"


def check_folder(folder: Path, **more: str) -> None:
    launch.check_build_folder({"LIBGUESTFS_CACHEDIR": str(folder), **more})


def test_build_folders_that_can_be_used(tmp_path: Path) -> None:
    launch.check_build_folder({})
    check_folder(tmp_path)
    (tmp_path / f".guestfs-{os.geteuid()}").mkdir()
    check_folder(tmp_path)


@pytest.mark.row("B7")
def test_a_build_folder_that_is_missing_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        with pytest.raises(ApplianceError, match=name) as caught:
            check_folder(tmp_path / name)
        assert "LIBGUESTFS_CACHEDIR=DIR" in str(caught.value.hint)
        check_folder(tmp_path / name, LIBGUESTFS_PATH="/usr/lib/fixed")


@pytest.mark.row("B7")
def test_build_folders_of_other_users_and_links_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / f".guestfs-{os.geteuid()}"
    built.symlink_to(tmp_path)
    with pytest.raises(ApplianceError, match="belongs to another user"):
        check_folder(tmp_path)
    built.unlink()
    me = os.geteuid()
    (tmp_path / f".guestfs-{me + 1}").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ApplianceError, match=f"uid {me}"):
        check_folder(tmp_path)
