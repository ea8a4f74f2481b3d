"""Importing cloud images: a real server, real gpg, and whatever an attacker may put there."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from imgbuilder.errors import (
    BadSignatureError,
    DigestMismatchError,
    DiskError,
    FetchError,
    NotSignedError,
    PybuilderError,
    RepositoryError,
    RolledBackError,
    UsageError,
    WrongKeyError,
)
from imgindex.gpg import trusted_keys_from_keyring
from imgrepo.cli.main import run
from imgrepo.intake.import_image import Imported, ImportRequest, import_image
from imgrepo.intake.proof import (
    Digests,
    TrustOptions,
    digest_by_hand,
    find_digests,
    likely_sums,
    name_in,
    sibling,
    template_name,
)
from tests.fakes.faultserver import FaultServer, answer, honest
from tests.fakes.keys import KeyMaker, signature_packets, with_packets
from tests.fakes.webfolder import WebFolder
from tests.unit.imgrepo.repository import SIZE, Repository, debian

NAME = "nova-12-generic.qcow2"


def digest(data: bytes, kind: str = "sha512") -> str:
    return hashlib.new(kind, data).hexdigest()


def qcow2(path: Path, *options: str, fill: bool = True) -> bytes:
    """Make an image; return its bytes."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, str(SIZE)], check=True)
    if fill:
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 64k", path], check=True, stdout=-3)
    return path.read_bytes()


@dataclass
class Distribution:
    """A distribution's folder on its server, and the publisher who imports from it."""

    folder: Path
    web: WebFolder
    repository: Repository
    keys: KeyMaker
    key: str

    @property
    def url(self) -> str:
        return f"{self.web.url}/{NAME}"

    @property
    def image(self) -> bytes:
        return (self.folder / NAME).read_bytes()

    def put(self, name: str, data: bytes | str) -> None:
        (self.folder / name).write_bytes(data.encode() if isinstance(data, str) else data)

    @property
    def sums(self) -> bytes:
        return (self.folder / "SHA512SUMS").read_bytes()

    def line(self, name: str = NAME) -> str:
        """Return the right line about the image, under another name."""
        return f"{digest(self.image)}  {name}\n"

    def put_signature(self, data: bytes) -> None:
        self.put("SHA512SUMS.sign", data)

    def replace(self, image: bytes) -> None:
        """Replace the image, and sign its checksum."""
        self.put(NAME, image)
        self.sign()

    def detached(self, data: bytes, *options: str, key: str | None = None) -> bytes:
        return self.keys.gpg("--local-user", f"{key or self.key}!", *options, "--detach-sign", data=data)

    def sign(self, text: str | None = None, name: str = "SHA512SUMS", ending: str = ".sign") -> None:
        """Write a checksum file, by default the right one, and its signature."""
        self.sign_bytes((self.line() if text is None else text).encode(), name, ending)

    def sign_bytes(self, data: bytes, name: str = "SHA512SUMS", ending: str = ".sign") -> None:
        self.put(name, data)
        self.put(name + ending, self.detached(data))

    def take(self, url: str | None = None, name: str | None = None, **trust: object) -> Imported:
        given = trust or {"key": str(self.folder.parent / "distribution.gpg")}
        services = self.repository.services()
        request = ImportRequest(url or self.url, self.repository.images, TrustOptions(**given), name)  # type: ignore[arg-type]
        return import_image(request, services, self.repository.events.append)

    def taken(self) -> set[str]:
        return {path.name for path in self.repository.images.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="session")
def distribution_key(keys: KeyMaker) -> str:
    return keys.make("Distribution <cloud@example.org>")


@pytest.fixture
def distribution(
    tmp_path: Path, repository: Repository, keys: KeyMaker, distribution_key: str
) -> Iterator[Distribution]:
    folder = tmp_path / "distribution"
    folder.mkdir()
    (tmp_path / "distribution.gpg").write_bytes(keys.export(distribution_key, armor=True))
    qcow2(folder / NAME)
    with WebFolder(folder) as web:
        made = Distribution(folder, web, repository, keys, distribution_key)
        made.sign()
        yield made


