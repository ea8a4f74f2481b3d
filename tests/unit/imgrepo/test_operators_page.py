"""docs/operators.md, typed from top to bottom on its machines; and two operators of one group."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from imgindex.gpg import GpgVerifier, trusted_keys_from_file
from imgindex.parse import parse_index
from imgindex.signer import GpgSigner
from imgrepo.cli.main import run
from imgrepo.webroot.transaction import PUBLISH_LOCK_NAME, open_session
from tests.fakes.keys import HomeGuard, KeyMaker
from tests.unit.imgrepo.repository import Repository

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "operators.md"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Yield each command of the page with the machine that it is typed on."""
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        machine = ""
        for line in block.splitlines():
            if line.startswith("# on: "):
                machine = line.removeprefix("# on: ")
            else:
                yield machine, shlex.split(line)


class Machines:
    """The GnuPG homes of machines by their names; those of the page have no passphrase."""

    def __init__(self) -> None:
        self._homes: dict[str, KeyMaker] = {}

    def home(self, name: str) -> KeyMaker:
        return self._homes.setdefault(name, KeyMaker())

    def close(self) -> None:
        for keys in self._homes.values():
            keys.close()


def test_every_command_of_the_page_works_on_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    repository = Repository(tmp_path, tmp_path, None, "")  # type: ignore[arg-type]  # keys are made below
    repository.add("debian-12.img", b"old")
    machines, fingerprint = Machines(), "FINGERPRINT"
    done: list[list[str]] = []
    revisions: list[int] = []
    try:
        for machine, words in commands():
            keys = machines.home(machine)
            monkeypatch.setenv("GNUPGHOME", str(keys.home))
            services = replace(
                repository.services(),
                make_keys=lambda signing: GpgSigner(ask=False, valid_for=signing.valid_for),
            )
            words = [word.replace("FINGERPRINT", fingerprint) for word in words]
            if words[0] == "gpg":
                keys.gpg(*words[1:])
                if fingerprint == "FINGERPRINT":
                    listed = keys.gpg("--list-keys", "--with-colons").decode()
                    fingerprint = next(re.finditer(r"^fpr:::::::::([0-9A-F]{40}):", listed, re.MULTILINE))[1]
                    revocation = keys.home / "openpgp-revocs.d" / f"{fingerprint}.rev"
                    assert revocation.is_file()
            else:
                words = ["web" if word == "https://images.example.org/" else word for word in words]
                if done[-1][:2] == ["pybuilder-repo", "history"]:
                    repository.add("debian-12.img", b"new")
                assert run(words[1:], services) == 0, words
                if words[1] == "publish":
                    output = Path(words[words.index("--output") + 1])
                    revisions.append(published_revision(output))
            done.append(words)
        # The colleague published a new image; the restored machine goes on where it was.
        assert revisions == [1, 2, 2, 2]
        old = revocation.read_text().replace(":-----BEGIN", "-----BEGIN")
        machines.home("new machine").gpg("--import", data=old.encode())
        listed = machines.home("new machine").gpg("--list-keys", "--with-colons", fingerprint).decode()
        assert re.search(r"^pub:r:", listed, re.MULTILINE)
    finally:
        machines.close()


