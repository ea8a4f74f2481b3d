"""Publishing, seen from outside: what a client reads, and what a second run does."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from imgbuilder.errors import (
    ApplianceError,
    RepositoryError,
    SigningError,
    ToolError,
    TrustError,
    UsageError,
    WorkspaceError,
)
from imgbuilder.events import Severity, ignore
from imgbuilder.host import process
from imgindex.gpg import GpgVerifier
from imgindex.model import ExtraField, Index, Note
from imgindex.signer import GpgSigner
from imgrepo.images.compress import Compressed, compress
from imgrepo.images.scan import SourceImage
from imgrepo.publishing import pack as pack_module
from imgrepo.publishing import publish as module
from imgrepo.publishing import steps
from imgrepo.publishing.request import PublishRequest
from imgrepo.publishing.status import status_of
from imgrepo.webroot import edit
from imgrepo.webroot.state import PACKED_NAME, packed_files
from imgrepo.webroot.transaction import LOCK_NAME, open_session
from tests.fakes.appliance import FakeDisk
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.repository import Repository, debian, image


def test_a_first_run_publishes_all_that_a_client_needs(repository: Repository) -> None:
    source = repository.add("debian-12.img")
    result = repository.publish()
    entry = repository.entry("debian-12")
    assert result.changed == ("debian-12",)
    assert entry.name == "Debian GNU/Linux 12 (bookworm)"
    assert (entry.osinfo, entry.arch, entry.format) == ("debian12", "x86_64", "raw")
    assert (entry.revision, entry.size) == (1, source.stat().st_size)
    assert entry.sha512 is not None
    assert entry.file == f"debian-12-{entry.sha512[:16]}.xz"
    assert repository.unpack(entry) == source.read_bytes()
    assert (repository.web / "index").read_text().startswith("[debian-12]\n")
    assert b"BEGIN PGP PUBLIC KEY" in (repository.web / "index.gpg").read_bytes()


def test_all_new_images_are_looked_at_in_one_launch_and_never_written_to(repository: Repository) -> None:
    for name in ("a.img", "b.raw", "c.img"):
        repository.add(name, name.encode())
    repository.publish()
    (launch,) = repository.appliances.launches
    assert [disk.path.name for disk in launch] == ["a.img", "b.raw", "c.img"]
    assert all(disk.format == "raw" and disk.path.parent != repository.images for disk in launch)
    assert repository.names() == ["a", "b", "c"]


def test_results_go_beside_the_images_without_an_output(repository: Repository) -> None:
    repository.add("debian-12.img")
    repository.publish(output=repository.images)
    assert (repository.images / "index.asc").exists()
    assert (repository.images / "debian-12.img").exists()


@pytest.mark.row("R7")
def test_a_second_run_changes_no_byte_and_starts_nothing(published: Repository) -> None:
    before = published.snapshot()
    result = published.publish()
    assert published.snapshot() == before
    assert result.changed == ()
    assert len(published.appliances.launches) == 1


@pytest.mark.row("R7")
def test_a_touched_image_is_not_compressed_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repository.add("debian-12.img")
    repository.publish()
    before = repository.snapshot()
    os.utime(source, ns=(1, 1))
    monkeypatch.setattr(pack_module, "compress", None)
    repository.publish()
    assert repository.snapshot() == before
    monkeypatch.setattr(steps, "hash_image", None)  # and it is not even read the next time
    repository.publish()


@pytest.mark.row("R7")
def test_an_image_published_from_elsewhere_is_recognised(published: Repository, tmp_path: Path) -> None:
    before, launches = published.snapshot(), len(published.appliances.launches)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(published.images, elsewhere)
    published.publish(folder=elsewhere)
    assert published.snapshot() == before
    assert len(published.appliances.launches) == launches
    image(elsewhere / "a.img", b"new")
    published.publish(folder=elsewhere)
    assert published.entry("a").revision == 2


@pytest.mark.parametrize("ways", [{}, {"zstd_level": 1}, {"trim": False}, {"compress": False}])
def test_what_was_packed_is_never_packed_again(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, ways: dict[str, Any]
) -> None:
    for name in "abc":
        repository.add(f"{name}.img", name.encode())
    packed, limit = list[str](), 2

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(image: SourceImage, *arguments: Any, **options: Any) -> object:
            if len(packed) == limit:
                raise KeyboardInterrupt
            packed.append(image.name)
            result: object = real(image, *arguments, **options)
            return result

        return counted

    for name in ("compress", "compress_blocks"):
        monkeypatch.setattr(pack_module, name, counting(getattr(pack_module, name)))
    with pytest.raises(KeyboardInterrupt):
        repository.publish(**ways)
    assert repository.served() is None
    limit = 99
    repository.publish(**ways)
    assert len(packed) == (6 if "zstd_level" in ways else 3)
    assert repository.names() == ["a", "b", "c"]
    repository.publish(**{**ways, "zstd_level": 2})  # the first files stay as they are
    assert len(packed) == 6


def test_the_record_of_packed_files_grows_by_a_line_for_each(published: Repository) -> None:
    record, before = published.web / PACKED_NAME, published.base / "before"
    before.hardlink_to(record)
    first = before.read_bytes()
    with record.open("ab") as file:
        file.write(b'\n{"version": 1, "fi')  # of a publisher that was killed
    published.add("b.img", b"b")
    published.publish()
    assert before.read_bytes().startswith(first + b'\n{"version": 1, "fi\n{'), "only added to"
    assert set(packed_files(published.web)) == {published.entry(name).file for name in "ab"}
    assert len(record.read_bytes().splitlines()) == 2, "and tidied at the end"
    (published.images / "a.img").unlink()
    published.publish(prune=True, grace=timedelta(0))
    published.publish()
    assert set(packed_files(published.web)) == {published.entry("b").file}


def test_a_bad_entry_next_to_an_image_refuses_only_this_one(published: Repository) -> None:
    published.add("b.img", b"b")
    published.add("c.img", b"c")
    published.add("d.img", b"d")
    (published.images / "a.entry").write_text("notes=forgot the section")
    (published.images / "b.entry").write_text(
        f"[b]\nfile=b.img\nnotes={'x' * 8000}\n" + f" {'x' * 8000}\n" * 3
    )
    (published.images / "c.entry").write_text("[c]\nfile=other.img\n")
    result = published.publish()
    assert set(result.refused) == {"a.img", "b.img", "c.img"}
    assert "longer than 20000 characters" in result.refused["b.img"].message
    assert published.names() == ["a", "d"]
    status = status_of(
        published.web, published.services(), ignore, images=published.images, within=timedelta()
    )
    assert len([change for change in status.changes if "cannot be published" in change]) == 3


@pytest.mark.parametrize(("program", "ways"), [("xz", {}), ("zstd", {"zstd_level": 1})])
def test_a_program_that_is_missing_is_named_before_any_work(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, program: str, ways: dict[str, Any]
) -> None:
    real = process.find_program
    monkeypatch.setattr(process, "find_program", lambda name: None if name == program else real(name))
    repository.add("a.img")
    with pytest.raises(ToolError, match=program):
        repository.publish(**ways)
    assert repository.appliances.launches == []


def test_without_its_memory_the_same_image_keeps_its_revision(published: Repository) -> None:
    before = published.snapshot()
    published.forget()
    published.publish()
    assert published.snapshot() == before


@pytest.mark.row("R8")
def test_a_changed_image_raises_its_revision_and_keeps_what_people_wrote(repository: Repository) -> None:
    repository.add("debian-12.img")
    repository.add("debian-13.img", b"y")
    repository.publish()
    first, second = repository.read().entries
    written = dataclasses.replace(
        first,
        os_version="bookworm",
        name="Our Debian",
        notes=(Note("", "Root has no password.\n\n- ask us  twice"), Note("de", "Kein Passwort.")),
        aliases=("stable", "debian"),
        hidden=True,
        extra=(ExtraField("owner", None, "cloud team"), ExtraField("x", "y", "z")),
    )
    repository.rewrite(Index((written, second)))
    repository.add("debian-12.img", b"new")
    result = repository.publish()
    new, other = repository.read().entries
    assert result.changed == ("bookworm",)
    assert other == second
    assert new.revision == 2
    assert new.file != first.file
    kept = ("os_version", "name", "notes", "aliases", "hidden", "extra", "osinfo", "arch")
    assert [getattr(new, key) for key in kept] == [getattr(written, key) for key in kept]


@pytest.mark.row("S34")
def test_two_indexes_never_bear_the_same_second(repository: Repository) -> None:
    times = []
    for fill in (b"1", b"2", b"3"):
        repository.add("a.img", fill)
        repository.publish()
        data = (repository.web / "index.asc").read_bytes()
        times.append(GpgVerifier().verify(data, repository.pin, where="web").signed_at)
    assert len(set(times)) == 3


@pytest.mark.row("R9")
def test_the_old_file_stays_for_clients_with_the_old_index(published: Repository) -> None:
    old = published.entry("a")
    published.add("a.img", b"new")
    published.publish()
    assert (published.web / old.file).is_file()
    assert published.entry("a").file != old.file


def test_an_entry_written_by_hand_for_virt_builder_is_taken_over(repository: Repository) -> None:
    source = repository.add("debian-12.img")
    packed = repository.web / "debian-12.img.xz"
    packed.write_bytes(subprocess.run(["xz", "-c", "-0", source], capture_output=True, check=True).stdout)
    repository.publish()
    entry = repository.entry("debian-12")
    by_hand = dataclasses.replace(
        entry, os_version="mine", file=packed.name, compressed_size=packed.stat().st_size, revision=7,
        sha512=subprocess.run(["sha512sum", packed], capture_output=True, check=True).stdout.decode()[:128],
    )  # fmt: skip
    repository.rewrite(Index((by_hand,)))
    repository.forget()
    repository.publish()
    (entry,) = repository.read().entries
    assert (entry.os_version, entry.revision) == ("mine", 8)


def test_a_template_without_its_image_stays_and_without_its_file_is_dropped(repository: Repository) -> None:
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()
    (repository.images / "a.img").unlink()
    repository.publish()
    assert repository.names() == ["a", "b"]
    (repository.web / repository.entry("a").file).unlink()
    repository.publish()
    assert repository.names() == ["b"]
    assert "a is dropped" in repository.notices(Severity.WARNING)


def test_a_published_file_that_is_gone_is_made_again(published: Repository) -> None:
    old = published.entry("a")
    (published.web / old.file).unlink()
    published.publish()
    assert published.entry("a") == old


@pytest.mark.row("R2")
def test_a_second_publisher_is_refused(repository: Repository) -> None:
    repository.add("debian-12.img")
    refused = []

    def meanwhile(_appliance: object) -> None:
        with pytest.raises(WorkspaceError, match="another publisher") as error:
            repository.publish()
        refused.append(error)

    repository.appliances._prepare = meanwhile
    repository.publish()
    assert len(refused) == 1
    assert len(repository.read().entries) == 1
    assert not (repository.web / LOCK_NAME).exists()


@pytest.mark.row("R2")
def test_a_lock_that_its_publisher_removed_locks_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other publisher ends between our opening of the lock file and our locking of it."""
    flock = fcntl.flock

    def late(lock: int, how: int) -> None:
        (repository.web / LOCK_NAME).unlink()
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(WorkspaceError, match="another publisher"), open_session(repository.web):
        pass


