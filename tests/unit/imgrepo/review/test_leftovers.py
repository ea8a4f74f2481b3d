"""Leftovers in a guest: its identity, and secrets."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgbuilder.appliance import ApplianceOptions
from imgbuilder.errors import ApplianceError, GuestCallError
from imgbuilder.events import ignore
from imgrepo.library.folder import image_at
from imgrepo.library.records import Inside, Leftover
from imgrepo.review import leftovers
from imgrepo.review.leftovers import look_inside
from tests.fakes.appliance import FakeAppliance, FakeAppliances, FakeDisk, FakeFilesystem
from tests.fakes.guest import FakeGuest
from tests.unit.imgrepo.repository import image
from tests.unit.imgrepo.review.guests import guest

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"


def look(folder: Path, made: FakeGuest, appliances: FakeAppliances | None = None) -> Inside:
    path = folder / "a.img"
    if not path.exists():
        image(path)
    disk = FakeDisk({1: FakeFilesystem("swap"), 2: FakeFilesystem("ext4", made)})
    opener = appliances or FakeAppliances()
    opener.disks["a.img"] = disk
    return look_inside(image_at(path, hint=""), "", opener, ApplianceOptions(), ignore)


def seen(inside: Inside) -> dict[Leftover, tuple[str, ...]]:
    return {one.trace: one.paths for one in inside.seen}


def found(folder: Path, files: dict[str, str | bytes]) -> dict[Leftover, tuple[str, ...]]:
    """Return the leftovers of a guest with some files more."""
    made = guest()
    for path, content in files.items():
        made.add(path, content)
    return seen(look(folder, made))


def test_a_clean_guest(tmp_path: Path) -> None:
    appliances = FakeAppliances()
    assert look(tmp_path, guest(), appliances) == Inside(system=True)
    assert [item.readonly for launch in appliances.launches for item in launch] == [True]
    assert not appliances.appliances[0].scripts, "nothing of the guest may run"


IDENTITY = {
    Leftover.MACHINE_ID: ["/etc/machine-id", "/var/lib/dbus/machine-id"],
    Leftover.SSH_HOST_KEY: ["/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_rsa_key.pub"],
    Leftover.DHCP_LEASE: ["/var/lib/dhcp/dhclient.eth0.leases", "/var/lib/NetworkManager/secret_key"],
    Leftover.NETWORK_RULE: ["/etc/udev/rules.d/70-persistent-net.rules"],
    Leftover.RANDOM_SEED: ["/var/lib/systemd/random-seed", "/var/lib/systemd/credential.secret"],
    Leftover.LOG: ["/var/log/syslog", "/var/log/apt/history.log"],
    Leftover.PACKAGE_CACHE: ["/var/cache/apt/archives/bash.deb", "/var/lib/apt/lists/deb_main"],
    Leftover.TEMPORARY_FILE: ["/tmp/x", "/var/tmp/.y"],
    Leftover.CLOUD_INIT: ["/var/lib/cloud/instances/i-1"],
}


@pytest.mark.parametrize("trace", IDENTITY)
def test_leftovers_of_one_machine(tmp_path: Path, trace: Leftover) -> None:
    files = dict.fromkeys(IDENTITY[trace], "0123456789abcdef0123456789abcdef\n")
    assert found(tmp_path, {**files}) == {trace: tuple(sorted(files))}


def test_what_makes_an_image_larger_is_measured(tmp_path: Path) -> None:
    made = guest()
    made.add("/var/lib/apt/lists/deb_main", "x" * 3000)
    made.add("/var/cache/dnf/fedora/repodata/primary", "x" * 500)
    made.add("/var/log/syslog", "x" * 7000)
    made.add_link("/var/cache/apt/archives/link.deb", "/var/log/syslog")
    sizes = {one.trace: one.size for one in look(tmp_path, made).seen}
    assert sizes == {Leftover.PACKAGE_CACHE: 3500, Leftover.LOG: 0}


@pytest.mark.parametrize("content", ["", "\n", "uninitialized\n"])
def test_machine_ids_that_are_made_at_boot(tmp_path: Path, content: str) -> None:
    assert found(tmp_path, {"/etc/machine-id": content, "/var/lib/dbus/machine-id": content}) == {}


def test_a_link_to_a_machine_id_that_is_made_at_boot(tmp_path: Path) -> None:
    made = guest()
    made.add_link("/var/lib/dbus/machine-id", "/etc/machine-id")
    assert seen(look(tmp_path, made)) == {}


def test_the_name_of_the_machine_that_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "annslaptop.example.org")
    hostname = {Leftover.HOSTNAME: ("/etc/hostname (annslaptop)",)}
    assert found(tmp_path, {"/etc/hostname": "annslaptop\n"}) == hostname
    assert found(tmp_path, {"/etc/hostname": "demo\n"}) == {}
    monkeypatch.setattr(socket, "gethostname", lambda: "debian")
    assert found(tmp_path, {"/etc/hostname": "debian\n"}) == {}, "many are called so"


SECRETS = [
    (Leftover.PRIVATE_KEY, "/root/.ssh/id_ed25519", KEY),
    (Leftover.PRIVATE_KEY, "/home/ann/.ssh/work", "PuTTY-User-Key-File-3: ssh-rsa\n"),
    (Leftover.PRIVATE_KEY, "/srv/git/.ssh/id_rsa", "-----BEGIN RSA PRIVATE KEY-----\n"),
    (Leftover.PRIVATE_KEY, "/etc/ssl/private/web.key", "-----BEGIN PRIVATE KEY-----\n"),
    (Leftover.MADE_KEY, "/etc/ssl/private/ssl-cert-snakeoil.key", "-----BEGIN PRIVATE KEY-----\n"),
    (Leftover.AUTHORIZED_KEY, "/home/ann/.ssh/authorized_keys", "# mine\nssh-ed25519 AAAA ann\n"),
    (Leftover.SHELL_HISTORY, "/root/.bash_history", "mysql -psecret\n"),
    (Leftover.SHELL_HISTORY, "/home/ann/.python_history", "x\n"),
    (Leftover.TOOL_MEMORY, "/root/.viminfo", "x\n"),
    (Leftover.CREDENTIALS, "/root/.netrc", "machine a login b password c\n"),
    (Leftover.CREDENTIALS, "/home/ann/.git-credentials", "https://a:b@example.org\n"),
    (Leftover.CREDENTIALS, "/home/ann/.aws/credentials", "[default]\naws_secret_access_key = x\n"),
    (Leftover.CREDENTIALS, "/home/ann/.azure/msal_token_cache.bin", "x"),
    (Leftover.CREDENTIALS, "/home/ann/.config/gcloud/credentials.db", "x"),
    (Leftover.CREDENTIALS, "/home/ann/.docker/config.json", '{"auths": {"example.org": {"auth": "QTpC"}}}'),
    (Leftover.CREDENTIALS, "/home/ann/.kube/config", "users:\n- user:\n    token: abc\n"),
    (Leftover.CREDENTIALS, "/home/ann/.gnupg/private-keys-v1.d/AB.key", "x"),
    (Leftover.NETWORK_PASSWORD, "/etc/wpa_supplicant/wpa_supplicant.conf", 'network={\n  psk="x"\n}\n'),
    (Leftover.NETWORK_PASSWORD, "/etc/NetworkManager/system-connections/home", "[wifi-security]\npsk=x\n"),
    (Leftover.NETWORK_PASSWORD, "/etc/netplan/50.yaml", "wifis:\n  password: x\n"),
]


@pytest.mark.parametrize(("trace", "path", "content"), SECRETS, ids=[path for _, path, _ in SECRETS])
def test_secrets(tmp_path: Path, trace: Leftover, path: str, content: str) -> None:
    assert found(tmp_path, {path: content}) == {trace: (path,)}


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/root/.ssh/id_ed25519.pub", "ssh-ed25519 AAAA ann\n"),
        ("/root/.ssh/known_hosts", "example.org ssh-ed25519 AAAA\n"),
        ("/root/.ssh/authorized_keys", "\n# none\n"),
        ("/root/.bash_history", ""),
        ("/root/.bashrc", "alias ll='ls -l'\n"),
        ("/home/ann/.docker/config.json", '{"auths": {"example.org": {"auth": ""}}}'),
        ("/etc/NetworkManager/system-connections/wired.nmconnection", "[ipv4]\nmethod=auto\n"),
        ("/etc/wpa_supplicant/functions.sh", "psk=\n"),
        ("/var/www/.bash_history", "of an account that cannot log in\n"),
    ],
)
def test_files_that_are_not_secrets(tmp_path: Path, path: str, content: str) -> None:
    assert found(tmp_path, {path: content}) == {}


def test_links_and_odd_files(tmp_path: Path) -> None:
    made = guest()
    made.add_link("/root/.bash_history", "/dev/null")
    made.add_link("/root/.netrc", "/nowhere")
    made.add_link("/home/ann/.ssh", "/home/ann/.ssh")
    made.add_fifo("/root/.pgpass")
    made.add_dir("/etc/machine-id.d")
    assert seen(look(tmp_path, made)) == {}


def test_a_password_file_behind_a_link_is_read_in_the_guest(tmp_path: Path) -> None:
    made = guest()
    made.add_link("/etc/shadow", "/etc/shadow.real")
    made.add("/etc/shadow.real", "root::19000::::::\n")
    assert [one.name for one in look(tmp_path, made).accounts] == ["root"]


def test_a_large_file_is_not_skipped(tmp_path: Path) -> None:
    assert found(tmp_path, {"/etc/shadow": "x" * (2 << 20)}) == {Leftover.UNREADABLE: ("/etc/shadow",)}


def test_secrets_after_the_part_that_is_read_are_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_LARGEST", 1000)
    files: dict[str, str | bytes] = {"/root/.netrc": f"{'#' * 2000}\npassword x\n"}
    assert found(tmp_path, files) == {Leftover.UNREADABLE: ("/root/.netrc",)}


def test_keys_beyond_the_files_that_are_read_are_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "_MOST_FILES", 3)
    files: dict[str, str | bytes] = {f"/root/.ssh/{name}": "no key\n" for name in "abc"}
    assert found(tmp_path, files) == {}
    assert found(tmp_path, files | {"/root/.ssh/d": KEY}) == {Leftover.UNREADABLE: ("/root/.ssh/*",)}


def test_names_that_drive_terminals_are_made_visible_and_short(tmp_path: Path) -> None:
    (path,) = found(tmp_path, {f"/root/.\x1b[2J{'x' * 300}_history": "x"})[Leftover.SHELL_HISTORY]
    assert path.startswith("/root/.\\x1b[2J")
    assert len(path) < 250


def test_homes_with_names_that_are_patterns_are_left_to_people(tmp_path: Path) -> None:
    assert found(tmp_path, {"/home/[ab]*/.bash_history": "x"}) == {Leftover.UNREADABLE: ("/home/[ab]*",)}


def test_many_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    made = guest()
    for number in range(40):
        made.add(f"/etc/ssh/ssh_host_{number:02}_key", KEY)
    (one,) = look(tmp_path, made).seen
    assert (one.count, len(one.paths)) == (40, 10)


def test_a_list_that_is_too_long_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = FakeAppliance.glob

    def glob(self: FakeAppliance, pattern: str) -> list[str]:
        if pattern.startswith(("/home/", "/etc/ssh/")):
            raise GuestCallError("message too long")
        return plain(self, pattern)

    monkeypatch.setattr(FakeAppliance, "glob", glob)
    assert seen(look(tmp_path, guest())) == {
        Leftover.UNREADABLE: ("/home/*",),
        Leftover.UNREADABLE_IDENTITY: ("ssh-hostkeys",),
    }


def test_a_guest_with_no_end_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_MOST_BYTES", 20 * 4096)
    made = guest()
    for number in range(40):
        made.add(f"/root/.ssh/{number:02}", "x")
    made.add("/etc/wpa_supplicant/wpa.conf", "psk=x\n")
    many = look(tmp_path, made).seen
    assert [(one.trace, one.count > 20) for one in many] == [(Leftover.UNREADABLE, True)]


def test_too_many_home_folders(tmp_path: Path) -> None:
    made = guest()
    made.add("/etc/passwd", "".join(f"a{n}:x:{n}:{n}::/srv/{n:03}:/bin/sh\n" for n in range(150)))
    made.add("/srv/149/.bash_history", "x")
    (one,) = look(tmp_path, made).seen
    assert (one.trace, one.count) == (Leftover.UNREADABLE, 52)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("filling", ["\n", " ", "psk", "psk ", '"auth" ', "token "])
def test_files_that_would_keep_a_search_busy(tmp_path: Path, filling: str) -> None:
    content = filling * ((1 << 20) // len(filling))
    paths = (
        "/etc/wpa_supplicant/wpa.conf", "/etc/netplan/a.yaml", "/root/.my.cnf", "/root/.docker/config.json",
        "/root/.kube/config", "/root/.npmrc", "/root/.config/rclone/rclone.conf",
        "/root/.ssh/authorized_keys",
    )  # fmt: skip
    found(tmp_path, dict.fromkeys(paths, content))


def test_no_system(tmp_path: Path) -> None:
    inside = look(tmp_path, FakeGuest())
    assert not inside.system
    assert "no operating system" in inside.reason


def test_an_encrypted_disk(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    appliances = FakeAppliances({"a.img": FakeDisk({1: FakeFilesystem("crypto_LUKS")})})
    source = image_at(tmp_path / "a.img", hint="")
    inside = look_inside(source, "", appliances, ApplianceOptions(), ignore)
    assert (inside.system, inside.reason) == (False, "a.img holds an encrypted disk")


def test_a_root_on_a_logical_volume(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    made = guest()
    made.add("/root/.bash_history", "x")
    disk = FakeDisk(
        {1: FakeFilesystem("vfat"), 2: FakeFilesystem("LVM2_member")},
        others={"/dev/system/root": FakeFilesystem("ext4", made)},
    )
    source = image_at(tmp_path / "a.img", hint="")
    inside = look_inside(source, "", FakeAppliances({"a.img": disk}), ApplianceOptions(), ignore)
    assert seen(inside) == {Leftover.SHELL_HISTORY: ("/root/.bash_history",)}


def test_only_the_copy_is_trimmed(tmp_path: Path) -> None:
    image(tmp_path / "a.img")
    copy = image(tmp_path / "copy.img")
    appliances = FakeAppliances({"copy.img": FakeDisk({1: FakeFilesystem("ext4", guest())})})
    source = image_at(tmp_path / "a.img", hint="")
    look_inside(source, "", appliances, ApplianceOptions(), ignore, copy=copy)
    ((attachment,),) = appliances.launches
    assert (attachment.path, attachment.readonly) == (copy, False)
    assert ("trim", "/") in appliances.appliances[0].log
    appliances.disks["a.img"] = appliances.disks["copy.img"]
    look_inside(source, "", appliances, ApplianceOptions(), ignore)
    assert ("trim", "/") not in appliances.appliances[1].log


def test_an_appliance_that_dies_is_an_error(tmp_path: Path) -> None:
    def die(appliance: FakeAppliance) -> None:
        def glob(pattern: str) -> list[str]:
            raise ApplianceError(f"the appliance died at {pattern}")

        appliance.glob = glob  # type: ignore[method-assign]

    with pytest.raises(ApplianceError):
        look(tmp_path, guest(), FakeAppliances(prepare=die))


READ = [
    *(path for _, path, _ in SECRETS),
    *("/etc/shadow", "/etc/passwd", "/etc/machine-id", "/etc/hostname", "/etc/fstab"),
]


@given(files=st.dictionaries(st.sampled_from(READ), st.binary(max_size=300)))
@settings(deadline=None)
def test_any_content_is_read(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    made = guest()
    for path, content in files.items():
        made.add(path, content)
    assert look(tmp_path_factory.mktemp("a"), made).system
