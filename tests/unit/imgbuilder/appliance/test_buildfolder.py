"""B7: folders that libguestfs cannot use are named before it silently takes another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgbuilder.appliance.launch import check_build_folder
from imgbuilder.errors import ApplianceError


def check(folder: Path, **more: str) -> None:
    check_build_folder({"LIBGUESTFS_CACHEDIR": str(folder), **more})


def test_good_ones(tmp_path: Path) -> None:
    check_build_folder({})
    check(tmp_path)
    (tmp_path / f".guestfs-{os.geteuid()}").mkdir()
    check(tmp_path)


@pytest.mark.row("B7")
def test_what_is_not_there_or_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        with pytest.raises(ApplianceError, match=name) as caught:
            check(tmp_path / name)
        assert "LIBGUESTFS_CACHEDIR=DIR" in str(caught.value.hint)
        check(tmp_path / name, LIBGUESTFS_PATH="/usr/lib/fixed")


@pytest.mark.row("B7")
def test_links_and_other_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tmp_path / f".guestfs-{os.geteuid()}"
    built.symlink_to(tmp_path)
    with pytest.raises(ApplianceError, match="belongs to another user"):
        check(tmp_path)
    built.unlink()
    me = os.geteuid()
    (tmp_path / f".guestfs-{me + 1}").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.raises(ApplianceError, match=f"uid {me}"):
        check(tmp_path)
