"""Reviewers' approvals: what is signed, whom ``publish`` believes, and what ends an approval."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.errors import BadSignatureError, PybuilderError, RepositoryError, TrustError, UsageError
from imgbuilder.events import Reporter, ignore
from imgrepo.cli.main import run
from imgrepo.images.compress import hash_image
from imgrepo.images.scan import SourceImage
from imgrepo.library import records
from imgrepo.library.approval import (
    Approval,
    Manifest,
    approval_of,
    approve,
    check_note,
    difference,
    read_manifest,
    read_reviewers,
    write_manifest,
)
from imgrepo.library.folder import EntryFolder, find_images
from imgrepo.publishing.publish import PublishResult
from imgrepo.publishing.request import PublishRequest
from imgrepo.review.results import Requirement
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.library.entries import TEXT, add, boot, reasons
from tests.unit.imgrepo.repository import Repository, image

DIGESTS = st.text("0123456789abcdef", min_size=128, max_size=128)
PATHS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}(/[A-Za-z0-9][A-Za-z0-9._-]{0,20})?", fullmatch=True)
FIRST = "# approved entry of a library, version 1"
ONE, TWO = "1" * 128, "2" * 128


@pytest.fixture(scope="module")
def reviewer(keys: KeyMaker) -> str:
    return keys.make("Reviewer <reviewer@example.org>")


@pytest.fixture
def reviewers(keys: KeyMaker, reviewer: str, tmp_path: Path) -> Path:
    file = tmp_path / "reviewers.asc"
    file.write_bytes(keys.export(reviewer, armor=True))
    return file


def sign(repository: Repository, folder: EntryFolder, key: str, note: str = "") -> Manifest:
    return approve(folder, repository.signing(key), note, repository.services(), ignore)


def found(repository: Repository, folder: EntryFolder, reviewers: Path, **more: bool) -> Approval:
    return approval_of(folder, read_reviewers(reviewers, repository.services()), ignore, **more)  # type: ignore[arg-type]


def publish(repository: Repository, reviewers: Path) -> PublishResult:
    return repository.publish(require=(Requirement.SIGNED,), reviewers=reviewers)


class TestManifest:
    @given(st.dictionaries(PATHS, DIGESTS, min_size=1), st.text(max_size=250))
    def test_what_is_written_is_read(self, files: dict[str, str], note: str) -> None:
        try:
            note = check_note(note)
        except UsageError:
            return
        manifest = Manifest("demo", files, note)
        assert read_manifest(write_manifest(manifest), where="x") == manifest

    @given(
        st.lists(st.sampled_from([FIRST, "# entry: a", "# note: b", f"{ONE}  a", ""]) | st.text(max_size=20))
    )
    def test_hostile_text_raises_our_error_only(self, lines: list[str]) -> None:
        try:
            manifest = read_manifest("\n".join(lines), where="x")
        except RepositoryError:
            return
        assert "\n".join(lines).removesuffix("\n") == write_manifest(manifest).removesuffix("\n")

    @pytest.mark.parametrize(
        "path", ["a b", "../x", "/etc/passwd", "a/b/c", "-x", ".x", "a\nb", "", "sources/"]
    )
    def test_paths_that_cannot_be_approved(self, path: str) -> None:
        with pytest.raises(UsageError, match="has a name that cannot be approved"):
            write_manifest(Manifest("demo", {path: ONE}))
        with pytest.raises(RepositoryError):
            read_manifest(f"{FIRST}\n# entry: demo\n{ONE}  {path}\n", where="x")

    @pytest.mark.parametrize("note", ["two\nlines", "\x1b[2J", "x" * 201, "\u202eturned"])
    def test_notes_that_are_refused(self, note: str) -> None:
        with pytest.raises(UsageError, match="one line"):
            check_note(note)

    @pytest.mark.parametrize(
        ("name", "files", "printed"),
        [
            ("demo", {"a": ONE, "b": ONE}, None),
            ("other", {"a": ONE, "b": ONE}, "it is of a different entry, demo"),
            ("demo", {"a": TWO, "b": ONE}, "a differs from the approved one"),
            ("demo", {"a": ONE}, "b is gone since"),
            ("demo", {"a": ONE, "b": ONE, "c": ONE}, "c was added since"),
            ("demo", {"b": TWO, "c": ONE},
             "b differs from the approved one; c was added since; a is gone since"),
        ],
    )  # fmt: skip
    def test_differences(self, name: str, files: dict[str, str], printed: str | None) -> None:
        assert difference(Manifest("demo", {"a": ONE, "b": ONE}), name, files) == printed


class TestApproval:
    def test_it_names_reviewer_and_files(
        self, repository: Repository, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        image(folder.screenshot, size=5000)
        sign(repository, folder, reviewer, "booted it")
        approval = found(repository, folder, reviewers)
        assert approval.fingerprint == reviewer
        assert approval.note == "booted it"
        assert folder.approval.stat().st_mode & 0o777 == 0o644
        assert not [name for name in folder.path.iterdir() if name.name.startswith(".")]

    def test_sha512sum_can_check_it(self, repository: Repository, reviewer: str, keys: KeyMaker) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer, "by hand")
        text = keys.gpg("--decrypt", str(folder.approval))
        check = ["sha512sum", "--check", "--strict", "-"]
        done = subprocess.run(check, input=text, cwd=folder.path, capture_output=True, check=True)
        assert done.stdout == b"demo.img: OK\nentry.toml: OK\n"

    def test_sources_are_part_of_it(self, repository: Repository, reviewer: str, reviewers: Path) -> None:
        folder = add(repository)
        mark = records.ImageMark.of(folder.image(), ignore)
        folder.sources.mkdir()
        records.SOURCES_FILE.write(folder.sources, records.SourcesRecord(mark, "s.tar", ONE, 7, ()))
        assert sign(repository, folder, reviewer).files["sources/s.tar"] == ONE
        records.SOURCES_FILE.write(folder.sources, records.SourcesRecord(mark, "s.tar", TWO, 7, ()))
        with pytest.raises(RepositoryError, match=r"sources/s\.tar differs from the approved one"):
            found(repository, folder, reviewers)

    def test_the_boot_check_may_run_again(
        self, repository: Repository, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        boot(folder)
        found(repository, folder, reviewers)

    @pytest.mark.parametrize("what", ["image", "description", "screenshot", "entry", "text"])
    def test_changes_end_it(self, repository: Repository, reviewer: str, reviewers: Path, what: str) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        if what == "image":
            image(folder.image().path, b"y")
        elif what == "description":
            folder.description.write_text(f"{TEXT}# more\n")
        elif what == "screenshot":
            folder.screenshot.write_bytes(b"x")
        elif what == "entry":
            other = add(repository, "other")
            shutil.copy(folder.approval, other.approval)
            folder = other
        else:
            text = folder.approval.read_text()
            folder.approval.write_text(text.replace("entry: demo", "entry: dema"))
        kind = BadSignatureError if what == "text" else RepositoryError
        with pytest.raises(kind) as error:
            found(repository, folder, reviewers)
        assert f"pybuilder-repo entry sign {folder.name}" in str(error.value.hint)

    def test_only_reviewers_count(
        self, repository: Repository, keys: KeyMaker, reviewers: Path, tmp_path: Path
    ) -> None:
        folder = add(repository)
        with pytest.raises(RepositoryError, match="demo is not approved"):
            found(repository, folder, reviewers)
        sign(repository, folder, repository.key)
        with pytest.raises(TrustError):
            found(repository, folder, reviewers)
        gone = keys.make("Former <former@example.org>")
        sign(repository, folder, gone)
        keys.revoke(gone)
        file = tmp_path / "former.asc"
        file.write_bytes(keys.export(gone))
        with pytest.raises(TrustError, match="revoked"):
            found(repository, folder, file)

    def test_a_contributors_records_are_not_trusted(
        self, repository: Repository, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        boot(folder)
        sign(repository, folder, reviewer)
        good = records.BOOT_FILE.read(folder.boot)
        assert good is not None
        image(folder.image().path, b"y")
        forged = records.ImageMark(good.image.sha512, folder.image().fingerprint)
        records.BOOT_FILE.write(folder.boot, records.BootRecord(
            forged, good.verdict, "", good.qemu, good.accelerator, good.started, 1.0
        ))  # fmt: skip
        found(repository, folder, reviewers, from_records=True)
        with pytest.raises(RepositoryError, match=r"demo\.img differs from the approved one"):
            found(repository, folder, reviewers)

    def test_what_cannot_be_signed(self, repository: Repository, reviewer: str, tmp_path: Path) -> None:
        folder = add(repository, text="titel = 1\n")
        with pytest.raises(RepositoryError, match="unknown key"):
            sign(repository, folder, reviewer)
        folder.description.write_text(TEXT)
        folder.screenshot.symlink_to(tmp_path)
        with pytest.raises(RepositoryError, match="not a regular file"):
            sign(repository, folder, reviewer)
        assert not folder.approval.exists()

    def test_files_that_are_no_approval(
        self, repository: Repository, keys: KeyMaker, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        for data in (
            b"",
            b"x\n",
            b"\xff" * 70_000,
            keys.sign("[demo]\n", reviewer),
            keys.sign("\n", reviewer),
        ):
            folder.approval.write_bytes(data)
            with pytest.raises(PybuilderError, match=r"approval\.asc"):
                found(repository, folder, reviewers)

    def test_pipes_are_not_waited_for(self, repository: Repository, reviewer: str, reviewers: Path) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        folder.boot.mkdir()
        os.mkfifo(folder.boot / "boot.json")
        with pytest.raises(RepositoryError, match="not an ordinary file"):
            records.BOOT_FILE.read(folder.boot)
        folder.approval.unlink()
        os.mkfifo(folder.approval)
        with pytest.raises(PybuilderError, match=r"approval\.asc"):
            found(repository, folder, reviewers)


class TestPublish:
    def test_only_what_is_approved(self, repository: Repository, reviewer: str, reviewers: Path) -> None:
        add(repository)
        sign(repository, add(repository, "good", fill=b"g"), reviewer)
        repository.add("loose.img")
        result = publish(repository, reviewers)
        assert repository.names() == ["good"]
        assert "demo is not approved (let a reviewer look at it" in reasons(result)
        assert "loose.img is not known to be signed" in reasons(result)
        sign(repository, EntryFolder(repository.images / "demo"), reviewer)
        assert publish(repository, reviewers).changed == ("demo",)

    def test_an_unapproved_description_is_not_published(
        self, repository: Repository, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        publish(repository, reviewers)
        folder.description.write_text('title = "Buy this"\n')
        result = publish(repository, reviewers)
        assert repository.entry("demo").name == "A demo"
        assert "entry.toml differs from the approved one" in reasons(result)

    def test_a_description_that_is_exchanged_after_it_was_read(
        self, repository: Repository, reviewer: str, reviewers: Path
    ) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        folder.description.write_text('title = "Buy this"\n')
        entry = find_images(repository.images).entries["demo.img"]
        folder.description.write_text(TEXT)
        judges = read_reviewers(reviewers, repository.services())
        with pytest.raises(RepositoryError, match=r"entry\.toml differs from the approved one"):
            approval_of(folder, judges, ignore, metadata_digest=entry.metadata_digest)

    def test_an_image_is_read_once_for_its_approval(
        self, repository: Repository, reviewer: str, reviewers: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = add(repository)
        sign(repository, folder, reviewer)
        publish(repository, reviewers)
        image(folder.image().path, b"z")
        folder.description.write_text('title = "New"\n')
        sign(repository, folder, reviewer)
        hashed: list[str] = []

        def spy(read: SourceImage, on_event: Reporter) -> str:
            hashed.append(read.name)
            return hash_image(read, on_event)

        monkeypatch.setattr("imgrepo.library.approval.hash_image", spy)
        publish(repository, reviewers)
        assert repository.entry("demo").name == "New"
        assert hashed == ["demo.img"]

    def test_reviewers_must_be_known(self, repository: Repository, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no reviewers given"):
            PublishRequest(
                repository.images, repository.web, repository.signing(), require=(Requirement.SIGNED,)
            )
        add(repository)
        with pytest.raises(UsageError, match="reviewers"):
            publish(repository, tmp_path / "none.asc")


class TestCommand:
    def test_a_reviewer_sees_the_files_and_what_is_missing(
        self, repository: Repository, reviewer: str, reviewers: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = add(repository)
        library = ["--library", str(repository.images)]
        command = ["entry", "sign", "demo", *library, "-K", reviewer, "--note", "looked at it"]
        assert run(command, repository.services()) == 0
        said = capsys.readouterr()
        assert "demo was not booted" in said.err
        digest = found(repository, folder, reviewers)
        assert digest.note == "looked at it"
        assert "...  demo.img\n" in said.out
        assert "...  entry.toml\n" in said.out
        boot(folder)
        assert run(command, repository.services()) == 0
        assert "booted" not in capsys.readouterr().err
        publishing = ["publish", str(repository.images), "-o", str(repository.web), "-K", repository.key]
        publishing += ["--require", "signed", "--require", "booted", "--xz-preset", "0"]
        assert run(publishing, repository.services()) == 2
        assert "--reviewers FILE" in capsys.readouterr().err
        assert run([*publishing, "--reviewers", str(reviewers)], repository.services()) == 0
        assert repository.names() == ["demo"]

    def test_the_list_shows_it(
        self, repository: Repository, reviewer: str, reviewers: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = add(repository)
        command = ["entry", "list", "--library", str(repository.images), "--long"]
        assert run([*command, "--require", "signed"], repository.services()) == 2
        assert "--reviewers FILE" in capsys.readouterr().err
        command += ["--reviewers", str(reviewers)]
        assert run(command, repository.services()) == 0
        assert "demo is not approved" in capsys.readouterr().out
        sign(repository, folder, reviewer)
        assert run(command, repository.services()) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("demo  signed  -  A demo\n")
        assert "approved" not in printed
        folder.description.write_text(f"{TEXT}# more\n")
        assert run(command, repository.services()) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("demo  draft")
        assert "entry.toml differs from the approved one" in printed

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            (["none", "-K", "KEY"], "the entry none does not exist"),
            (["demo"], "--gpg-key"),
            (["demo", "-K", "no-such-key@example.org"], "no secret key for"),
            (["demo", "-K", "KEY", "--note", "a\nb"], "not one line"),
            (["../demo", "-K", "KEY"], "the entry ../demo does not exist"),
        ],
    )
    def test_wrong_arguments(
        self, repository: Repository, reviewer: str, capsys: pytest.CaptureFixture[str], command: list[str],
        message: str,
    ) -> None:  # fmt: skip
        folder = add(repository)
        given = [reviewer if word == "KEY" else word for word in command]
        code = run(["entry", "sign", *given, "--library", str(repository.images)], repository.services())
        assert code in {1, 2, 5, 6}
        printed = capsys.readouterr().err
        assert message in printed
        assert "secret key" not in message or "warning" not in printed, "the key is checked first"
        assert not folder.approval.exists()
