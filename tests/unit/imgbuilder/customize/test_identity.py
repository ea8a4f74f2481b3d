"""--user, --cloud-init and --sysprep."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.customize import sysprep
from imgbuilder.customize.ops.identity import Sysprep, User
from imgbuilder.customize.run import customize
from imgbuilder.customize.syspreptasks import TASKS
from imgbuilder.errors import OperationError, PybuilderError, UsageError
from imgbuilder.events import Event, Notice
from imgbuilder.guests.ports import CommandResult
from tests.fakes.debianguest import KEY, apply, context_of, debian_guest
from tests.fakes.guest import FakeGuest
from tests.fakes.operations import parse_operation


@pytest.fixture
def ready() -> FakeGuest:
    """Return a guest whose useradd works."""
    guest = debian_guest()
    guest.add("/etc/group", "root:x:0:\nvideo:x:44:\naudio:x:29:\n")
    guest.add_dir("/etc/sudoers.d")

    def useradd(script: str) -> CommandResult:
        match = re.search(r"useradd .*-- (\S+)\n", script)
        assert match is not None
        guest.append("/etc/passwd", f"{match[1]}:x:1007:1007::/home/{match[1]}:/bin/sh\n".encode())
        guest.append("/etc/shadow", f"{match[1]}:!:19000:0:99999:7:::\n".encode())
        return CommandResult(0, "")

    guest.on_sh("useradd", useradd)
    return guest


def test_a_user_with_everything(ready: FakeGuest) -> None:
    apply(ready, "user", f"j.doe:sudo:groups=video,audio:key=string:{KEY}:password=password:with:colon")
    assert "useradd -m -s /bin/sh -G video,audio -- j.doe\n" in ready.scripts[0]
    assert ready.text("/home/j.doe/.ssh/authorized_keys") == f"{KEY}\n"
    assert "\nj.doe:$6$" in ready.text("/etc/shadow")
    assert ready.text("/etc/sudoers.d/90-j+doe") == "j.doe ALL=(ALL:ALL) ALL\n"
    assert ready.permissions("/etc/sudoers.d/90-j+doe") == ("0440", 0, 0)
    assert "colon" not in "".join(ready.scripts)


def test_a_user_without_password_needs_none_for_sudo(ready: FakeGuest) -> None:
    apply(ready, "user", "bob:sudo")
    assert ready.text("/etc/sudoers.d/90-bob") == "bob ALL=(ALL:ALL) NOPASSWD: ALL\n"
    assert "\nbob:*:" in ready.text("/etc/shadow")


def test_a_random_password_is_reported_once(ready: FakeGuest, events: list[Event]) -> None:
    apply(ready, "user", "bob:password=random", on_event=events.append)
    (said,) = [event.text for event in events if isinstance(event, Notice)]
    assert re.fullmatch(r"Setting random password of bob to \w{21}", said)


def test_passwords_keep_their_colons_and_reads_its_parts() -> None:
    user = parse_operation("user", "x:password=password:a:b:sudo")
    assert isinstance(user, User)
    assert user.password is not None
    assert (user.password.text, user.sudo) == ("a:b", True)


@pytest.mark.row("Z16")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a user name"), ("-x", "not a user name"), ("a b", "not a user name"),
        ("x:root", "is unknown"), ("x:sudo:sudo", "twice"), ("x:groups=", "not a user name"),
        ("x:groups=a;b", "not a user name"), ("x:key=nothing", "selector"), ("x:password=s3cret", "selector"),
        ("x:sudo:more", "is unknown"),
    ],
)  # fmt: skip
def test_an_invalid_user_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_operation("user", text)
    assert "s3cret" not in f"{caught.value.message}{caught.value.hint}"


@given(st.text(alphabet="ab:=,sudo-groupskeypassword;$(\n", max_size=40))
def test_any_text_gives_a_user_or_a_usage_error(text: str) -> None:
    try:
        parse_operation("user", text)
    except UsageError as error:
        said = error.message
    else:
        said = "--user: "
    assert said.startswith("--user: ")


@pytest.mark.parametrize(
    ("text", "message"), [("ann", "already"), ("bob:groups=none", "no group none"), ("bob:sudo", "no sudo")]
)
def test_a_guest_that_does_not_fit_is_not_changed(guest: FakeGuest, text: str, message: str) -> None:
    before = guest.tree()
    with pytest.raises(OperationError, match=message):
        apply(guest, "user", text)
    assert guest.tree() == before
    assert guest.scripts == []


def test_a_cloud_init_seed(events: list[Event], guest: FakeGuest, tmp_path: Path) -> None:
    (tmp_path / "user").write_text("#cloud-config\n")
    (tmp_path / "meta").write_text("instance-id: mine\n")
    (tmp_path / "net:work").write_text("version: 2\n")
    guest.add("/usr/bin/cloud-init")
    apply(
        guest, "cloud-init", f"{tmp_path}/user:{tmp_path}/meta:{tmp_path}/net\\:work", on_event=events.append
    )
    seed = "/var/lib/cloud/seed/nocloud"
    assert guest.ls(seed) == ["meta-data", "network-config", "user-data"]
    assert guest.text(f"{seed}/meta-data") == "instance-id: mine\n"
    assert guest.text(f"{seed}/network-config") == "version: 2\n"
    assert guest.permissions(f"{seed}/user-data") == ("0600", 0, 0)
    assert guest.permissions(seed)[0] == "0700"
    assert events == []


def test_a_seed_gets_a_new_instance_each_time_and_a_warning_without_cloud_init(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("#!/bin/sh\n")
    seen = set()
    for _time in range(3):
        guest = debian_guest()
        events: list[Event] = []
        apply(guest, "cloud-init", f"{tmp_path}/user", on_event=events.append)
        seen.add(guest.text("/var/lib/cloud/seed/nocloud/meta-data"))
        assert "no cloud-init" in str(events)
    assert len(seen) == 3


@pytest.mark.parametrize("content", ["", "packages: [nginx]\n", " #cloud-config\n"])
def test_user_data_that_cloud_init_would_ignore_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "user").write_text(content)
    with pytest.raises(UsageError, match="does not begin like user data"):
        parse_operation("cloud-init", f"{tmp_path}/user")


@pytest.fixture
def lived_in() -> FakeGuest:
    guest = debian_guest()
    guest.add("/etc/machine-id", "0123\n")
    for path in (
        "/etc/ssh/ssh_host_ed25519_key", "/etc/ssh/ssh_host_ed25519_key.pub",
        "/var/lib/dhcp/dhclient.eth0.leases",
        "/var/log/syslog", "/var/log/apt/term.log", "/var/log/syslog.1", "/var/log/journal/x/system.journal",
        "/root/.bash_history", "/home/ann/.python_history", "/var/cache/apt/archives/a.deb",
        "/var/lib/apt/lists/deb.debian.org_x", "/tmp/left", "/tmp/.hidden", "/var/lib/cloud/data/x",
        "/var/lib/systemd/random-seed", "/etc/udev/rules.d/70-persistent-net.rules",
    ):  # fmt: skip
        guest.add(path, "something")
    guest.add("/etc/ssh/sshd_config", "kept")
    guest.add("/var/lib/apt/lists/lock", "")
    guest.add("/var/lib/cloud/seed/nocloud/user-data", "kept")
    guest.add("/home/ann/notes", "kept")
    guest.add_link("/var/log/linked", "/home/ann/notes")
    guest.add_link("/var/lib/dbus/machine-id", "/etc/machine-id")
    return guest


def test_sysprep_removes_the_identity_and_nothing_else(lived_in: FakeGuest) -> None:
    assert {finding.task for finding in sysprep.find(lived_in)} >= {
        "machine-id", "ssh-hostkeys", "dhcp-leases", "network-rules", "logs", "shell-history",
        "package-caches", "temporary-files", "cloud-init", "random-seed",
    }  # fmt: skip
    customize(lived_in, [parse_operation("sysprep", "all")], context_of(lived_in))
    assert sysprep.find(lived_in) == []
    assert lived_in.text("/etc/machine-id") == ""
    assert lived_in.is_symlink("/var/lib/dbus/machine-id")
    assert lived_in.text("/var/log/syslog") == ""
    assert not lived_in.exists("/var/log/syslog.1")
    for path in ("/etc/ssh/sshd_config", "/home/ann/notes", "/var/lib/cloud/seed/nocloud/user-data"):
        assert lived_in.text(path) == "kept"


def test_sysprep_is_last_and_leaves_the_log_of_this_build(lived_in: FakeGuest) -> None:
    lived_in.add("/tmp/builder.log", "this build")
    customize(
        lived_in,
        [parse_operation("sysprep", "all"), parse_operation("write", "/tmp/late:x")],
        context_of(lived_in),
    )
    assert lived_in.ls("/tmp") == ["builder.log"]
    assert lived_in.text("/tmp/builder.log") == "this build"


@pytest.mark.parametrize(
    ("text", "tasks"),
    [("logs", ("logs",)), (" logs , machine-id", ("logs", "machine-id")), ("logs,logs", ("logs",)),
     ("all,-logs", tuple(name for name in sysprep.ALL if name != "logs"))],
)  # fmt: skip
def test_lists_of_tasks(text: str, tasks: tuple[str, ...]) -> None:
    assert parse_operation("sysprep", text) == Sysprep(tasks)


@pytest.mark.parametrize("text", ["", "nothing", "logs,", "-logs", "all,-nothing", "--logs"])
def test_an_invalid_list_of_tasks_is_refused(text: str) -> None:
    with pytest.raises(PybuilderError, match=r"(?i)task"):
        parse_operation("sysprep", text)


def test_every_task_is_in_the_manual_text() -> None:
    text = parse_operation("sysprep", "all").__doc__ or ""
    assert [name for name in TASKS if name not in text] == []


def test_each_user_has_a_sudo_rule_of_their_own(ready: FakeGuest) -> None:
    for name in ("a.b", "a_b", "a.b$"):
        apply(ready, "user", f"{name}:sudo")
    rules = [ready.text(f"/etc/sudoers.d/{name}") for name in ready.ls("/etc/sudoers.d")]
    assert sorted(rule.split()[0] for rule in rules) == ["a.b", "a.b$", "a_b"]
    assert all("." not in name for name in ready.ls("/etc/sudoers.d")), "sudo would pass over it"


def test_a_sudo_rule_of_the_guest_is_not_replaced(ready: FakeGuest) -> None:
    ready.add("/etc/sudoers.d/90-bob", "the template's\n")
    with pytest.raises(OperationError, match="already has a file"):
        apply(ready, "user", "bob:sudo")
    assert ready.text("/etc/sudoers.d/90-bob") == "the template's\n"
    assert ready.scripts == [], "refused before the user is added"


@pytest.mark.parametrize(
    ("sudoers", "works"),
    [
        ("@includedir /etc/sudoers.d\n", True),
        ("root ALL=(ALL) ALL\n#includedir  /etc/sudoers.d\n", True),
        ("root ALL=(ALL) ALL\n", False),
        ("# includedir /etc/sudoers.d.old\n", False),
    ],
)
def test_a_sudo_rule_that_sudo_does_not_read_is_refused(ready: FakeGuest, sudoers: str, works: bool) -> None:
    ready.add("/etc/sudoers", sudoers)
    if works:
        apply(ready, "user", "bob:sudo")
        return
    with pytest.raises(OperationError, match="does not include the folder"):
        apply(ready, "user", "bob:sudo")
    assert ready.scripts == []


def test_a_home_that_was_made_before_belongs_to_its_user(ready: FakeGuest, events: list[Event]) -> None:
    ready.add_dir("/home/bob")
    apply(ready, "user", "bob", on_event=events.append)
    assert ready.permissions("/home/bob") == ("0755", 1007, 1007)
    assert any("/home/bob existed before" in event.text for event in events if isinstance(event, Notice))


@pytest.mark.parametrize("groups", ["", ":groups=video,audio"])
def test_a_user_where_busybox_adds_users(ready: FakeGuest, groups: str, tmp_path: Path) -> None:
    """The shell has no useradd; addgroup refuses an empty name, as BusyBox's does."""
    ready.on_sh("useradd", CommandResult(0, ""))
    apply(ready, "user", f"bob{groups}")
    script = next(script for script in ready.scripts if "addgroup" in script)
    script = "\n".join(line for line in script.split("\n") if not line.startswith(("exec ", "export ")))
    for name, text in (("adduser", "true"), ("addgroup", '[ -n "$2" ] && echo "$2"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == (["video", "audio"] if groups else [])


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"cloud-init.disabled": ""}, "/etc/cloud/cloud-init.disabled exists"),
        ({"cloud.cfg.d/90.cfg": "datasource_list: [ Azure ]\n"}, "NoCloud is not in the datasource_list of"),
        ({"cloud.cfg.d/90.cfg": "a: b\ndatasource_list:\n  - Ec2\n- None\nb: [NoCloud]\n"}, "NoCloud is not"),
        ({"cloud.cfg.d/90.cfg": "datasource_list: [ NoCloud, None ]\n"}, None),
        (
            {"cloud.cfg": "datasource_list: [Ec2]\n", "cloud.cfg.d/1.cfg": "datasource_list:\n- NoCloud\n"},
            None,
        ),
        ({"cloud.cfg": "users: []\n"}, None),
    ],
)
def test_a_seed_that_cloud_init_will_not_read_is_a_warning(
    events: list[Event], guest: FakeGuest, files: dict[str, str], why: str | None, tmp_path: Path
) -> None:
    (tmp_path / "user-data").write_text("#cloud-config\n")
    guest.add("/usr/bin/cloud-init")
    for name, content in files.items():
        guest.add(f"/etc/cloud/{name}", content)
    apply(guest, "cloud-init", str(tmp_path / "user-data"), on_event=events.append)
    texts = [event.text for event in events if isinstance(event, Notice)]
    assert len(texts) == (why is not None)
    assert all(why in text for text in texts if why)