def test_debians_shape_sha512sums_with_a_detached_signature(distribution: Distribution) -> None:
    result = distribution.take()
    assert result.path.read_bytes() == distribution.image
    assert (result.path.name, result.size, result.new) == (NAME, SIZE, True)
    assert result.proof.signed is not None
    assert result.proof.signed.primary_fingerprint == distribution.key
    assert distribution.taken() == {NAME, "nova-12-generic.entry"}
    assert result.path.stat().st_mode & 0o777 == 0o644
    assert not distribution.take().new
    assert [method for method, path in distribution.web.asked if path.endswith(NAME)] == ["GET"]


def test_ubuntus_shape_sha256sums_gpg_and_a_qcow2_image_called_img(distribution: Distribution) -> None:
    (distribution.folder / "SHA512SUMS").unlink()
    (distribution.folder / NAME).rename(distribution.folder / "noble-server-cloudimg-amd64.img")
    data = (distribution.folder / "noble-server-cloudimg-amd64.img").read_bytes()
    text = f"{'0' * 64} *other.img\n{digest(data, 'sha256')} *noble-server-cloudimg-amd64.img\n"
    distribution.sign(text, "SHA256SUMS", ".gpg")
    result = distribution.take(f"{distribution.web.url}/noble-server-cloudimg-amd64.img", name="noble")
    assert result.path.name == "noble.qcow2"
    assert "[noble]\nfile=noble.qcow2\n" in (distribution.repository.images / "noble.entry").read_text()


def test_fedoras_shape_a_clear_signed_checksum_file(distribution: Distribution) -> None:
    for left in ("SHA512SUMS", "SHA512SUMS.sign"):
        (distribution.folder / left).unlink()
    name = "Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2"
    (distribution.folder / NAME).rename(distribution.folder / name)
    data = (distribution.folder / name).read_bytes()
    text = f"# {name}: {len(data)} bytes\nSHA256 ({name}) = {digest(data, 'sha256')}\n"
    distribution.put(
        "Fedora-Cloud-43-1.6-x86_64-CHECKSUM", distribution.keys.sign(text, distribution.key, digest="SHA256")
    )
    result = distribution.take(f"{distribution.web.url}/{name}")
    assert result.path.name == "fedora-cloud-base-generic-43-1.6.x86_64.qcow2"


def test_a_raw_image_of_this_machine_is_imported_too(distribution: Distribution) -> None:
    data = b"boot" * 1024
    distribution.put("disk.raw", data)
    distribution.sign(f"{digest(data)}  disk.raw\n")
    result = distribution.take(str(distribution.folder / "disk.raw"))
    assert (result.path.name, result.size) == ("disk.img", 4096)
    text = (distribution.repository.images / "disk.entry").read_text()
    assert str(distribution.folder) not in text


def test_an_imported_image_is_published_with_its_entry(distribution: Distribution) -> None:
    repository = distribution.repository
    distribution.take(name="nova")
    repository.appliances.disks["nova.qcow2"] = debian()
    with (repository.images / "nova.entry").open("a") as file:
        file.write("aliases=nova-stable\n")
    repository.publish()
    entry = repository.entry("nova")
    assert entry.aliases == ("nova-stable",)
    assert entry.format == "qcow2"
    assert entry.revision == 1
    assert any(distribution.url in note.text for note in entry.notes)
    # From now on the index counts: an edited entry changes nothing, and costs nothing.
    (repository.images / "nova.entry").write_text("[nova]\nfile=nova.qcow2\naliases=other\n")
    before = repository.snapshot()
    repository.publish()
    assert repository.snapshot() == before
    # Nor when the publisher's memory is lost and the image is another one.
    repository.forget()
    qcow2(repository.images / "nova.qcow2", "-o", "cluster_size=4k")
    repository.publish()
    assert (repository.entry("nova").revision, repository.entry("nova").aliases) == (2, ("nova-stable",))


def test_the_next_image_of_the_distribution_replaces_the_last_one(distribution: Distribution) -> None:
    repository = distribution.repository
    distribution.take(name="nova")
    repository.appliances.disks["nova.qcow2"] = debian()
    repository.publish()
    qcow2(distribution.folder / NAME, "-o", "cluster_size=4k")
    distribution.sign()
    assert distribution.take(name="nova").new
    repository.publish()
    assert repository.entry("nova").revision == 2


