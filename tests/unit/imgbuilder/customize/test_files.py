"""Operations on files, in guests with links, odd owners and unexpected files."""

from __future__ import annotations

import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from imgbuilder.errors import GuestCallError, OperationError, UsageError, WorkspaceError
from imgbuilder.events import Event, Notice, Severity
from tests.fakes.debianguest import apply, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        (None, "x", b"x\n"),
        (b"", "x", b"x\n"),
        (b"\n", "x", b"\nx\n"),
        (b"a", "x", b"a\nx\n"),
        (b"a\n", "x", b"a\nx\n"),
        (b"a\r\nb", "x", b"a\r\nb\r\nx\r\n"),
        (b"a\r\n", "x", b"a\r\nx\r\n"),
        (b"a\rb", "x", b"a\rb\rx\r"),
        (b"a\nb\r\n", "x", b"a\nb\r\nx\n"),
        (b"a\n", "", b"a\n\n"),
        (b"a", "", b"a\n\n"),
        (b"y" * 8191 + b"\r\nz", "x", b"y" * 8191 + b"\r\nz\r\nx\r\n"),
        (b"y" * 9000 + b"\r\nz", "x", b"y" * 9000 + b"\r\nz\nx\n"),
    ],
)
def test_append_line_in_the_files_own_style(before: bytes | None, line: str, after: bytes) -> None:
    guest = FakeGuest()
    if before is not None:
        guest.add("/f", before)
    apply(guest, "append-line", f"/f:{line}")
    assert guest.read("/f") == after


def test_append_line_needs_a_regular_file(bare: FakeGuest) -> None:
    bare.add_dir("/d")
    bare.add_fifo("/p")
    for path in ("/d", "/p"):
        with pytest.raises(OperationError, match="not a regular file"):
            apply(bare, "append-line", f"{path}:x")


@pytest.mark.row("Z4")
def test_links_are_followed_inside_the_guest_and_a_loop_is_an_error(bare: FakeGuest) -> None:
    bare.add("/run/resolv.conf", "old\n")
    bare.add_link("/etc/resolv.conf", "/run/resolv.conf")
    bare.add_link("/etc/up", "../../../../run/resolv.conf")
    bare.add_link("/etc/loop", "/etc/loop")
    apply(bare, "append-line", "/etc/resolv.conf:a")
    apply(bare, "write", "/etc/up:b")
    assert bare.text("/run/resolv.conf") == "b"
    assert bare.is_symlink("/etc/resolv.conf")
    for keyword, text in (
        ("append-line", "/etc/loop:x"),
        ("write", "/etc/loop:x"),
        ("truncate", "/etc/loop"),
    ):
        with pytest.raises((OperationError, GuestCallError)):
            apply(bare, keyword, text)


@pytest.mark.row("Z5")
def test_copies_and_moves_through_an_absolute_link_stay_in_the_guest(tmp_path: Path) -> None:
    guest = debian_guest()
    guest.add("/a", "kept")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("x")
    apply(guest, "copy", "/a:/var/run/copied")
    apply(guest, "move", "/a:/var/run/moved")
    apply(guest, "copy-in", f"{tmp_path}/d:/var/run")
    assert guest.ls("/run") == ["copied", "d", "moved"]
    assert guest.text("/run/moved") == "kept"
    assert not guest.exists("/a")


@pytest.mark.row("Z6")
def test_delete_expands_patterns_and_removes_links_not_targets(bare: FakeGuest) -> None:
    bare.add("/tmp/keep.txt")
    bare.add("/tmp/a1")
    bare.add_dir("/tmp/a2/sub")
    bare.add_link("/lnk", "/tmp")
    bare.add_link("/tmp/a3", "/tmp/keep.txt")
    apply(bare, "delete", "/lnk/a*")
    assert bare.ls("/tmp") == ["keep.txt"]
    apply(bare, "delete", "/nothing/*")
    bare.add_link("/dangling", "/nowhere")
    apply(bare, "delete", "/dangling")
    assert not bare.is_symlink("/dangling")
    bare.add("/odd[1]")
    apply(bare, "delete", "/odd[1]")
    assert not bare.exists("/odd[1]")


@pytest.mark.row("Z6")
def test_a_delete_that_did_nothing_is_an_error() -> None:
    class Stubborn(FakeGuest):
        def remove(self, path: str) -> None:
            self.calls.append(("remove", path))

    guest = Stubborn()
    guest.add("/a")
    with pytest.raises(OperationError, match="/a is still in the guest"):
        apply(guest, "delete", "/a")


