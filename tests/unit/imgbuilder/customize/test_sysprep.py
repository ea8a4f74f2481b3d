"""The tasks of --sysprep: files of each program that identifies a machine."""

from __future__ import annotations

import pytest

from imgbuilder.cli import customize_main
from imgbuilder.customize import sysprep
from imgbuilder.customize.ops.identity import Sysprep
from imgbuilder.customize.syspreptasks import NOT_TASKS, PEER_NAMES, TASKS
from imgbuilder.errors import GuestCallError, OperationError, UsageError
from imgbuilder.events import Event, Notice, Severity
from tests.fakes.debianguest import apply
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation

KEYFILE = "/etc/NetworkManager/system-connections/{}.nmconnection"
IFCFG = "/etc/sysconfig/network-scripts/ifcfg-eth0"
IDENTITIES = {
    "net-hwaddr": IFCFG,
    "net-nmconn": KEYFILE.format("office"),
    "lvm-system-devices": "/etc/lvm/devices/system.devices",
    "disk-names": "/etc/iscsi/initiatorname.iscsi",
    "rh-subscription-manager": "/etc/pki/consumer/key.pem",
    "domain": "/etc/krb5.keytab",
    "management": "/etc/puppetlabs/puppet/ssl",
    "vpn": "/var/lib/tailscale/tailscaled.state",
    "passwd-backups": "/etc/shadow-",
    "mail-spool": "/var/spool/mail/root",
    "cron-spool": "/var/spool/cron/crontabs/root",
    "crash-data": "/var/crash/1",
}


@pytest.fixture
def used(bare: FakeGuest) -> FakeGuest:
    """A machine that was in use."""
    bare.add(IFCFG, "DEVICE=eth0\nHWADDR=52:54:00:01:02:03\n UUID=6ec5d8b1\nONBOOT=yes\n")
    bare.add(KEYFILE.format("office"), "[connection]\nid=office\n[wifi-security]\npsk=sesame\n", mode=0o600)
    for path in (
        "/etc/lvm/devices/system.devices", "/etc/pki/consumer/key.pem", "/etc/krb5.keytab", "/etc/shadow-",
        "/etc/puppetlabs/puppet/ssl/private_keys/a.pem", "/var/lib/tailscale/tailscaled.state",
        "/var/spool/mail/root", "/var/spool/cron/crontabs/root", "/var/crash/1/vmcore",
    ):  # fmt: skip
        bare.add(path, "x")
    bare.add("/etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1994-05.com.redhat:0123\n")
    return bare


def test_all_removes_what_identifies_a_machine(used: FakeGuest, events: list[Event]) -> None:
    found = {finding.task: finding.path for finding in sysprep.find(used)}
    assert found == IDENTITIES
    apply(used, "sysprep", "all", on_event=events.append)
    named = [event.text for event in events if isinstance(event, Notice)]
    assert named == [f"--sysprep: {task}: {path}" for task, path in IDENTITIES.items()]
    assert sysprep.find(used) == []
    assert used.text(IFCFG) == "DEVICE=eth0\nONBOOT=yes\n"
    assert used.is_dir("/var/spool/cron/crontabs"), "cron needs the folder"


def test_profiles_without_passwords_stay_without_hardware_addresses(bare: FakeGuest) -> None:
    path = KEYFILE.format("eth0")
    bare.add(path, "[ethernet]\nmac-address=02:00:00:00:00:01\ncloned-mac-address=stable\n", mode=0o600)
    apply(bare, "sysprep", "net-nmconn")
    assert bare.text(path) == "[ethernet]\ncloned-mac-address=stable\n"
    assert bare.permissions(path)[0] == "0600"


