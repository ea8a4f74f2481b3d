from __future__ import annotations

import os
from pathlib import Path

import pytest

from imgindex import files
from imgindex.errors import UsageError
from imgindex.files import check_writers


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    made = tmp_path / "folder/file"
    made.write_text("x")
    made.chmod(0o664)  # groups may write
    return made


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        check_writers(path, path.stat())
    return f"{caught.value.message} ({caught.value.hint})"


def test_own_files_in_own_folders(file: Path) -> None:
    check_writers(file, file.stat())


def test_everybody_may_change_it(file: Path) -> None:
    file.chmod(0o646)
    assert f"chmod o-w {file}" in refusal(file)


@pytest.mark.parametrize("linked", [False, True])
def test_everybody_may_exchange_it(file: Path, linked: bool) -> None:
    """Also where it really is, behind a link."""
    open_folder = file.parent
    if linked:
        (file.parent.parent / "closed").mkdir()
        link = file.parent.parent / "closed/link"
        link.symlink_to(file)
        file = link
    open_folder.chmod(0o777)
    assert f"chmod o-w {open_folder}" in refusal(file)
    open_folder.chmod(0o1777)  # as /tmp: only the owner of a name may remove it
    check_writers(file, file.stat())
    open_folder.chmod(0o755)
    open_folder.parent.chmod(0o777)
    assert f"chmod o-w {open_folder.parent})" in refusal(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_it_belongs_to_a_stranger(file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    os.chown(file, 65534, 65534)
    assert "belongs to user 65534" in refusal(file)
    monkeypatch.setenv("SUDO_UID", "65534")
    check_writers(file, file.stat())
    monkeypatch.setenv("SUDO_UID", "1000")
    refusal(file)
    mapped = tmp_path / "uid_map"
    mapped.write_text("         0       1000          1\n")
    monkeypatch.setattr(files, "_NAMESPACES", mapped)
    check_writers(file, file.stat())  # in a user namespace, root's files look like that