@pytest.mark.row("Z7")
@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("chmod", "0644:/none"),
        ("chown", "0:0:/none"),
        ("copy", "/none:/x"),
        ("move", "/none:/x"),
        ("truncate", "/none"),
        ("edit", "/none:s/a/b/"),
        ("truncate", "/dir"),
        ("edit", "/dir:s/a/b/"),
    ],
)
def test_an_error_names_a_missing_or_wrong_file(bare: FakeGuest, keyword: str, text: str) -> None:
    bare.add_dir("/dir")
    with pytest.raises(OperationError, match=f"--{keyword}: /(none|dir) "):
        apply(bare, keyword, text)


@pytest.mark.row("Z7")
def test_copy_in_needs_its_directory(tmp_path: Path) -> None:
    with pytest.raises(OperationError, match="/x is not a directory") as caught:
        apply(FakeGuest(), "copy-in", f"{tmp_path}:/x")
    assert caught.value.hint == "put --mkdir /x before it"


def test_a_dangling_link_can_be_moved(bare: FakeGuest) -> None:
    bare.add_link("/l", "/nowhere")
    apply(bare, "move", "/l:/m")
    assert bare.readlink("/m") == "/nowhere"


@pytest.mark.row("Z8")
@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_upload_keeps_content_and_mode_and_gives_the_file_to_root(size: int, tmp_path: Path) -> None:
    local = tmp_path / "tool"
    local.write_bytes(b"\xff" * size)
    local.chmod(0o4751)
    guest = FakeGuest()
    guest.add("/opt/tool", "old", mode=0o600, uid=7, gid=7)
    apply(guest, "upload", f"{local}:/opt")
    assert guest.read("/opt/tool") == b"\xff" * size
    assert guest.permissions("/opt/tool") == ("4751", 0, 0)
    apply(guest, "upload", f"{local}:/opt/other")
    assert guest.permissions("/opt/other") == ("4751", 0, 0)


def test_write_keeps_mode_and_owner_of_an_existing_file(bare: FakeGuest) -> None:
    bare.add("/a", "old", mode=0o600, uid=5, gid=6)
    apply(bare, "write", "/a:new")
    assert bare.text("/a") == "new"
    assert bare.permissions("/a") == ("0600", 5, 6)


def test_write_passes_bytes_that_are_not_utf8(bare: FakeGuest) -> None:
    apply(bare, "write", "/a:\udcff")
    apply(bare, "append-line", "/b:\udcfe")
    assert bare.read("/a") + bare.read("/b") == b"\xff\xfe\n"


def test_link_replaces_files_and_links_and_goes_into_directories(bare: FakeGuest) -> None:
    bare.add("/file", "x")
    bare.add_dir("/dir")
    bare.add_link("/to-dir", "/dir")
    apply(bare, "link", "../target:/file:/dir:/to-dir")
    assert bare.readlink("/file") == "../target"
    assert bare.readlink("/dir/target") == "../target"
    assert bare.readlink("/to-dir") == "../target"
    assert bare.ls("/dir") == ["target"]


@pytest.mark.parametrize(
    ("expression", "after"),
    [
        ("s/b/B/", b"a\nB\n\xff\n"),
        ('$_ = "" if $lineno == 2', b"a\n\xff\n"),
        ("s/^/$lineno /", b"1 a\n2 b\n3 \xff\n"),
        ('print "new\\n" if $lineno == 3', b"a\nb\nnew\n\xff\n"),
        ("", b"a\nb\n\xff\n"),
        ("# nothing", b"a\nb\n\xff\n"),
    ],
)
def test_edit_line_by_line(bare: FakeGuest, expression: str, after: bytes) -> None:
    bare.add("/f", b"a\nb\n\xff\n", mode=0o640, uid=3, gid=4)
    apply(bare, "edit", f"/f:{expression}")
    assert bare.read("/f") == after
    assert bare.permissions("/f") == ("0640", 3, 4)
    changed = [call for call in bare.calls if call[0] == "replace"]
    assert len(changed) == (after != b"a\nb\n\xff\n")


@pytest.mark.row("Z19")
@pytest.mark.parametrize("expression", ["die 'no'", "s/a", "}", "exit 3", "exit 0", "kill 9, $$"])
def test_an_expression_that_fails_changes_nothing(bare: FakeGuest, expression: str) -> None:
    bare.add("/f", "a\nb\n")
    with pytest.raises(OperationError, match="--edit /f: the expression failed and the file was not changed"):
        apply(bare, "edit", f"/f:{expression}")
    assert bare.text("/f") == "a\nb\n"
    assert bare.calls == []


