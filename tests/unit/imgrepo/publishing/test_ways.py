"""Ways to publish: other packings, free space given back, hand-written entries, ends of templates."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from imgbuilder.cache.unpack import unpack
from imgbuilder.disk.blocks import compare
from imgbuilder.errors import (
    GuestCallError,
    RepositoryError,
    SigningError,
    TrustError,
    UsageError,
)
from imgbuilder.events import Severity, ignore
from imgindex.blocklist import parse_blocklist
from imgindex.gpg import GpgVerifier, trusted_keys_from_file
from imgindex.model import Index, Note
from imgrepo.images.compress import space_needed
from imgrepo.images.facts import ImageFacts
from imgrepo.images.scan import SourceImage
from imgrepo.publishing import steps
from imgrepo.publishing.request import Question, ask_about
from imgrepo.webroot.edit import rotate
from imgrepo.webroot.entries import differences, read_draft
from imgrepo.webroot.state import read_state, remember_withdrawn
from tests.fakes.appliance import FakeAppliance, FakeDisk, FakeFilesystem
from tests.fakes.keys import KeyMaker
from tests.fakes.machine import locked
from tests.unit.imgrepo.repository import Repository, debian, partitioned


def test_a_zstd_file_holds_the_same_disk(repository: Repository) -> None:
    source = repository.add("a.img")
    repository.publish(zstd_level=1)
    entry = repository.entry("a")
    assert entry.zstd is not None
    assert entry.zstd.file == f"a-{entry.zstd.sha512[:16]}.zst"
    packed = repository.web / entry.zstd.file
    assert subprocess.run(["zstd", "-dc", packed], capture_output=True, check=True).stdout == (
        source.read_bytes()
    )
    with packed.open("rb") as file:  # and a client unpacks it
        unpack(file, repository.base / "disk", entry, where="a")
    assert (repository.base / "disk").read_bytes() == source.read_bytes()


def test_zstd_comes_later_without_a_new_revision_and_stays(published: Repository) -> None:
    first = published.entry("a")
    published.publish(zstd_level=1)
    second = published.entry("a")
    assert dataclasses.replace(second, zstd=None, blocks=None) == first
    assert second.zstd is not None
    before = published.snapshot()
    published.publish()
    assert published.snapshot() == before
    published.add("a.img", b"new")
    published.publish()
    third = published.entry("a")
    assert third.revision == 2
    assert third.zstd is not None
    assert third.zstd.file != second.zstd.file


def test_a_zstd_file_that_is_gone_is_made_again(repository: Repository) -> None:
    repository.add("a.img")
    repository.publish(zstd_level=1)
    old = repository.entry("a")
    assert old.zstd is not None
    (repository.web / old.zstd.file).unlink()
    repository.publish(zstd_level=1)
    assert repository.entry("a") == old


def test_the_blocks_of_a_zstd_file_are_listed(repository: Repository) -> None:
    source = repository.add("a.img")
    repository.publish(zstd_level=1)
    entry = repository.entry("a")
    assert entry.zstd is not None
    assert entry.blocks is not None
    assert entry.blocks.file == f"a-{entry.blocks.sha512[:16]}.blocklist"
    data = (repository.web / entry.blocks.file).read_bytes()
    blocks = parse_blocklist(data, size=entry.size, packed=entry.zstd.compressed_size, where="a")
    with source.open("rb") as file:
        missing, stray = compare(file.fileno(), blocks)
    assert (len(missing), len(stray)) == (0, 0)
    before = repository.snapshot()
    repository.publish(zstd_level=1)
    assert repository.snapshot() == before
    repository.publish(zstd_level=1, blocks=False)
    assert repository.snapshot() == before, "what is offered stays"
    (repository.web / entry.blocks.file).unlink()
    repository.publish(zstd_level=1)
    assert (repository.web / entry.blocks.file).read_bytes() == data
    assert repository.entry("a") == entry


def test_blocks_may_be_listed_later(repository: Repository) -> None:
    repository.add("a.img")
    repository.publish(zstd_level=1, blocks=False)
    first = repository.entry("a")
    assert first.zstd is not None
    assert first.blocks is None
    repository.publish(zstd_level=1)
    second = repository.entry("a")
    assert second.blocks is not None
    assert (second.file, second.revision) == (first.file, first.revision)
    repository.add("a.img", b"new")
    repository.publish()
    assert repository.entry("a").blocks not in (None, second.blocks)


def test_without_compression_the_disk_itself_is_published(repository: Repository) -> None:
    source = repository.add("a.img")
    repository.publish(compress=False)
    entry = repository.entry("a")
    assert entry.file.endswith(".img")
    published = repository.web / entry.file
    assert published.read_bytes() == source.read_bytes()
    assert entry.compressed_size == source.stat().st_size
    assert published.stat().st_blocks < source.stat().st_size // 512
    with published.open("rb") as file:
        unpack(file, repository.base / "disk", entry, where="a")
    before = repository.snapshot()
    repository.publish(compress=False)
    assert repository.snapshot() == before


def discarding(repository: Repository) -> None:
    """Make the appliance give back what the image's free blocks hold, as fstrim does."""

    def prepare(appliance: FakeAppliance) -> None:
        def trim(path: str) -> None:
            appliance.log.append(("trim", path))
            for disk in repository.appliances.launches[-1]:
                with disk.path.open("r+b") as file:
                    file.write(bytes(2048))

        appliance.trim = trim  # type: ignore[method-assign]

    repository.appliances._prepare = prepare