NETPLAN = """\
network:
  version: 2
  ethernets:
    ens3:
      dhcp4: true
      match:{}
      set-name: ens3
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            NETPLAN.format(' {macaddress: "02:00:00:00:00:01"}'),
            NETPLAN.replace("      match:{}\n      set-name: ens3\n", ""),
        ),
        (
            NETPLAN.format("\n        macaddress: 02:00:00:00:00:01"),
            NETPLAN.replace("      match:{}\n      set-name: ens3\n", ""),
        ),
        (
            NETPLAN.format("\n        macaddress: 02:00:00:00:00:01\n        driver: virtio"),
            NETPLAN.format("\n        driver: virtio"),
        ),
        (NETPLAN.format("\n        name: en*"), NETPLAN.format("\n        name: en*")),
        ("", ""),
    ],
)
def test_netplan_finds_a_card_by_its_name_afterwards(bare: FakeGuest, before: str, after: str) -> None:
    bare.add("/etc/netplan/50-cloud-init.yaml", before)
    apply(bare, "sysprep", "net-hwaddr")
    assert bare.text("/etc/netplan/50-cloud-init.yaml") == after


def test_debian_makes_a_new_iscsi_name_only_if_the_file_asks_for_it(bare: FakeGuest) -> None:
    path = "/etc/iscsi/initiatorname.iscsi"
    comment = "## If you remove this file, the iSCSI daemon will not start.\n"
    bare.add(path, f"{comment}InitiatorName=iqn.1993-08.org.debian:01:0123\n")
    apply(bare, "sysprep", "disk-names")
    assert bare.text(path) == f"{comment}GenerateName=yes\n"
    assert sysprep.find(bare) == []


def test_accounts_of_people_are_removed_only_by_name(bare: FakeGuest) -> None:
    bare.add("/etc/passwd", "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n")
    bare.add("/etc/shadow", "root:*:1::::::\nann:x:1::::::\n", mode=0o640)
    bare.add("/etc/group", "sudo:x:27:ann,bob\nann:x:1000:\n")
    bare.add("/home/ann/notes", "x")
    apply(bare, "sysprep", "all")
    assert bare.exists("/home/ann/notes")
    apply(bare, "sysprep", "user-account")
    assert bare.text("/etc/passwd") == "root:x:0:0::/root:/bin/sh\n"
    assert bare.text("/etc/shadow") == "root:*:1::::::\n"
    assert bare.text("/etc/group") == "sudo:x:27:bob\n"
    assert not bare.exists("/home/ann")


def test_names_of_virt_sysprep_are_accepted() -> None:
    assert set(PEER_NAMES.values()) <= set(TASKS)
    assert not set(PEER_NAMES) & set(TASKS)
    for peer, ours in PEER_NAMES.items():
        assert parse_operation("sysprep", peer) == Sysprep((ours,))
        assert ours not in sysprep.parse_tasks(("all", f"-{peer}"))


@pytest.mark.parametrize("name", NOT_TASKS)
def test_what_virt_sysprep_does_otherwise_has_a_hint(name: str) -> None:
    with pytest.raises(UsageError, match="is not a task") as caught:
        parse_operation("sysprep", name)
    assert caught.value.hint == NOT_TASKS[name]


def test_the_list_names_each_task_and_its_files() -> None:
    text = sysprep.task_list()
    for name, task in TASKS.items():
        assert f"\n{name}: {task.about}" in f"\n{text}"
        assert all(f"    {pattern}\n" in text for pattern in task.patterns)


def test_the_list_needs_no_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert customize_main.run(["--sysprep", "list"]) == 0
    assert capsys.readouterr().out == sysprep.task_list()


@pytest.mark.parametrize(
    ("path", "content", "warned"),
    [
        ("/etc/other", "", True),
        ("/usr/bin/cloud-init", "", False),
        ("/usr/lib/systemd/system/sshd-keygen@.service", "", False),
        ("/etc/init.d/sshd", "ssh-keygen -A\n", False),
        ("/etc/init.d/ssh", "start-stop-daemon\n", True),
        ("/usr/lib/virt-sysprep/scripts/5000-0001-x", "dpkg-reconfigure openssh-server\n", False),
        ("/etc/ssh/ssh_host_ed25519_key", "", True),
    ],
)
def test_an_ssh_server_that_would_get_no_keys_is_a_warning(
    bare: FakeGuest, events: list[Event], path: str, content: str, warned: bool
) -> None:
    bare.add("/usr/sbin/sshd")
    bare.add(path, content)
    apply(bare, "sysprep", "all", on_event=events.append)
    notices = [event for event in events if isinstance(event, Notice)]
    texts = [notice.text for notice in notices if notice.severity is Severity.WARNING]
    assert len(texts) == warned
    assert all("ssh-keygen -A" in text for text in texts)


def test_copies_that_editors_left_are_files_below_a_few_folders(bare: FakeGuest) -> None:
    for path in ("/etc/fstab~", "/var/deep/er/x.bak", "/usr/lib/x~", "/home/ann/x.bak", "/srv/real/x~"):
        bare.add(path)
    bare.add_dir("/root/folder~")
    bare.add_link("/root/link~", "x")
    apply(bare, "sysprep", "backup-files")
    for path in ("/etc/fstab~", "/var/deep/er/x.bak", "/srv/real/x~"):
        assert not bare.exists(path)
    assert bare.exists("/usr/lib/x~")
    assert bare.exists("/home/ann/x.bak")
    assert bare.is_dir("/root/folder~")
    assert bare.is_symlink("/root/link~")


def test_many_files_are_looked_at_folder_by_folder(bare: FakeGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.add("/var/lib/many/x~")
    bare.add("/var/y~")
    whole = bare.files_below

    def files_below(path: str) -> list[str]:
        if path in ("/var", "/var/lib"):
            raise GuestCallError("find0: File too large", errno_name="EFBIG")
        return whole(path)

    monkeypatch.setattr(bare, "files_below", files_below)
    apply(bare, "sysprep", "backup-files")
    assert not bare.exists("/var/lib/many/x~")
    assert not bare.exists("/var/y~")

    def ls(path: str) -> list[str]:
        raise GuestCallError(f"ls: {path}: File too large", errno_name="EFBIG")

    monkeypatch.setattr(bare, "ls", ls)
    with pytest.raises(OperationError, match="/var has too many files") as caught:
        apply(bare, "sysprep", "all")
    assert "all,-backup-files" in (caught.value.hint or "")


@pytest.mark.parametrize("reader", ["", "/etc/rc.d/rc.sysinit"])
def test_a_flag_that_nothing_reads_is_a_warning(bare: FakeGuest, events: list[Event], reader: str) -> None:
    if reader:
        bare.add(reader, "if [ -f /.unconfigured ]; then :; fi\n")
    apply(bare, "sysprep", "flag-reconfiguration", on_event=events.append)
    assert bare.is_file("/.unconfigured")
    warned = [item for item in events if isinstance(item, Notice) and item.severity is Severity.WARNING]
    assert len(warned) == (not reader)
    apply(bare, "sysprep", "all")