@pytest.mark.row("Z19")
def test_an_endless_expression_is_stopped(bare: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imgbuilder.customize.ops.scripts._EDIT_LIMIT", 0.2)
    bare.add("/f", "a\n")
    with pytest.raises(OperationError, match="did not end within"):
        apply(bare, "edit", "/f:1 while 1")


def test_edit_sees_bytes_whatever_the_users_perl_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERL_UNICODE", "SDA")
    monkeypatch.setenv("PERL5OPT", "-Mstrict")
    guest = FakeGuest()
    guest.add("/f", b"\xc3\xa9\n")
    apply(guest, "edit", "/f:$n = length($_); s/\\xc3/$n/")
    assert guest.read("/f") == b"3\xa9\n"


@pytest.mark.row("Z6")
def test_scrub_follows_links_and_checks_that_the_file_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = debian_guest()
    guest.add("/run/secret", "s")
    apply(guest, "scrub", "/var/run/secret")
    assert not guest.exists("/run/secret")
    guest.add("/run/secret", "s")
    monkeypatch.setattr(guest, "scrub", lambda _path: None)
    with pytest.raises(OperationError, match="still in the guest"):
        apply(guest, "scrub", "/run/secret")
    with pytest.raises(OperationError, match="not a regular file"):
        apply(guest, "scrub", "/var/run")


def test_truncate_recursive_empties_files_and_follows_no_links(bare: FakeGuest) -> None:
    bare.add("/d/a", "1")
    bare.add("/d/e/b", "2")
    bare.add("/other/c", "3")
    bare.add_link("/d/link", "/other")
    bare.add_link("/d/file", "/other/c")
    bare.add_link("/l", "/d")
    apply(bare, "truncate-recursive", "/l")
    assert bare.tree() == {"/d/a": b"", "/d/e/b": b"", "/other/c": b"3"}
    with pytest.raises(OperationError, match="not a directory"):
        apply(bare, "truncate-recursive", "/d/a")


def test_chown_looks_names_up_in_the_guest(guest: FakeGuest) -> None:
    guest.add("/a", "")
    guest.add("/etc/group", "root:x:0:\nstaff:x:50:ann\n")
    apply(guest, "chown", "ann:staff:/a")
    assert guest.permissions("/a")[1:] == (1000, 50)
    apply(guest, "chown", "0:staff:/a")
    assert guest.permissions("/a")[1:] == (0, 50)
    with pytest.raises(OperationError, match="no group ann"):
        apply(guest, "chown", "ann:ann:/a")
    with pytest.raises(OperationError, match="no user bob"):
        apply(guest, "chown", "bob:0:/a")


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz", "zst"])
def test_tar_in_whatever_the_compression(guest: FakeGuest, kind: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, f"w:{kind if kind != 'zst' else ''}") as tar:  # type: ignore[call-overload]
        tar.add(tmp_path / "f", arcname="sub/f")
    if kind == "zst":
        subprocess.run(["zstd", "-q", "--rm", archive, "-o", tmp_path / "a.tar.zst"], check=True)
        archive = tmp_path / "a.tar.zst"
    guest.add_dir("/run/sub")
    apply(guest, "tar-in", f"{archive}:/var/run")
    assert guest.text("/run/sub/f") == "content"


def test_tar_in_refuses_other_files_and_a_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    with pytest.raises(UsageError, match="not a tar file"):
        apply(debian_guest(), "tar-in", f"{tmp_path}/f:/tmp")
    (tmp_path / "z").write_bytes(b"\x28\xb5\x2f\xfdnonsense")
    with pytest.raises(WorkspaceError, match="cannot be unpacked"):
        apply(debian_guest(), "tar-in", f"{tmp_path}/z:/tmp")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "f")
    with pytest.raises(OperationError, match="not a directory"):
        apply(debian_guest(), "tar-in", f"{tmp_path}/a.tar:/none")