def test_free_space_is_given_back_on_a_copy(repository: Repository) -> None:
    source = repository.add("a.img")
    original = source.read_bytes()
    discarding(repository)
    repository.publish()
    (appliance,) = repository.appliances.appliances
    assert ("trim", "/") in appliance.log
    assert source.read_bytes() == original
    published = repository.unpack(repository.entry("a"))
    assert published == bytes(2048) + original[2048:]
    before = repository.snapshot()
    repository.publish()  # the record speaks of the image, not of the copy
    assert repository.snapshot() == before
    assert len(repository.appliances.launches) == 1
    repository.forget()
    repository.publish()  # and without it the same comes out
    assert repository.snapshot() == before


def test_without_trim_the_image_itself_is_read_and_nothing_copied(repository: Repository) -> None:
    source = repository.add("a.img")
    repository.publish(trim=False)
    (launch,) = repository.appliances.launches
    assert [(disk.path, disk.readonly) for disk in launch] == [(source, True)]
    assert not any(name == "trim" for name, _ in repository.appliances.appliances[0].log)


def test_copies_are_gone_afterwards_and_need_space(
    published: Repository, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(space.iterdir()) == []
    for name in ("a.img", "b.img", "c.img"):
        published.add(name, name.encode())
    plain = space_needed
    too_large = published.images / "b.img"

    def needed(images: Sequence[SourceImage]) -> int:
        return 1 << 60 if any(image.path == too_large for image in images) else plain(images)

    monkeypatch.setattr(steps, "space_needed", needed)
    refused = published.publish().refused
    assert list(refused) == ["b.img"]  # the others fit
    assert "not enough space" in refused["b.img"].message
    assert published.names() == ["a", "c"]
    assert list(space.iterdir()) == []


def test_images_are_copied_when_their_turn_comes(
    repository: Repository, space: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saved appliance is resumed with up to four disks, and no more copies than that lie around."""
    copies: list[int] = []
    repository.appliances._prepare = lambda _appliance: copies.append(len(list(space.rglob("*.img"))))
    for number in range(9):
        repository.add(f"{number}.img", bytes([number + 1]))
    repository.publish()
    assert [len(launch) for launch in repository.appliances.launches] == [4, 4, 1]
    assert copies == [4, 4, 1]
    assert len(repository.names()) == 9


def with_volumes(repository: Repository, *names: str) -> None:
    """Put images with a volume group into the folder; libguestfs lists volumes, but not what holds them."""
    volumes = {"/dev/vg/root": debian().filesystems[2], "/dev/vg/swap": FakeFilesystem("swap")}
    for name in names:
        disk = FakeDisk({1: FakeFilesystem("unknown"), 2: FakeFilesystem("LVM2_member")})
        repository.appliances.disks[name] = disk
        partitioned(repository.images / name)

    def prepare(appliance: FakeAppliance) -> None:
        plain = appliance._all()
        has_volumes = any(item.kind == "LVM2_member" for item in plain.values())
        everything = plain | (volumes if has_volumes else {})
        listed = {name: item.kind for name, item in everything.items() if item.kind != "LVM2_member"}
        appliance._all = lambda: everything  # type: ignore[method-assign]
        appliance.filesystems = lambda: listed  # type: ignore[method-assign]
        appliance.volume_uses = lambda volume, device: bool(volume and device)  # type: ignore[method-assign]

    repository.appliances._prepare = prepare


def test_a_root_in_a_logical_volume_takes_no_launch_more(repository: Repository) -> None:
    repository.add("plain.img")
    with_volumes(repository, "lvm.img")
    repository.publish()
    entry = repository.entry("lvm")
    assert (entry.expand, entry.lvexpand, entry.osinfo) == ("/dev/sda2", "/dev/vg/root", "debian12")
    assert len(repository.appliances.launches) == 1


def test_two_images_with_the_same_volume_group_are_told_apart(repository: Repository) -> None:
    with_volumes(repository, "one.img", "two.img")
    repository.publish()
    for name in ("one", "two"):
        assert repository.entry(name).lvexpand == "/dev/vg/root"
    assert len(repository.appliances.launches) == 3


def test_a_root_on_the_whole_disk_has_nothing_to_expand(repository: Repository) -> None:
    repository.add("a.img", disk=FakeDisk({0: debian().filesystems[2]}))
    repository.publish()
    assert (repository.entry("a").expand, repository.entry("a").osinfo) == (None, "debian12")


def test_an_image_without_a_system_needs_an_entry_that_names_the_architecture(repository: Repository) -> None:
    repository.add("data.img", disk=FakeDisk())
    with pytest.raises(RepositoryError, match="no operating system"):
        repository.publish()
    draft = repository.web / "index"
    draft.write_text("[data]\nfile=data.img\n")
    with pytest.raises(RepositoryError, match="no operating system"):
        repository.publish()
    assert draft.read_text() == "[data]\nfile=data.img\n"
    draft.write_text(
        "# Test data.\n[data]\nfile=data.img\narch=noarch\nname=Data\nnotes=Only data.\nowner=we\n"
    )
    repository.publish()
    entry = repository.entry("data")
    assert (entry.arch, entry.name, entry.revision) == ("noarch", "Data", 1)
    assert entry.notes == (Note("", "Only data."),)
    assert entry.extra[0].value == "we"
    assert "no system was found in data.img" in repository.notices()
    assert (repository.web / "index.bak").read_text().startswith("# Test data.")
    repository.add("data.img", b"new", FakeDisk())
    repository.publish()
    assert repository.entry("data").revision == 2


def test_the_shortest_entry_of_virt_builder_repository_is_enough(repository: Repository) -> None:
    repository.add("debian-12.img")
    (repository.web / "index").write_text("[bookworm]\nfile=debian-12.img\nnotes[de]=Hallo\n")
    repository.publish()
    entry = repository.entry("bookworm")
    assert (entry.arch, entry.osinfo, entry.revision) == ("x86_64", "debian12", 1)
    assert entry.notes == (Note("de", "Hallo"),)


def test_an_unsigned_repository_of_virt_builder_is_taken_over(repository: Repository) -> None:
    repository.add("a.img")
    repository.add("b.img", b"b")
    repository.publish()
    for name in ("index.asc", "index.gpg"):
        (repository.web / name).unlink()
    before = repository.entry_texts()
    (repository.images / "a.img").unlink()
    repository.publish()
    assert repository.entry_texts() == before


def test_a_digest_in_a_draft_is_not_believed(published: Repository) -> None:
    (entry,) = published.read().entries
    (published.web / "index.asc").unlink()
    with (published.web / entry.file).open("r+b") as file:
        file.write(b"changed")
    (published.images / "a.img").unlink()
    published.add("b.img")
    published.publish()
    assert published.names() == ["b"]
    assert "the template a is dropped" in published.notices()


def test_a_template_goes_a_while_after_its_image_with_prune_only(repository: Repository) -> None:
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()
    file = repository.entry("a").file
    (repository.images / "a.img").unlink()
    week = timedelta(days=7)
    repository.publish()
    assert "unless you use --prune" in repository.notices()
    repository.publish(prune=True, grace=week)
    assert "dropped by a run with --prune after" in repository.notices()
    repository.later = timedelta(days=6)
    repository.publish(prune=True, grace=week)
    assert len(repository.read().entries) == 2
    repository.later = timedelta(days=8)
    repository.publish(prune=True, grace=week)
    assert repository.names() == ["b"]
    assert (repository.web / file).exists()  # for clients that hold the old index
    assert "a.img" not in read_state(repository.web, repository.images)
    repository.later = timedelta(days=14)
    repository.publish(prune=True, grace=week)
    assert (repository.web / file).exists()
    repository.later = timedelta(days=16)
    repository.publish(prune=True, grace=week)
    assert not (repository.web / file).exists()
    repository.read()


def test_an_image_that_comes_back_in_time_is_as_if_it_had_not_been_gone(repository: Repository) -> None:
    source = repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()
    before = repository.read()
    source.rename(repository.base / "away")
    repository.publish(prune=True)
    (repository.base / "away").rename(source)
    repository.later = timedelta(days=30)
    repository.publish(prune=True)
    assert repository.read() == before
    assert read_state(repository.web, repository.images)["a.img"].gone_since is None


@pytest.mark.row("R9")
def test_prune_deletes_old_files_only_after_the_grace_time_and_nothing_else(repository: Repository) -> None:
    repository.add("a.img")
    repository.publish(zstd_level=1)
    old = repository.entry("a")
    assert old.zstd is not None
    others = ["README-of-ours.xz", "a-0123.xz", "robots.txt"]
    for name in others:
        (repository.web / name).write_text("ours")
    repository.add("a.img", b"new")
    repository.publish()
    repository.publish(prune=True)
    assert (repository.web / old.file).exists()
    repository.later = timedelta(days=7, seconds=5)
    repository.publish(prune=True)
    assert not (repository.web / old.file).exists()
    assert not (repository.web / old.zstd.file).exists()
    assert all((repository.web / name).exists() for name in others)
    repository.read()


def test_a_retired_disk_that_a_machine_uses_is_deleted_by_a_later_run(repository: Repository) -> None:
    repository.add("a.img")
    repository.publish(compress=False)
    old = repository.web / repository.entry("a").file
    repository.add("a.img", b"new")
    repository.publish(compress=False)
    repository.later = timedelta(days=7, seconds=5)
    with locked(old):
        repository.publish(compress=False, prune=True)
    assert old.exists()
    assert f"{old.name} is not deleted: {old} is used by another program" in repository.notices()
    repository.publish(compress=False, prune=True)
    assert not old.exists()
    assert f"deleted: {old.name}" in repository.notices()


@pytest.mark.row("R13")
def test_images_are_removed_only_when_wanted_and_published(repository: Repository) -> None:
    kept = repository.add("lie.img", b"x", FakeDisk())
    source = repository.add("a.img")
    order: list[bool] = []
    real = os.unlink

    def unlink(path: Path, *rest: object, **more: object) -> None:
        if str(path) == str(source):
            order.append((repository.web / "index.asc").exists())
        real(path, *rest, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        result = repository.publish(remove_images=True)
    assert "lie.img" in result.refused
    assert order == [True]
    assert kept.exists()
    assert not source.exists()
    repository.events.clear()
    repository.publish(prune=True)
    assert repository.names() == ["a"]
    assert "is gone" not in repository.notices()


@pytest.mark.row("R13")
def test_an_image_that_was_written_to_meanwhile_is_not_removed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repository.add("a.img")
    real = steps.PublishRun.new_index

    def write(run: steps.PublishRun) -> Index:
        source.write_bytes(b"new" * 512)
        return real(run)

    monkeypatch.setattr(steps.PublishRun, "new_index", write)
    repository.publish(remove_images=True)
    assert source.exists()
    assert "a.img is not removed" in repository.notices()


def test_the_image_of_a_running_machine_is_neither_published_nor_removed(repository: Repository) -> None:
    running, published = repository.add("a.img", b"a"), repository.add("b.img", b"b")
    with locked(running):
        result = repository.publish(remove_images=True)
    assert "used by another program" in result.refused["a.img"].message
    assert repository.names() == ["b"]
    assert running.exists()
    assert not published.exists()
    repository.publish()
    with locked(running):
        repository.publish(remove_images=True)
    assert running.exists()
    assert "a.img is not removed: " in repository.notices()


@pytest.mark.row("R13")
def test_only_images_whose_template_is_in_the_index_are_removed(repository: Repository) -> None:
    withdrawn, gone = repository.add("a.img", b"a"), repository.add("b.img", b"b")
    repository.add("c.img", b"c")
    repository.publish()
    remember_withdrawn(repository.web, [("a", "x86_64")])
    kept = tuple(entry for entry in repository.read().entries if entry.os_version != "a")
    repository.rewrite(Index(kept))
    gone.unlink()
    repository.publish(remove_images=True)
    assert withdrawn.exists()
    assert not (repository.images / "c.img").exists()
    assert list(read_state(repository.web, repository.images)) == ["a.img", "b.img"]  # it is still missed


def test_an_image_with_the_name_of_a_published_file_is_never_pruned(repository: Repository) -> None:
    image = repository.images / "a-0123456789abcdef.img"
    repository.add(image.name)
    source = repository.add("b.img", b"b")
    both = repository.images
    repository.publish(output=both)
    repository.later = timedelta(days=99)
    repository.add("b.img", b"new")
    for _again in range(2):
        repository.publish(output=both, prune=True, grace=timedelta())
    assert image.exists()
    assert source.exists()


def test_disks_published_as_they_are_do_not_lie_among_the_images(repository: Repository) -> None:
    repository.add("a.img")
    with pytest.raises(UsageError, match="among the images"):
        repository.publish(output=repository.images, compress=False)


def test_a_dry_run_tells_the_difference_and_changes_nothing(repository: Repository) -> None:
    repository.add("a.img", b"a")
    repository.add("b.img", b"b")
    repository.publish()
    repository.add("b.img", b"new")
    repository.add("c.img", b"c")
    before, state = repository.snapshot(), read_state(repository.web, repository.images)
    result = repository.publish(dry_run=True)
    lines = list(differences(result.before, result.index))
    assert lines[0] == "~ b (x86_64)"
    assert "    revision: '1' -> '2'" in lines
    assert "+ c (x86_64)" in lines
    assert not any(line.endswith("a (x86_64)") for line in lines)
    assert repository.snapshot() == before
    assert read_state(repository.web, repository.images) == state
    assert all(disk.readonly for disk in repository.appliances.launches[-1])


@pytest.mark.row("R7")
def test_a_signature_is_renewed_half_way_to_its_end(repository: Repository) -> None:
    def published() -> tuple[datetime, datetime | None]:
        data = (repository.web / "index.asc").read_bytes()
        signed = GpgVerifier().verify(data, repository.pin, where="web")
        return signed.signed_at, signed.expires_at

    month = repository.signing(valid_for=timedelta(days=30))
    repository.add("a.img")
    repository.publish()
    assert published()[1] is None
    repository.publish(signing=month)
    signed_at, expires_at = published()
    assert expires_at == signed_at + timedelta(days=30)
    before = repository.snapshot()
    repository.later = timedelta(days=14)
    repository.publish(signing=month)
    assert repository.snapshot() == before
    repository.later = timedelta(days=16)
    repository.publish(signing=month)
    assert published()[0] > signed_at
    assert repository.entry("a").revision == 1


def test_an_index_whose_signature_has_expired_is_still_ours(published: Repository, keys: KeyMaker) -> None:
    text = (published.web / "index").read_bytes()
    long_ago = datetime.now(UTC) - timedelta(days=400)
    key = keys.make("Old <old@example.org>", at=f"{long_ago - timedelta(days=9):%Y%m%dT%H%M%S}")
    expired = keys.gpg(
        "--local-user", key, "--default-sig-expire", "5d", "--clearsign",
        data=text, at=f"{long_ago:%Y%m%dT%H%M%S}",
    )  # fmt: skip
    (published.web / "index.asc").write_bytes(expired)
    with pytest.raises(TrustError, match="expired"):
        GpgVerifier().verify(expired, keys.pin(key), where="web")
    signing = published.signing(key, valid_for=timedelta(days=30))
    published.publish(signing=signing)
    signed = GpgVerifier().verify((published.web / "index.asc").read_bytes(), keys.pin(key), where="web")
    assert signed.text.encode() == text


@pytest.mark.row("R17")
def test_force_builds_on_an_index_of_another_key(published: Repository, keys: KeyMaker) -> None:
    published.add("a.img", b"new")
    stranger = keys.make("Other <other@example.org>")
    (published.web / "index.asc").write_bytes(keys.sign((published.web / "index").read_bytes(), stranger))
    with pytest.raises(TrustError) as error:
        published.publish()
    assert "--force" in (error.value.hint or "")
    published.publish(force=True)
    assert published.entry("a").revision == 2


def test_two_keys_sign_while_clients_move_from_one_to_the_other(
    repository: Repository, keys: KeyMaker
) -> None:
    new = keys.make("Next <next@example.org>")
    repository.add("a.img")
    repository.publish()
    repository.publish(signing=repository.signing(also=(new,)))
    repository.add("a.img", b"2")
    repository.publish(signing=repository.signing(also=(new,)))
    data = (repository.web / "index.asc").read_bytes()
    old_client = dataclasses.replace(repository.pin, extra_signatures=True)
    new_client = dataclasses.replace(keys.pin(new), extra_signatures=True)
    for pin in (old_client, new_client):
        assert "revision=2" in GpgVerifier().verify(data, pin, where="web").text
    # The published key file holds both, and needs no setting.
    both = trusted_keys_from_file(repository.web / "index.gpg", where="web")
    GpgVerifier().verify(data, both, where="web")
    repository.add("a.img", b"3")
    with pytest.raises(SigningError, match="more keys"):
        repository.publish(signing=repository.signing(new))
    rotate(
        repository.web,
        repository.key,
        new,
        repository.signing(new),
        repository.services(),
        ignore,
        finish=True,
    )
    repository.publish(signing=repository.signing(new))
    data = (repository.web / "index.asc").read_bytes()
    assert "revision=3" in GpgVerifier().verify(data, keys.pin(new), where="web").text


def test_interactive_asks_about_new_images_only(repository: Repository) -> None:
    asked: list[Question] = []
    answers = {"template": "bookworm", "partition": "-"}

    def ask(question: Question) -> str:
        asked.append(question)
        for word, answer in answers.items():
            if word in question.text:
                return answer
        assert question.default is not None
        return question.default

    repository.add("a.img")
    repository.publish(ask=ask)
    entry = repository.entry("bookworm")
    assert (entry.osinfo, entry.expand, entry.arch) == ("debian12", None, "x86_64")
    assert [question.text.partition(": ")[2] for question in asked] == [
        "name of the template", "architecture", "libosinfo id", "partition to expand",
    ]  # fmt: skip
    asked.clear()
    repository.add("a.img", b"new")
    repository.publish(ask=ask)
    assert [question.text for question in asked] == ["a.img: partition to expand"]
    assert repository.entry("bookworm").revision == 2


@pytest.mark.parametrize(
    ("draft", "volume", "questions"),
    [
        ("", None, ["architecture", "display name", "libosinfo id", "partition to expand"]),
        ("arch=x86_64\n", None, ["display name", "libosinfo id", "partition to expand"]),
        (
            "name=A\n",
            "/dev/vg/root",
            ["architecture", "libosinfo id", "partition to expand", "volume to expand"],
        ),
    ],
)
def test_interactive_asks_for_what_a_draft_leaves_out(
    tmp_path: Path, draft: str, volume: str | None, questions: list[str]
) -> None:
    """In the order of virt-builder-repository, so that answers for it can be piped in."""
    (tmp_path / "index").write_text(f"[web]\nfile=web.img\n{draft}")
    read = read_draft(tmp_path / "index")
    assert read is not None
    asked = []

    def ask(question: Question) -> str:
        asked.append(question.text.partition(": ")[2])
        return f"/dev/{len(asked)}" if "expand" in question.text else f"answer{len(asked)}"

    facts = ImageFacts("x86_64", "Found", "found", "/dev/sda2", volume)
    name, answered = ask_about("web.img", "web", facts, read.entries[0], ask)
    assert (name, asked) == ("web", questions)
    assert answered.lvexpand == ("/dev/4" if volume else None)


def test_interactive_publishes_an_image_without_a_system(repository: Repository) -> None:
    repository.add("data.img", disk=FakeDisk())
    repository.publish(ask=lambda question: "noarch" if "arch" in question.text else question.default or "")
    assert repository.entry("data").arch == "noarch"


def test_a_withdrawn_template_is_not_published_again(repository: Repository) -> None:
    repository.add("a.img")
    repository.add("b.img", b"b")
    remember_withdrawn(repository.web, [("a", "x86_64")])
    repository.publish()
    assert repository.names() == ["b"]
    assert "withdraw --undo" in repository.notices()


def test_a_damaged_record_of_withdrawn_templates_stops_the_publisher(repository: Repository) -> None:
    repository.add("a.img")
    (repository.web / ".pybuilder-repo-withdrawn.json").write_text("{")
    with pytest.raises(RepositoryError, match="withdrawn"):
        repository.publish()


def test_levels_of_zstd_are_checked_before_work(repository: Repository) -> None:
    with pytest.raises(UsageError, match="level"):
        repository.publish(zstd_level=22)


def test_what_each_user_fetches_again_and_deleted_files_are_warned_of(repository: Repository) -> None:
    disk = debian()
    guest = disk.filesystems[2].guest
    guest.add("/var/lib/apt/lists/debian_main_Packages", b"x" * (3 << 20))
    guest.add("/var/cache/apt/pkgcache.bin", b"x" * (1 << 20))
    repository.add("a.img", disk=disk)
    repository.add("b.img", b"b")

    def prepare(appliance: FakeAppliance) -> None:
        def trim(path: str) -> None:
            raise GuestCallError(f"{path}: not supported")

        appliance.trim = trim  # type: ignore[method-assign]

    repository.appliances._prepare = prepare
    repository.publish()
    warnings = repository.notices(Severity.WARNING).splitlines()
    (lists,) = [line for line in warnings if "package lists" in line]
    assert lists == (
        "a.img: 4.0M of package lists, caches and temporary files are published with it: /var/lib/apt/lists "
        "(3.0M), /var/cache/apt (1.0M); to remove them: "
        f"pybuilder-customize -a {repository.images}/a.img --sysprep package-caches"
    )
    kept = [line for line in warnings if "free space of /dev/sd" in line]
    assert any(line.startswith("b.img: ") and line.endswith("/: not supported") for line in kept)