@pytest.mark.row("R2")
def test_the_index_may_be_changed_while_images_are_packed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An urgent withdrawal must not wait for hours, and is not lost."""
    for name in "abc":
        repository.add(f"{name}.img", name.encode())
    repository.publish()
    repository.add("a.img", b"new a")
    repository.add("b.img", b"new b")
    repository.add("d.img", b"d")
    real, packed, launches = compress, list[str](), len(repository.appliances.launches)

    def withdraw_meanwhile(image: SourceImage, *arguments: Any, **options: Any) -> Compressed:
        if not packed:
            services, signing = repository.services(), repository.signing()
            edit.withdraw(repository.web, signing, services, ["b", "c"], None, ignore)
            change = partial(edit.add_aliases, name="a", arch=None, aliases=["stable"])
            edit.edit(repository.web, signing, services, change, ignore)
            with pytest.raises(WorkspaceError, match="another publisher"):
                repository.publish()
        packed.append(image.name)
        return real(image, *arguments, **options)

    monkeypatch.setattr(pack_module, "compress", withdraw_meanwhile)
    repository.publish()
    assert packed == ["a.img", "b.img", "d.img"]
    assert len(repository.appliances.launches) == launches + 1
    assert repository.names() == ["a", "d"]
    assert (repository.entry("a").revision, repository.entry("a").aliases) == (2, ("stable",))
    repository.publish()
    assert repository.names() == ["a", "d"]


@pytest.mark.row("R3")
@pytest.mark.parametrize("key", ["unknown@example.org", "-x", ""])
def test_a_key_that_cannot_sign_is_refused_before_compressing(repository: Repository, key: str) -> None:
    repository.add("debian-12.img")
    with pytest.raises(SigningError):
        repository.publish(signing=repository.signing(key))
    assert repository.appliances.launches == []
    assert list(repository.web.iterdir()) == []


@pytest.mark.row("R3", "R4")
def test_a_locked_key_is_refused_before_compressing(
    repository: Repository, keys: KeyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.add("debian-12.img")
    locked = keys.make("Locked <locked@example.org>", options=("--passphrase", "secret"))
    subprocess.run(["gpgconf", "--homedir", str(keys.home), "--kill", "gpg-agent"], check=True)
    with pytest.raises(SigningError):
        repository.publish(signing=repository.signing(locked))
    assert repository.appliances.launches == []


@pytest.mark.row("R12")
def test_no_space_for_one_image_costs_only_that_one(published: Repository) -> None:
    published.add("b.img", b"b")
    published.add("c.img", b"c")
    full = Path("/dev/full")
    real = Path.open

    def opened(path: Path, *arguments: object, **keywords: object) -> object:
        if path.name == "b.img.part":
            return full.open("wb", buffering=0)
        return real(path, *arguments, **keywords)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", opened)
        result = published.publish()
    assert "No space left" in result.refused["b.img"].message
    assert published.names() == ["a", "c"]
    assert [path for path in published.web.iterdir() if path.is_dir()] == []


@pytest.mark.row("R16")
def test_two_images_for_one_template_are_refused(published: Repository) -> None:
    before = published.snapshot()
    published.add("a.raw", b"y")
    for _again in range(2):
        with pytest.raises(RepositoryError, match=r"a\.img and a\.raw"):
            published.publish()
    assert published.snapshot() == before


@pytest.mark.row("R17")
@pytest.mark.parametrize("how", ["by a foreign key", "altered"])
def test_an_index_that_is_not_ours_is_not_built_on(published: Repository, keys: KeyMaker, how: str) -> None:
    path, text = published.web / "index.asc", (published.web / "index").read_bytes()
    if how == "altered":
        path.write_bytes(path.read_bytes().replace(b"revision=1", b"revision=2"))
    else:
        path.write_bytes(keys.sign(text, keys.make("Stranger <stranger@example.org>")))
    before = published.snapshot()
    published.add("a.img", b"new")
    with pytest.raises(TrustError):
        published.publish()
    assert published.snapshot() == before
    assert len(published.appliances.launches) == 1


@pytest.mark.row("R18")
def test_results_are_readable_by_the_web_server_whatever_the_umask(repository: Repository) -> None:
    repository.add("debian-12.img")
    modes: list[int] = []

    def look(_appliance: object) -> None:
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in repository.web.iterdir() if path.is_dir())

    repository.appliances._prepare = look
    before = os.umask(0o077)
    try:
        repository.publish()
    finally:
        os.umask(before)
    served = [path for path in repository.web.iterdir() if not path.name.startswith(".")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in served} == {0o644}
    assert len(served) == 4
    assert modes == [0o700]


@pytest.mark.row("R19")
def test_a_clock_that_was_set_back_is_refused(published: Repository, keys: KeyMaker) -> None:
    later = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() + 7200))
    text = (published.web / "index").read_bytes()
    (published.web / "index.asc").write_bytes(keys.sign(text, published.key, at=later))
    before = published.snapshot()
    published.add("a.img", b"new")
    with pytest.raises((SigningError, TrustError)):
        published.publish()
    after = published.snapshot()
    assert {name: after[name] for name in before} == before


@pytest.mark.row("R5")
@pytest.mark.parametrize(
    "damage", [("size=1048576", "size=1049088"), ("-----BEGIN PGP SIGNED", "x\n-----BEGIN PGP SIGNED")]
)
def test_what_clients_would_read_otherwise_or_not_at_all_is_not_published(
    repository: Repository, damage: tuple[str, str]
) -> None:
    class Careless(GpgSigner):
        """Signs another text, or damages what it signed."""

        def clearsign(self, text: str, key: str, also: Sequence[str] = ()) -> bytes:
            signed = super().clearsign(text.replace(*damage), key, also)
            return signed.replace(damage[0].encode(), damage[1].encode())

    repository.add("a.img")
    careless = Careless(repository.gpg_home, ask=False)
    services = dataclasses.replace(repository.services(), make_keys=lambda _signing: careless)
    request = PublishRequest(repository.images, repository.web, repository.signing(), preset="0")
    with pytest.raises(SigningError, match="clients would"):
        module.publish(request, services, repository.events.append)
    assert not (repository.web / "index.asc").exists()


@pytest.mark.row("T24")
def test_one_bad_image_does_not_keep_the_others(repository: Repository) -> None:
    repository.add("empty.img", b"e", FakeDisk())
    (repository.images / "lie.qcow2").write_bytes(b"x" * 4096)
    repository.add("good.img")
    result = repository.publish()
    assert repository.names() == ["good"]
    assert sorted(result.refused) == ["empty.img", "lie.qcow2"]


@pytest.mark.row("T24")
def test_a_bad_new_version_leaves_the_old_template(published: Repository) -> None:
    old = published.read()
    published.add("a.img", b"broken", FakeDisk())
    result = published.publish()
    assert "a.img" in result.refused
    assert published.read() == old
    published.add("a.img", b"fixed")
    published.publish()
    assert published.entry("a").revision == 2


@pytest.mark.row("R6")
def test_an_image_that_changes_meanwhile_is_refused(repository: Repository) -> None:
    source = repository.add("a.img")
    repository.add("b.img", b"b")

    def write(_appliance: object) -> None:
        with source.open("r+b") as file:
            file.write(b"changed")

    repository.appliances._prepare = write
    result = repository.publish()
    assert list(result.refused) == ["a.img"]
    assert repository.names() == ["b"]


@pytest.mark.row("R15")
def test_a_hostile_name_stays_on_its_line(repository: Repository) -> None:
    hostile = 'PRETTY_NAME="a\x1b[31m\x00b\u2028[evil]  c ' + "d" * 500 + '"\nID=debian\nVERSION_ID="12"\n'
    repository.add("a.img", disk=debian(release=hostile))
    repository.publish()
    (entry,) = repository.read().entries
    assert entry.name is not None
    assert entry.name.startswith("a [31m b [evil] c ddd")
    assert len(entry.name) <= 100


def test_nothing_to_publish_is_an_error_and_signs_nothing(repository: Repository) -> None:
    with pytest.raises(UsageError, match="no images"):
        repository.publish()
    repository.add("empty.img", b"e", FakeDisk())
    with pytest.raises(RepositoryError, match="no image can be published"):
        repository.publish()
    assert not (repository.web / "index.asc").exists()


def test_an_appliance_that_does_not_start_leaves_nothing(repository: Repository) -> None:
    repository.add("a.img")

    def fails(_appliance: object) -> None:
        raise ApplianceError("no")

    repository.appliances._prepare = fails
    with pytest.raises(ApplianceError):
        repository.publish()
    assert list(repository.web.iterdir()) == []


def test_an_edited_but_unsigned_index_is_told_and_kept_aside(published: Repository) -> None:
    (published.web / "index").write_text("[a]\nname=Mine\n")
    published.add("a.img", b"new")
    published.publish()
    assert "only the signed one counts" in published.notices(Severity.WARNING)
    assert (published.web / "index.bak").read_text() == "[a]\nname=Mine\n"
    assert published.entry("a").name != "Mine"


def test_comments_and_unknown_fields_are_kept(published: Repository) -> None:
    text = (published.web / "index").read_text()
    text = text.replace("[a]\n", "# About a.\n[a]\n# Its home:\nhomepage=https://example.org/\n")
    text = text.replace("size=", "# In bytes,\n# not sectors.\nsize=", 1)
    text = f"# Ours.\n\n{text}# The end.\n"
    signed = published.services().make_keys(published.signing()).clearsign(text, published.key)
    (published.web / "index.asc").write_bytes(signed)
    (published.web / "index").write_text(text)
    published.add("a.img", b"new")
    published.add("b.img", b"another")
    published.publish()
    after = (published.web / "index").read_text()
    assert after.startswith("# Ours.\n\n# About a.\n[a]\n")
    assert "\n# Its home:\nhomepage=https://example.org/\n" in after
    assert "\n# In bytes,\n# not sectors.\nsize=" in after
    assert after.endswith("\n\n# The end.\n")
    assert after.index("[b]") < after.index("# The end.")
    assert published.entry("a").revision == 2
    assert not published.notices(Severity.WARNING)


def test_a_killed_publishers_stage_is_swept(repository: Repository) -> None:
    dead = repository.web / ".pybuilder-publish.dead"
    dead.mkdir(mode=0o700)
    (dead / "a.img.part").write_bytes(b"x")
    repository.add("a.img")
    repository.publish()
    assert not dead.exists()


def test_a_folder_that_is_not_there_is_refused(repository: Repository) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        PublishRequest(repository.images / "none", repository.web, repository.signing())
    with pytest.raises(UsageError, match="does not exist"):
        PublishRequest(repository.images, repository.web / "none" / "web", repository.signing())
    with pytest.raises(UsageError, match="preset"):
        PublishRequest(repository.images, repository.web, repository.signing(), preset="10")


def test_a_missing_output_folder_is_made_when_something_is_published(repository: Repository) -> None:
    new = repository.base / "new"
    repository.add("a.img")
    with pytest.raises(SigningError):
        repository.publish(output=new, signing=repository.signing("unknown@example.org"))
    assert not new.exists()
    repository.publish(output=new, dry_run=True)
    assert not new.exists()
    repository.publish(output=new)
    assert {"index.asc", "index", "index.gpg"} < {path.name for path in new.iterdir()}