@pytest.mark.row("Z2")
def test_a_local_name_may_hold_a_colon(bare: FakeGuest, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("content")
    apply(bare, "upload", f"{tmp_path}/a\\:b:/c:d")
    assert bare.text("/c:d") == "content"


@pytest.mark.parametrize("keyword", ["write", "upload"])
def test_nothing_is_written_to_a_device_or_a_pipe(guest: FakeGuest, keyword: str, tmp_path: Path) -> None:
    """Their content would not be in the image, and writing to a pipe without a reader would block."""
    (tmp_path / "x").write_text("x")
    guest.add_fifo("/var/pipe")
    guest.add_link("/etc/out", "/var/pipe")
    for path in ("/var/pipe", "/etc/out"):
        text = f"{path}:x" if keyword == "write" else f"{tmp_path}/x:{path}"
        with pytest.raises(OperationError, match=rf"^--{keyword}: {path} is not a regular file"):
            apply(guest, keyword, text)


@pytest.mark.parametrize("keyword", ["copy", "move", "link"])
def test_a_last_slash_means_a_directory(guest: FakeGuest, keyword: str) -> None:
    guest.add("/etc/motd", "x")
    with pytest.raises(OperationError, match="/etc/new/ is not a directory") as caught:
        apply(guest, keyword, "/etc/motd:/etc/new/")
    assert "--mkdir /etc/new " in (caught.value.hint or "")
    apply(guest, "mkdir", "/etc/new")
    apply(guest, keyword, "/etc/motd:/etc/new/")
    assert guest.text("/etc/new/motd") == "x" or keyword == "link"


def test_a_link_is_not_made_below_a_directory_of_its_name(guest: FakeGuest) -> None:
    guest.add_dir("/opt/tool")
    with pytest.raises(GuestCallError):
        apply(guest, "link", "/usr/lib/tool:/opt")
    assert guest.ls("/opt/tool") == []


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("write", "/etc/resolv.conf:x"),
        ("append-line", "/etc/resolv.conf:x"),
        ("upload", "FILE:/etc/resolv.conf"),
        ("copy-in", "FILE:/run"),
        ("write", "/run/x:x"),
    ],
)
def test_paths_hidden_in_the_running_guest_are_a_warning(keyword: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    guest = debian_guest()
    guest.add_link("/etc/resolv.conf", "../run/resolv.conf")
    said: list[Event] = []
    apply(guest, keyword, text.replace("FILE", f"{tmp_path}/x"), on_event=said.append)
    [notice] = said
    assert isinstance(notice, Notice)
    assert notice.severity is Severity.WARNING
    assert notice.text.startswith(f"--{keyword}: /")
    assert "/run is empty after each boot" in notice.text
    said.clear()
    apply(guest, "write", "/etc/running:x", on_event=said.append)
    assert said == []


def test_a_tree_that_cannot_be_copied_whole_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "tree/deep/s"))
        with pytest.raises(UsageError, match=r"^--copy-in: .*deep/s is a socket"):
            parse_operation("copy-in", f"{tmp_path}/tree:/opt")
    with pytest.raises(UsageError, match=r"^--copy-in: / is the root folder"):
        parse_operation("copy-in", "/:/opt")


def test_a_linked_tree_is_copied_under_the_name_that_was_given(guest: FakeGuest, tmp_path: Path) -> None:
    (tmp_path / "release-1").mkdir()
    (tmp_path / "release-1/page").write_text("page")
    (tmp_path / "current").symlink_to("release-1")
    guest.add_dir("/opt")
    apply(guest, "copy-in", f"{tmp_path}/current:/opt")
    assert guest.text("/opt/current/page") == "page"
    assert guest.ls("/opt") == ["current"]


def test_a_file_with_attributes_is_uploaded_with_them(guest: FakeGuest, tmp_path: Path) -> None:
    """The file is uploaded through the link in its place, and as a tar file, which can contain attributes."""
    os.setxattr(tmp_path, "user.note", b"1")  # some filesystems support none
    (tmp_path / "tool").write_text("tool")
    os.setxattr(tmp_path / "tool", "user.note", b"1")
    guest.add("/usr/bin/real-tool", "old")
    guest.add_link("/usr/bin/tool", "real-tool")
    apply(guest, "upload", f"{tmp_path}/tool:/usr/bin/tool")
    assert guest.text("/usr/bin/real-tool") == "tool"
    assert guest.is_symlink("/usr/bin/tool")
    assert ("copy_in", "/usr/bin") in guest.calls


@pytest.mark.parametrize(("keyword", "text"), [("chmod", "600:/boot/efi/x"), ("chown", "1:1:/boot/efi/x")])
def test_permissions_that_a_filesystem_does_not_keep_are_an_error(
    guest: FakeGuest, keyword: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT stores none, but reports success."""
    guest.add("/boot/efi/x", mode=0o755)
    monkeypatch.setattr(guest, keyword, lambda *_arguments: None)
    with pytest.raises(OperationError, match=f"^--{keyword}: .* of /boot/efi/x .* still"):
        apply(guest, keyword, text)
