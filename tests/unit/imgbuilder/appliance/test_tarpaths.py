"""Tar members and the links of a guest: their destinations, and that nothing is lost."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.appliance.tarpaths import Placer, redirect
from imgbuilder.errors import WorkspaceError
from tests.fakes.guest import FakeGuest


def guest() -> FakeGuest:
    made = FakeGuest()
    for folder in ("/run", "/usr/lib", "/var", "/srv/deep"):
        made.add_dir(folder)
    made.add_link("/var/run", "/run")
    made.add_link("/lib", "usr/lib")
    made.add_link("/srv/up", "../../var/run")
    made.add_link("/srv/nowhere", "/none")
    made.add("/srv/file", "x")
    return made


def archive(path: Path, *members: tuple[str, str], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, kind in members:
            info = tarfile.TarInfo(name)
            info.uid, info.mode = 7, 0o750
            info.pax_headers = {"SCHILY.xattr.user.note": "kept"}
            if kind == "dir":
                info.type = tarfile.DIRTYPE
            elif kind.startswith("hard:"):
                info.type, info.linkname = tarfile.LNKTYPE, kind[5:]
            else:
                info.size = len(kind)
            tar.addfile(info, io.BytesIO(kind.encode()))
    return path


@pytest.mark.row("F19")
@pytest.mark.parametrize(
    ("name", "folder", "place"),
    [
        ("var/run/x", False, "/run/x"),
        ("./var/run/a/b", False, "/run/a/b"),
        ("/var/run/x", False, "/run/x"),
        ("lib", True, "/usr/lib"),
        ("lib", False, "/lib"),
        ("lib/x", False, "/usr/lib/x"),
        ("srv/up/x", False, "/run/x"),
        ("new/deep/x", False, "/new/deep/x"),
        (".", True, "/"),
    ],
)
def test_members_go_where_the_guests_links_lead(name: str, folder: bool, place: str) -> None:
    assert Placer(guest(), "/").place(name, folder=folder) == place


@pytest.mark.row("F19")
@pytest.mark.parametrize(("name", "folder"), [("srv/nowhere/x", False), ("srv/nowhere", True)])
def test_a_folder_that_is_a_dangling_link_is_refused(name: str, folder: bool) -> None:
    """tar would follow it into the appliance, if that path exists there."""
    with pytest.raises(WorkspaceError, match="leads to no directory"):
        Placer(guest(), "/").place(name, folder=folder)


@pytest.mark.row("F19")
@given(st.lists(st.sampled_from(["var", "run", "lib", "srv", "up", "x", "deep"]), min_size=1, max_size=5))
def test_a_place_never_passes_through_a_link_to_a_directory(parts: list[str]) -> None:
    made = guest()
    place = Placer(made, "/").place("/".join(parts), folder=False)
    for end in range(1, place.count("/") + 1):
        parent = "/".join(place.split("/")[:end])
        assert not (parent and made.is_symlink(parent) and made.is_dir(parent)), place


@pytest.mark.row("F19")
def test_a_new_archive_is_written_only_if_needed(tmp_path: Path) -> None:
    plain = archive(tmp_path / "plain.tar", ("usr", "dir"), ("usr/x", "text"))
    assert not redirect(plain, "/", guest(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    linked = archive(
        tmp_path / "linked.tar.gz", ("lib", "dir"), ("lib/x", "text"), ("lib/y", "hard:lib/x"), mode="w:gz"
    )
    assert redirect(linked, "/", guest(), tmp_path / "out")
    with tarfile.open(tmp_path / "out") as out:
        members = {member.name: member for member in out}
        assert list(members) == ["usr/lib", "usr/lib/x", "usr/lib/y"]
        assert members["usr/lib/y"].linkname == "usr/lib/x"
        content = out.extractfile("usr/lib/x")
        assert content is not None
        assert content.read() == b"text"
        assert (members["usr/lib/x"].uid, members["usr/lib/x"].mode) == (7, 0o750)
        assert members["usr/lib/x"].pax_headers["SCHILY.xattr.user.note"] == "kept"


def test_two_dots_and_broken_archives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"\.\."):
        redirect(archive(tmp_path / "a.tar", ("a/../../x", "text")), "/", guest(), tmp_path / "out")
    whole = archive(tmp_path / "b.tar.gz", ("lib/x", "text" * 1000), mode="w:gz").read_bytes()
    (tmp_path / "c.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorkspaceError, match=r"c\.tar\.gz"):
        redirect(tmp_path / "c.tar.gz", "/", guest(), tmp_path / "out")