def published_revision(folder: Path) -> int:
    pin = trusted_keys_from_file(folder / "index.gpg", where="the page")
    signed = GpgVerifier().verify((folder / "index.asc").read_bytes(), pin, where="the page")
    (entry,) = parse_index(signed, where="the page").entries
    return entry.revision


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_operators_of_one_group_share_everything(keys: KeyMaker, signing_key: str) -> None:
    group = 60009
    # Not below pytest's folder, which other users cannot enter.
    base = Path(tempfile.mkdtemp(prefix="operators.", dir="/tmp"))
    base.chmod(0o755)
    repository = Repository(base, keys.home, keys.pin(signing_key), signing_key)
    for folder in (repository.images, repository.web):
        os.chown(folder, 0, group)
        folder.chmod(0o2775)
    homes: dict[int, Path] = {}
    guards = []
    for user in (60001, 60002):
        homes[user] = base / str(user)
        homes[user].mkdir(mode=0o700)
        shutil.copytree(keys.home, homes[user] / ".gnupg", ignore=shutil.ignore_patterns("S.*"))
        for path in (homes[user], *homes[user].rglob("*")):
            os.chown(path, user, group)
        guards.append(HomeGuard(homes[user] / ".gnupg"))

    there = base / "there"
    there.mkdir()
    os.chown(there, 0, group)
    there.chmod(0o2775)
    ssh = base / "ssh"
    ssh.write_text('#!/bin/sh\n[ "$1" = -l ] && shift 2\nshift\nexec /bin/sh -c "$*"\n')
    ssh.chmod(0o755)

    def as_user(user: int, function: Callable[[Repository], int]) -> str:
        """Call a function in a process of this user; return what it printed."""
        with tempfile.TemporaryFile("w+") as out:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.setgroups([])
                    os.setgid(group)
                    os.setuid(user)
                    os.umask(0o002)
                    path = os.environ["PATH"]
                    os.environ.clear()
                    os.environ.update(PATH=path, HOME=str(homes[user]), RSYNC_RSH=str(ssh))
                    sys.stdout = sys.stderr = out
                    code = function(replace(repository, gpg_home=homes[user] / ".gnupg"))
                except BaseException:  # noqa: BLE001 - the test shows it
                    traceback.print_exc()
                finally:
                    out.flush()
                    os._exit(code)
            status = os.waitpid(child, 0)[1]
            out.seek(0)
            printed = out.read()
        assert status == 0, printed
        return printed

    def publish(user: int) -> None:
        as_user(user, lambda one: bool(one.publish().refused))

    def type_(user: int, *words: str) -> str:
        return as_user(user, lambda one: run([*words], one.services()))

    def upload_pages(user: int) -> None:
        type_(user, "catalogue", str(repository.images), web)
        type_(user, "upload", web, f"localhost:{there}")

    def killed(user: int) -> None:
        def publish_half(one: Repository) -> int:
            with open_session(one.web, lock=PUBLISH_LOCK_NAME) as session:
                (session.folder / "a.img.part").write_text("half")
                os._exit(0)

        as_user(user, publish_half)
        assert list(repository.web.glob(".pybuilder-publish.*"))

    web, key = str(repository.web), repository.key
    try:
        repository.add("a.img", b"a").chmod(0o664)
        repository.add("b.img", b"b").chmod(0o664)
        publish(60001)
        packed = {path.name: path.stat().st_mtime_ns for path in repository.web.glob("*.xz")}
        upload_pages(60001)
        killed(60001)
        publish(60002)  # nothing is packed again
        assert not list(repository.web.glob(".pybuilder-publish.*")), "and what a colleague left is removed"
        assert {path.name: path.stat().st_mtime_ns for path in repository.web.glob("*.xz")} == packed
        type_(60002, "hide", web, "a", "-K", key)
        repository.add("b.img", b"new").chmod(0o664)
        publish(60002)
        upload_pages(60002)
        page = "catalogue/catalogue.json"
        assert (there / page).read_bytes() == (repository.web / page).read_bytes()
        type_(60001, "rollback", web, "b", "-K", key)
        type_(60002, "protect", web, "b")
        type_(60001, "withdraw", web, "a", "-K", key)
        type_(60002, "withdraw", web, "a", "--undo", "-K", key)
        type_(60001, "refresh", web, "-K", key)
        type_(60002, "prune", web)
        upload_pages(60001)
        assert "all is well" in type_(60002, "status", web)
        signers = re.findall(r"by (\w+)@", type_(60001, "history", web))
        assert signers == ["60001", "60002", "60002", "60001", "60001", "60002", "60001"]
        assert [repository.entry(name).revision for name in ("b", "a")] == [3, 1]
    finally:
        for guard in guards:
            guard.release()
        shutil.rmtree(base)