def test_the_key_may_be_a_fingerprint_in_the_users_keyring(
    distribution: Distribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = distribution.keys.home
    services = dataclasses.replace(
        distribution.repository.services(),
        trusted_keys_from_keyring=lambda key: trusted_keys_from_keyring(key, gpg_home=home),
    )
    monkeypatch.setattr(type(distribution.repository), "services", lambda _self: services)
    assert distribution.take(key=distribution.key.lower()).new
    with pytest.raises(UsageError, match="not in your keyring"):
        distribution.take(key="0" * 40)
    with pytest.raises(UsageError, match="not a full key fingerprint"):
        distribution.take(key="0" * 41)
    with pytest.raises(UsageError, match="neither a file nor a full fingerprint"):
        distribution.take(key="DEADBEEF")
    with pytest.raises(UsageError, match="does not exist"):
        distribution.take(str(distribution.folder / "none.qcow2"))


def test_a_digest_by_hand_needs_no_server(distribution: Distribution) -> None:
    assert distribution.take(checksum=digest(distribution.image).upper()).new
    assert [path for _method, path in distribution.web.asked] == [f"/{NAME}"]
    assert distribution.take(name="again", checksum=digest(distribution.image, "sha256")).new
    with pytest.raises(DigestMismatchError):
        distribution.take(name="other", checksum="0" * 64)


def test_unsigned_checksums_need_an_option_and_give_a_warning(distribution: Distribution) -> None:
    (distribution.folder / "SHA512SUMS.sign").unlink()
    with pytest.raises(NotSignedError, match="not signed"):
        distribution.take()
    assert distribution.take(unsigned=True).proof.signed is None
    assert "not signed" in distribution.repository.notices()


@pytest.mark.parametrize("same", [True, False])
def test_a_broken_download_is_continued_if_it_is_the_same_file(
    distribution: Distribution, same: bool
) -> None:
    data = distribution.image
    first = data if same else bytes(reversed(data))
    with FaultServer([honest(first, upto=len(data) // 2)], [honest(data)]) as server:
        result = distribution.take(f"{server.url}/{NAME}", checksum=digest(data))
        assert b"Range: bytes=" in server.requests[1]
    assert result.path.read_bytes() == data


def test_what_a_stopped_import_fetched_is_used_by_the_next(distribution: Distribution) -> None:
    data = distribution.image
    half, refusal = honest(data, upto=len(data) // 2), answer(b"", status="403 No")
    with FaultServer([half], [refusal], [honest(data)]) as server:
        with pytest.raises(FetchError):
            distribution.take(f"{server.url}/{NAME}", checksum=digest(data))
        assert distribution.take(f"{server.url}/{NAME}", checksum=digest(data)).new
        assert b"Range: bytes=" in server.requests[-1]


def test_old_partial_downloads_are_removed(distribution: Distribution) -> None:
    data = distribution.image
    scripts = [honest(data, upto=len(data) // 2)], [answer(b"", status="403 No")]
    with FaultServer(*scripts) as server, pytest.raises(FetchError):
        distribution.take(f"{server.url}/{NAME}", checksum=digest(data))
    parts = distribution.repository.images / ".pybuilder-import"
    assert {path.suffix for path in parts.glob("sha512-*")} == {"", ".json"}
    for days, left in ((13, 2), (15, 0)):
        distribution.repository.later = timedelta(days=days)
        with pytest.raises(DigestMismatchError):
            distribution.take(name="other", checksum="0" * 128)
        assert len(list(parts.glob("sha512-*"))) == left


def backing_file(on: Distribution) -> None:
    on.put("secret", b"s" * SIZE)
    qcow2(on.folder / NAME, "-b", str(on.folder / "secret"), "-F", "raw", fill=False)
    on.sign()


def data_file(on: Distribution) -> None:
    qcow2(on.folder / NAME, "-o", f"data_file={on.folder}/data,data_file_raw=on", fill=False)
    on.sign()


def vmdk(on: Distribution) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", on.folder / NAME, "1M"], check=True)
    on.sign()


def altered_after_signing(on: Distribution) -> None:
    on.sign(WRONG)
    on.put("SHA512SUMS", on.line())


Attack = Callable[[Distribution], object]
WRONG = f"{digest(b'another')}  {NAME}\n"
# Each changes what is on the server, and nothing may come out of it.
SIGNATURES: dict[str, tuple[Attack, type[PybuilderError], str]] = {
    "altered after signing": (altered_after_signing, BadSignatureError, "altered"),
    "signed by another key": (
        lambda on: on.put_signature(on.detached(on.sums, key=on.keys.make("Stranger <s@example.org>"))),
        WrongKeyError, "signed by key"),
    "removed": (lambda on: (on.folder / "SHA512SUMS.sign").unlink(), NotSignedError, "not signed"),
    "empty": (lambda on: on.put_signature(b""), NotSignedError, "empty"),
    "with a text inside": (
        lambda on: on.put_signature(on.keys.gpg("--local-user", on.key, "--sign", data=b"any text")),
        BadSignatureError, "something else than signatures"),
    "an armored message": (
        lambda on: on.put_signature(on.keys.sign("any text\n", on.key)),
        BadSignatureError, "something else than signatures"),
    # One of class 01 does not fix the bytes: line ends and blanks may be changed.
    "of a text": (
        lambda on: on.put_signature(on.detached(on.sums, "--textmode")), BadSignatureError, "class 01"),
    "with a weak digest": (
        lambda on: on.put_signature(on.detached(on.sums, "--digest-algo", "SHA1")),
        BadSignatureError, "weak digest SHA-1"),
    "garbage": (
        lambda on: on.put_signature(b"\x99\x01\x0d" + b"\xff" * 400),
        BadSignatureError, "something else than signatures"),
    "a key": (
        lambda on: on.put_signature(on.keys.export(on.key, armor=True)),
        BadSignatureError, "something else than signatures"),
    "huge": (
        lambda on: on.put_signature((on.folder / "SHA512SUMS.sign").read_bytes() * 400),
        BadSignatureError, "larger than"),
    "text before a clear-signed file": (
        lambda on: on.put("SHA512SUMS", f"{on.line()}\n".encode() + on.keys.sign(WRONG, on.key)),
        BadSignatureError, "text before"),
    "text behind a clear-signed file": (
        lambda on: on.put("SHA512SUMS", on.keys.sign(f"{'0' * 128}  other\n", on.key) + on.line().encode()),
        BadSignatureError, "after the signed message"),
    "a clear-signed file with the signature of another": (
        lambda on: on.put("SHA512SUMS", with_packets(
            on.keys.sign(on.line(), on.key), signature_packets(on.keys.sign("other\n", on.key)))),
        BadSignatureError, "altered"),
}  # fmt: skip
SUMS: dict[str, tuple[Attack, type[PybuilderError], str]] = {
    "wrong sum": (lambda on: on.sign(WRONG), DigestMismatchError, "not the file"),
    "sum of another file": (lambda on: on.sign(on.line("other.qcow2")), RepositoryError, "does not list"),
    "two digests for one name": (
        lambda on: on.sign(WRONG + on.line()), RepositoryError, "twice"),
    "SHA-256 contradicts SHA-512": (
        lambda on: on.sign(f"{on.line()}{'0' * 64}  {NAME}\n"), DigestMismatchError, "not the file"),
    "path above": (lambda on: on.sign(on.line(f"../{NAME}")), RepositoryError, "does not list"),
    "path of another folder": (lambda on: on.sign(on.line(f"old/{NAME}")), RepositoryError, "does not list"),
    "absolute path": (
        lambda on: on.sign(f"SHA512 (/{NAME}) = {digest(on.image)}\n"), RepositoryError, "does not list"),
    "name with something behind": (
        lambda on: on.sign(on.line(f"{NAME} ") + on.line(f"{NAME}.part")), RepositoryError, "does not list"),
    "escaped name": (lambda on: on.sign(f"\\{on.line()}"), RepositoryError, "not a checksum file"),
    "only weak ones": (
        lambda on: on.sign(
            f"{digest(on.image, 'md5')}  {NAME}\nSHA1 ({NAME}) = {digest(on.image, 'sha1')}\n"),
        RepositoryError, "too weak"),
    "digest under a false kind": (
        lambda on: on.sign(f"SHA512 ({NAME}) = {digest(on.image, 'sha256')}\n"),
        RepositoryError, "not a checksum file"),
    "carriage returns": (lambda on: on.sign(on.line(f"{NAME}\r")), RepositoryError, "control characters"),
    "NUL": (lambda on: on.sign(on.line(f"{NAME}\0") + on.line()), RepositoryError, "control characters"),
    "not UTF-8": (lambda on: on.sign_bytes(on.line().encode() + b"\xff\n"), RepositoryError, "UTF-8"),
    "huge": (lambda on: on.sign(on.line() + "# x\n" * 300_000), FetchError, "at most 1000000"),
    "web page": (
        lambda on: on.sign("<html><body>404</body></html>\n"), RepositoryError, "not a checksum file"),
}  # fmt: skip
IMAGES: dict[str, tuple[Attack, type[PybuilderError], str]] = {
    "truncated": (lambda on: on.put(NAME, on.image[:-512]), DigestMismatchError, "not the file"),
    "altered": (lambda on: on.put(NAME, on.image[:-1] + b"\1"), DigestMismatchError, "not the file"),
    "backing file": (backing_file, DiskError, "backing file"),
    "data file": (data_file, DiskError, "data in another file"),
    "vmdk": (vmdk, DiskError, "looks like vmdk"),
    "vmdk descriptor": (
        lambda on: on.replace(b'# Disk DescriptorFile\nRW 2048 FLAT "/etc/passwd" 0\n'.ljust(4096, b"\n")),
        DiskError, "looks like vmdk"),
    "packed": (
        lambda on: on.replace(subprocess.run(["xz", "-0c"], input=on.image, stdout=-1, check=True).stdout),
        RepositoryError, "a xz file"),
    "web page": (
        lambda on: on.replace(b"<!doctype html>".ljust(1024)), RepositoryError, "web page"),
    "odd size": (lambda on: on.replace(b"x" * 513), DiskError, "whole number of sectors"),
}  # fmt: skip
ATTACKS = [
    pytest.param(*attack, id=f"{kind}: {name}")
    for kind, attacks in (("signature", SIGNATURES), ("sums", SUMS), ("image", IMAGES))
    for name, attack in attacks.items()
]


@pytest.mark.parametrize(("attack", "error", "words"), ATTACKS)
def test_attacks_are_refused_and_leave_nothing(
    attack: Attack, error: type[PybuilderError], words: str, distribution: Distribution
) -> None:
    attack(distribution)
    with pytest.raises(error, match=words) as refused:
        distribution.take()
    assert distribution.taken() == set()
    assert str(distribution.repository.images / ".pybuilder") not in refused.value.message
    parts = distribution.repository.images / ".pybuilder-import"
    assert not [path for path in parts.glob("sha*") if path.stat().st_size]


def test_a_revoked_or_expired_key_of_the_distribution_is_refused(distribution: Distribution) -> None:
    keys, data = distribution.keys, (distribution.folder / "SHA512SUMS").read_bytes()
    for ready, words in ((keys.revoke, "revoked"), (None, "expired")):
        key = keys.make(f"Old {words} <o@example.org>", expire="0" if ready else "1d", at="20200101T000000")
        signature = keys.gpg("--local-user", f"{key}!", "--detach-sign", data=data, at="20200101T010000")
        distribution.put("SHA512SUMS.sign", signature)
        if ready is not None:
            ready(key)
        file = distribution.folder.parent / "old.gpg"
        file.write_bytes(keys.export(key))
        with pytest.raises(BadSignatureError, match=words):
            distribution.take(key=str(file))
    assert distribution.taken() == set()


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "javascript:x", "http://u:p@h/x"]
)
def test_redirects_of_image_and_sums_to_elsewhere_are_refused(
    distribution: Distribution, target: str
) -> None:
    redirect = answer(b"", f"Location: {target}", status="302 Found")
    with FaultServer([redirect]) as server:
        with pytest.raises(FetchError, match="redirect"):
            distribution.take(f"{server.url}/{NAME}", checksum=digest(distribution.image))
        with pytest.raises(FetchError, match="redirect"):
            distribution.take(f"{server.url}/{NAME}")
    assert distribution.taken() == set()


@pytest.mark.parametrize(
    "address",
    ["http://h/", "http://h/..", "http://h/%2e%2e", "http://h/a%2fb", "http://h/-x", "http://h/.hidden",
     "http://h/a%0ab", "ftp://h/a.img", "/", "..", "http://h/a b", "http://h/?x.img"],
)  # fmt: skip
def test_addresses_without_a_plain_name_are_refused(distribution: Distribution, address: str) -> None:
    with pytest.raises(UsageError):
        distribution.take(address, unsigned=True)


def test_missing_or_contradictory_options_are_refused() -> None:
    for given in ({}, {"key": "k", "unsigned": True}, {"checksum": "0", "key": "k"}):
        with pytest.raises(UsageError):
            TrustOptions(**given)
    for text in ("", "0" * 32, "0" * 40, "g" * 128, "0" * 127):
        with pytest.raises(UsageError, match="not a SHA-512"):
            digest_by_hand(text)


def test_an_image_that_was_not_imported_is_never_replaced(distribution: Distribution) -> None:
    mine = distribution.repository.add("nova.img")
    with pytest.raises(UsageError, match="was not imported"):
        distribution.take(name="nova")
    assert mine.exists()
    assert distribution.taken() == {"nova.img"}


def test_no_checksum_file_at_all(distribution: Distribution) -> None:
    (distribution.folder / "SHA512SUMS").unlink()
    with pytest.raises(FetchError, match="no checksum file was found next to"):
        distribution.take()


def test_checksums_may_be_elsewhere(distribution: Distribution) -> None:
    for name in ("SHA512SUMS", "SHA512SUMS.sign"):
        (distribution.folder / name).rename(distribution.folder / f"all-{name}")
    key = str(distribution.folder.parent / "distribution.gpg")
    assert distribution.take(checksums=f"{distribution.web.url}/all-SHA512SUMS", key=key).new


def test_checksum_lines() -> None:
    name, long, short = "a.img", "A" * 128, "b" * 64
    both = f"{long}  a.img\nSHA256 (./a.img) = {short}\n{long} *a.img\n"
    assert find_digests(both, name, where="x") == Digests("a" * 128, short)
    assert find_digests(f"SHA512(a.img)= {long}", name, where="x") == Digests("a" * 128, None)


def test_places() -> None:
    assert name_in("https://h/a/b.qcow2?token=1") == "b.qcow2"
    assert sibling("https://h/a/b.qcow2?token=1", "S") == "https://h/a/S"
    assert sibling("b.qcow2", "S") == "S"
    assert sibling("file:///a/b", "S") == "file:///a/S"
    assert template_name("CentOS+Stream-9.x86_64.qcow2") == "centos-stream-9.x86_64"
    first = likely_sums("Fedora-Cloud-Base-Generic.x86_64-40-1.14.qcow2")[0]
    assert first == "Fedora-Cloud-40-1.14-x86_64-CHECKSUM"


def test_the_command_as_it_is_typed(distribution: Distribution, capsys: pytest.CaptureFixture[str]) -> None:
    services, images = distribution.repository.services(), str(distribution.repository.images)
    command = ["import", distribution.url, images]
    assert run(command, services) == 2
    assert "--unsigned" in capsys.readouterr().err
    key = str(distribution.folder.parent / "distribution.gpg")
    assert run([*command, "--key", key, "--name", "nova"], services) == 0
    out = capsys.readouterr().out
    assert "nova.qcow2 imported" in out
    assert f"signed by {distribution.key}" in out
    assert run([*command, "--key", key, "--name", "nova"], services) == 0
    assert "is already here" in capsys.readouterr().out
    assert run([*command, "--key", key, "--name", "../x"], services) == 2
    assert run(["import", distribution.url, f"{images}/none", "--key", key], services) == 2
    (distribution.folder / "SHA512SUMS.sign").unlink()
    assert run([*command, "--key", key, "--name", "other"], services) == 3
    assert run([*command, "--key", f"{images}/none"], services) == 2


@pytest.mark.parametrize("text", ["[a]\nfile=b.img\n", "[a]\nfile=a.img\n[b]\nfile=a.img\n", "nonsense\n"])
def test_a_sidecar_is_about_its_image_only(repository: Repository, text: str) -> None:
    repository.add("a.img")
    (repository.images / "a.entry").write_text(text)
    with pytest.raises(RepositoryError):
        repository.publish()
    assert list(repository.web.glob("index*")) == []


def test_an_older_image_does_not_replace_a_newer_one(distribution: Distribution) -> None:
    folder = distribution.folder
    old = {path.name: path.read_bytes() for path in folder.iterdir()}
    distribution.take()
    time.sleep(1.1)  # signatures have whole seconds
    distribution.replace(qcow2(folder.parent / "newer.qcow2", fill=False))
    newer = distribution.take().path.read_bytes()
    for name, data in old.items():
        distribution.put(name, data)
    with pytest.raises(RolledBackError, match="offers an older image") as refused:
        distribution.take()
    assert "--allow-older" in (refused.value.hint or "")
    image = distribution.repository.images / NAME
    assert image.read_bytes() == newer
    trust = TrustOptions(key=str(folder.parent / "distribution.gpg"))
    request = ImportRequest(distribution.url, distribution.repository.images, trust, allow_older=True)
    import_image(request, distribution.repository.services(), distribution.repository.events.append)
    assert image.read_bytes() == old[NAME]
