"""The command line of pybuilder, without an appliance."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest

from imgbuilder.appliance.instant.store import StateStore
from imgbuilder.cli import main as cli
from imgbuilder.cli.options import integer
from imgbuilder.services import Settings
from imgindex.model import ExtraField, FurtherFile, Note
from tests.fakes.commands import Command
from tests.fakes.template import Site, TinyAppliances

pytestmark = pytest.mark.usefixtures("appliances")


def test_version_and_help(pybuilder: Command) -> None:
    assert pybuilder("--version").out.startswith("pybuilder ")
    text = pybuilder("--help").out
    assert "--run-command" in text
    sections = ["Verbs", "Most used", "Build", "Customize", "Sources", "Cache", "Appliance", "Other"]
    places = [text.index(f"\n{name}:\n") for name in sections]
    assert places == sorted(places)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert len(text[places[1] : places[2]].split("\n  -")) == 11, "the ten most used options"


def test_listings(site: Site, pybuilder: Command) -> None:
    assert pybuilder("--list").out == f"{'tiny':<24} {'x86_64':<10} Tiny Linux\n"
    assert pybuilder("-l", "tiny").out == pybuilder("--list").out
    assert "Minimum/default size:    8.0M" in pybuilder("--list", "--long").out
    listed = json.loads(pybuilder("-list", "-list-format=json").out)
    assert listed["templates"][0]["full-name"] == "Tiny Linux"
    assert pybuilder("--notes", "tiny").out == "There are no notes for tiny\n"
    site.sign(replace(site.entry, notes=(Note("", "Hello\n\nWorld"),)))
    assert pybuilder("--notes", "tiny").out == "Hello\n\nWorld\n"


def test_listing_survives_a_closed_pipe(site: Site) -> None:
    listing = f"{sys.executable} -m imgbuilder --list"
    done = subprocess.run(f"{listing} | true", shell=True, capture_output=True, text=True)
    assert done.stderr == ""
    full = subprocess.run(f"{listing} >/dev/full", shell=True, capture_output=True, text=True)
    assert full.returncode != 0
    assert "Traceback" not in full.stderr


def test_cache_modes(site: Site, home: Path, pybuilder: Command) -> None:
    cache = home / "pybuilder"
    assert pybuilder("--print-cache").out.split("\n")[1] == f"{'tiny':<24} {'x86_64':<10} no"
    assert pybuilder("tiny", "--root-password", "disabled").code == 0
    shown = pybuilder("--print-cache").out
    assert shown == f"cache directory: {cache}\n{'tiny':<24} {'x86_64':<10} cached\n"
    assert pybuilder("--no-cache", "--print-cache").out == "no cache directory\n"
    states = StateStore(cache / "instant")
    states.open()
    states.give_up("a" * 40, "too slow")
    assert pybuilder("--print-cache").out == shown
    printed = pybuilder("--print-cache", "-v").out
    assert printed == f"{shown}an appliance that could not be saved (too slow)\n"
    assert pybuilder("--delete-cache").code == 0
    assert not states.root.exists(), "also saved appliances"
    assert "no" in pybuilder("--print-cache").out.split("\n")[1]


def test_cache_all_templates_gc_and_verify(site: Site, home: Path, pybuilder: Command) -> None:
    site.sign(site.entry, replace(site.entry, os_version="secret", arch="aarch64", hidden=True))
    template = home / "pybuilder" / "templates" / str(site.entry.sha512)
    pybuilder("--cache-all-templates").good()
    assert template.exists()
    assert pybuilder("cache", "verify").code == 0
    template.chmod(0o600)
    template.write_bytes(b"x")
    ran = pybuilder("cache", "verify")
    assert (ran.code, template.exists()) == (1, False)
    assert "removed: tiny (template)" in ran.out
    assert pybuilder("--cache-all-templates").code == 0
    ran = pybuilder("cache", "gc")
    assert "removed" not in ran.out
    ran = pybuilder("cache", "gc", "--cache-size", "0b").good()
    assert "removed: tiny (template)" in ran.out or "removed: secret (template)" in ran.out
    assert "its limit is 0" in ran.out
    assert not template.exists()


def test_cache_verify_repairs(site: Site, home: Path, pybuilder: Command) -> None:
    assert pybuilder("tiny", "--root-password", "disabled").code == 0
    (disk,) = (home / "pybuilder" / "disks").glob("*.raw")
    content = disk.read_bytes()

    def damage() -> None:
        disk.chmod(0o600)
        with disk.open("r+b") as file:
            file.write(b"damaged")

    damage()
    ran = pybuilder("cache", "verify", "--repair").good()
    assert ran.out.endswith("files: 2 looked at, 0 damaged and removed, 1 damaged and repaired\n")
    assert disk.read_bytes() == content
    assert pybuilder("cache", "verify").code == 0
    damage()
    (home / "pybuilder" / "templates" / str(site.entry.sha512)).unlink()
    (site.folder / "tiny.xz").unlink()
    ran = pybuilder("cache", "verify", "--repair")
    assert ran.code == 1
    assert "tiny (unpacked disk) is not repaired: " in ran.err + ran.out
    assert ran.out.endswith("1 damaged and not repaired\n")
    assert pybuilder("tiny", "--root-password", "disabled").code == 1, "a damaged disk is not used"


def test_cache_all_templates_goes_on_after_a_failure(site: Site, home: Path, pybuilder: Command) -> None:
    site.sign(replace(site.entry, os_version="gone", file="gone.xz", sha512="0" * 128), site.entry)
    pybuilder("--cache-all-templates").failed(1, "gone.xz")
    assert (home / "pybuilder" / "templates" / str(site.entry.sha512)).exists()


def test_cache_add(site: Site, pybuilder: Command, tmp_path: Path) -> None:
    stick = tmp_path / "stick.xz"
    (site.folder / "tiny.xz").rename(stick)
    assert pybuilder("tiny").code == 1
    ran = pybuilder("cache", "add", str(stick)).good()
    assert f"Copying: {stick}" in ran.out
    assert "Downloading" not in ran.out
    assert pybuilder("tiny", "--root-password", "disabled").code == 0
    stick.write_bytes(b"x")
    pybuilder("cache", "add", str(stick)).failed(1, "not a template of a configured source")
    assert pybuilder("cache", "add", str(tmp_path)).code == 1
    assert pybuilder("cache", "add").code == 2
    ran = pybuilder("cache", "add", "nosuch")
    assert (ran.code, ran.out) == (2, "")
    assert "there is no file nosuch" in ran.err


def test_deleting_says_what_was_deleted(site: Site, pybuilder: Command) -> None:
    assert pybuilder("cache", "all", "--cache", "mine").code == 0
    assert "Deleted: mine" in pybuilder("cache", "delete", "--cache", "mine").out
    ran = pybuilder("cache", "delete", "--cache", "mine")
    assert (ran.code, "there is no cache in mine" in ran.out) == (0, True)
    Path("file").write_text("")
    ran = pybuilder("cache", "delete", "--cache", "file")
    assert (ran.code, ran.out) == (1, "")


def test_a_bundle_is_not_overwritten(site: Site, pybuilder: Command) -> None:
    Path("x.pybundle").write_text("mine")
    pybuilder("cache", "export", "x.pybundle", "tiny").failed(1, "x.pybundle is there already")
    assert Path("x.pybundle").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-m", "255"], "--memsize 256 or more"),
        (["--cache", "file"], "the cache file is not a folder"),
        (["--size", "999999T"], "but files are limited to 1024.0G (ulimit -f)"),
    ],
)
def test_plans_that_cannot_work(site: Site, pybuilder: Command, words: list[str], expected: str) -> None:
    Path("file").write_text("")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if "--size" in words:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, limits[1]))
    try:
        ran = pybuilder("plan", "tiny", *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ran.code in {1, 2}
    assert expected in ran.err


def test_plans_name_the_random_password(site: Site, pybuilder: Command) -> None:
    text = "set a random root password"
    assert text in pybuilder("plan", "tiny", "--hostname", "web").out
    assert text not in pybuilder("plan", "tiny", "--root-password", "disabled").out


def test_cache_path(site: Site, pybuilder: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pybuilder("--cache-all-templates", "--cache", str(tmp_path / "team")).code == 0
    (site.folder / "tiny.xz").unlink()
    monkeypatch.setenv("PYBUILDER_CACHE_PATH", str(tmp_path / "team"))
    assert "cached" in pybuilder("--print-cache").out.split("\n")[1]
    ran = pybuilder("tiny", "--root-password", "disabled").good()
    assert "Copying: " in ran.out


@pytest.mark.parametrize("mode", ["--cache-all-templates", "cache all", "cache gc", "cache verify"])
def test_cache_modes_need_a_cache_and_no_name(site: Site, pybuilder: Command, mode: str) -> None:
    for wrong in (["--no-cache"], ["tiny"], ["--cache-size", "much"]):
        ran = pybuilder(*mode.split(), *wrong)
        assert ran.code == 2
        assert mode in ran.err or "much" in ran.err


def test_a_build_from_the_command_line(site: Site, appliances: TinyAppliances, pybuilder: Command) -> None:
    ran = pybuilder(
        "tiny", "-o", "x.qcow2", "-format", "qcow2", "--siz", "16M",
        "--write", "/etc/a:1", "--mkdir", "/etc/d", "--append-line", "/etc/a:2", "--write", "/etc/d/b:3",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    steps = re.findall(r"^\[ *[\d.]+\] (.*)$", ran.out, re.MULTILINE)
    wanted = ["Writing: /etc/a", "Making directory: /etc/d", "Appending line to /etc/a", "Writing: /etc/d/b"]
    assert [step for step in steps if step in wanted] == wanted, "in the order of the command line"
    assert "Output file: x.qcow2" in ran.out
    assert appliances.guest.read("/etc/a") == b"1\n2\n"


def test_quiet_says_only_the_password(site: Site, pybuilder: Command) -> None:
    ran = pybuilder("tiny", "-q")
    assert re.fullmatch(r"pybuilder: Setting random password of root to \S{20,}\n", ran.out)
    assert ran.err == ""


def test_gpg_with_options_finds_the_keyring(site: Site, pybuilder: Command) -> None:
    """As virt-builder has it: ``--gpg 'gpg --homedir DIR'``; --curl is known, and has no effect."""
    words = ["--source", str(site.index), "--fingerprint", site.key, "--list"]
    assert "not in your keyring" in pybuilder(*words).err
    ran = pybuilder(*words, "--gpg", f"gpg --homedir {site.keys.home}", "--curl", "curl --insecure")
    assert (ran.code, ran.out) == (0, f"{'tiny':<24} {'x86_64':<10} Tiny Linux\n")
    assert "--curl has no effect" in ran.err
    assert "no-such-gpg" in pybuilder(*words, "--gpg", "no-such-gpg").err
    for wrong in ("", "'"):
        assert pybuilder(*words, "--gpg", wrong).code == 2


def test_machine_readable_alone_says_what_there_is(pybuilder: Command) -> None:
    """It wins over modes, and never takes the next word for its value, as in virt-builder."""
    words = "virt-builder\narch\nconfig-file\ncustomize\njson-list\npxzcat\n"
    for command in (
        ["--machine-readable"],
        ["--machine-readable", "--list"],
        ["-machine-readable=stream:stdout"],
    ):
        ran = pybuilder(*command)
        assert (ran.code, ran.out) == (0, words)


def test_machine_readable_alone_goes_where_it_is_sent(tmp_path: Path, pybuilder: Command) -> None:
    log = tmp_path / "log"
    ran = pybuilder(f"--machine-readable=file:{log}")
    assert (ran.code, ran.out) == (0, "")
    assert log.read_text().startswith("virt-builder\narch\n")
    ran = pybuilder("--machine-readable=stream:stderr")
    assert (ran.out, ran.err[:13]) == ("", "virt-builder\n")
    for wrong in ("nonsense", "file:", "fd:x", "stream:middle"):
        ran = pybuilder(f"--machine-readable={wrong}")
        assert (ran.code, ran.out) == (2, "")


@pytest.mark.parametrize("mode", [["--list"], ["--print-cache"], ["--delete-cache"], ["--machine-readable"]])
@pytest.mark.parametrize(
    "wrong",
    [
        "--size=10", "--cache-size=x", "--format=zip", "--attach-format=zip", "--key=x",
        "--chmod=x", "--password=root:nonsense", "--root-password=file:/missing", "--smp=x", "--on-error=x",
        "--commands-from-file=/missing", "--password-crypto=foo", "--list-format=x", "--gpg=",
    ],
)  # fmt: skip
def test_values_are_read_in_every_mode(home: Path, pybuilder: Command, mode: list[str], wrong: str) -> None:
    (home / "pybuilder" / "templates").mkdir(parents=True)
    ran = pybuilder(*mode, wrong)
    assert ran.code == 2
    assert wrong.partition("=")[0] in ran.err or wrong.partition("=")[2] in ran.err
    assert (home / "pybuilder" / "templates").exists()


def test_the_last_mode_counts(site: Site, home: Path, pybuilder: Command) -> None:
    (home / "pybuilder" / "templates").mkdir(parents=True)
    assert pybuilder("--delete-cache", "--list").out.startswith("tiny")
    assert (home / "pybuilder" / "templates").exists()
    assert "Deleting" in pybuilder("--list", "--long", "--delete-cache").out


def test_a_key_is_read_once_so_that_it_may_come_from_a_pipe(site: Site, pybuilder: Command) -> None:
    source, sink = os.pipe()
    os.write(sink, b"s3cret\n")
    os.close(sink)
    ran = pybuilder("tiny", "--dry-run", "--root-password", f"file:/dev/fd/{source}")
    os.close(source)
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("option", ["--sm-register", "--sm-attach=auto", "--inject-virtio-win=/x"])
def test_options_that_are_not_ours_are_named(option: str, pybuilder: Command) -> None:
    ran = pybuilder("tiny", option)
    assert ran.code == 2
    assert "No such option" not in ran.err


@pytest.mark.parametrize("place", ["file", "stream:stderr", "fd"])
def test_machine_readable_messages(
    site: Site, capfd: pytest.CaptureFixture[str], tmp_path: Path, place: str
) -> None:
    log = tmp_path / "log"
    with log.open("w") as file:
        where = {"file": f"file:{log}", "fd": f"fd:{file.fileno()}"}.get(place, place)
        capfd.readouterr()
        assert cli.run([f"--machine-readable={where}", "tiny", "--size", "1M"]) == 2
        error = capfd.readouterr().err
    lines = error.splitlines()[:1] if place == "stream:stderr" else log.read_text().splitlines()
    (printed,) = [json.loads(line) for line in lines]
    assert printed["type"] == "error"
    assert "shrunk" in printed["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}[+-]\d\d:\d\d", printed["timestamp"])
    assert f"error: {printed['message']}" in error


def test_machine_readable_steps(site: Site, pybuilder: Command) -> None:
    ran = pybuilder("--machine-readable", "tiny").good()
    printed = [json.loads(line) for line in ran.out.splitlines() if line.startswith("{")]
    assert {line["type"] for line in printed} >= {"message"}
    assert any(line["message"] == "Finishing off" for line in printed)


@pytest.mark.parametrize(
    "where", ["x", "file:", "fd:x", "fd:-1", "stream:x", "fd:99999", "file:/nonexistent/x"]
)
def test_machine_readable_mistakes(site: Site, pybuilder: Command, where: str) -> None:
    ran = pybuilder(f"--machine-readable={where}", "tiny")
    assert ran.code in {1, 2}
    assert where in ran.err


def test_machine_readable_messages_go_to_a_pipe_that_a_program_reads(site: Site, pybuilder: Command) -> None:
    os.mkfifo("pipe")
    pybuilder("--machine-readable=file:pipe", "tiny", "--dry-run").failed(1, "no process reads this pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert pybuilder("--machine-readable=file:pipe", "tiny", "--size", "1M").code == 2
    assert json.loads(os.read(reader, 4096))["type"] == "error"
    os.close(reader)


def test_dry_run_writes_nothing(
    site: Site, home: Path, appliances: TinyAppliances, pybuilder: Command
) -> None:
    ran = pybuilder("tiny", "--dry-run", "--size", "1G", "--install", "nginx").good()
    assert "Installing packages: nginx" in ran.out
    assert "grow the disk to 1.0G" in ran.out
    assert list(Path().iterdir()) == []
    assert not (home / "pybuilder" / "templates").exists()
    assert appliances.launches == []


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["-v"], 2, "name the template"),
        (["build"], 2, "name the template"),
        (["cache", "-v"], 2, "pybuilder cache --help"),
        (["cache", "x"], 2, "No such command"),
        (["list", "--size", "1G"], 2, "--size"),
        (["a", "b"], 2, "exactly one OS-VERSION"),
        (["tiny", "--size", "5"], 2, "cannot parse size"),
        (["tiny", "--size", "1M"], 2, "shrunk"),
        (["tiny", "--memsize", "-1"], 2, "memsize"),
        (["tiny", "--smp", "x"], 2, "smp"),
        (["tiny", "--hostname", "a;b"], 2, "--hostname"),
        (["tiny", "--bogus"], 2, "--bogus"),
        (["tiny", "--output"], 2, "output"),
        (["--list", "a", "b"], 2, "--list 'debian*'"),
        (["--list", "--format", "raw"], 2, "--list-format"),
        (["--print-cache", "tiny"], 2, "takes no OS-VERSION"),
        (["--notes"], 2, "exactly one"),
        (["--list", "--list-format", "xml"], 2, "xml"),
        (["--source", "/x", "--list"], 2, "--source needs --fingerprint"),
        (["tiny", "--install", "--dry-run"], 2, "the names of packages are missing before --dry-run"),
        (["source", "add", "a", "/x", "--gpgkey", "/etc"], 2, "--gpgkey /etc is a folder"),
        (["source", "add", "a", "/x", "--source", "/x"], 2, "has no option --source"),
        (["source", "forget", "a", "--source", "/x"], 2, "has no option --source"),
        (["tinny"], 2, "tiny"),
        (["--s", "x"], 2, "ambiguous"),
        (["--lis"], 2, "ambiguous"),
        (["tiny", "--format", "vhd"], 2, "not supported"),
        (["tiny", "--root-password", "file:/missing"], 2, "/missing"),
        (["tiny", "--root-password", "wrong:x"], 2, "--root-password"),
        (["tiny", "--run", "/missing/script"], 2, "/missing/script"),
        (["tiny", "--upload", "/missing:/x"], 2, "/missing"),
        (["tiny", "--install", "a;reboot"], 2, "--install"),
        (["tiny", "--write", "relative:x"], 2, "--write"),
        (["tiny", "--chmod", "u+x:/x"], 2, "--chmod"),
        (["tiny", "--commands-from-file", "/missing"], 2, "/missing"),
        (["tiny", "--password", "root:random", "--root-password", "random"], 2, "twice"),
    ],
)
def test_wrong_usage(
    site: Site, home: Path, pybuilder: Command, words: list[str], code: int, expected: str
) -> None:
    ran = pybuilder(*words)
    assert ran.code == code, ran.err
    assert expected in ran.err
    assert ran.err.startswith("pybuilder: error: ")
    assert "Traceback" not in ran.err
    assert list(Path().iterdir()) == []
    assert not (home / "pybuilder" / "templates").exists(), "nothing was fetched"


def test_trust_has_its_own_exit_code(site: Site, pybuilder: Command) -> None:
    site.index.write_text(site.index.read_text().replace("Tiny", "Evil"))
    ran = pybuilder("--list")
    assert ran.code == 3
    assert ran.out == ""


def test_integers_are_read_like_strtol() -> None:
    for text, number in [("512", 512), ("0x200", 512), ("01000", 512)]:
        option = next(param for param in cli.pybuilder.params if param.name == "memsize")
        assert integer(click.Context(cli.pybuilder), option, text) == number


def test_no_secret_in_the_plan(site: Site, pybuilder: Command) -> None:
    ran = pybuilder("tiny", "--root-password", "password:hunter2", "--dry-run", "-v").good()
    assert "hunter2" not in ran.out + ran.err
    ran = pybuilder("tiny", "--root-password", "password:hunter2", "-v")
    assert "hunter2" not in ran.out + ran.err


def test_settings_know_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().cache_folder() == home / "pybuilder"
    assert Settings(cache=Path("x")).cache_folder() == Path("x")
    assert Settings(use_cache=False).cache_folder() is None


@pytest.mark.row("S37")
@pytest.mark.parametrize("by", ["name", "url", "file url"])
def test_forget_source_mends_a_damaged_record(site: Site, home: Path, pybuilder: Command, by: str) -> None:
    assert pybuilder("--list").code == 0
    (record,) = (home / "pybuilder" / "sources").glob("*.json")
    record.write_text("junk")
    pybuilder("--list").failed(3, "source forget")
    wanted = {"name": "test", "url": str(site.index), "file url": f"file://{site.index}"}[by]
    repaired = pybuilder("source", "forget", wanted)
    assert (repaired.code, repaired.err) == (0, "")
    assert "will not be noticed" in repaired.out
    assert pybuilder("--list").code == 0
    assert record.exists()


def test_forget_source_that_is_not_known(site: Site, pybuilder: Command) -> None:
    for wanted in ("nowhere", "https://user:canary@example.org/index.asc", "test"):
        failed = pybuilder("source", "forget", wanted)
        assert failed.code == 2
        text = "there is no source 'nowhere'" if wanted == "nowhere" else "there is nothing to forget"
        assert text in failed.err
        assert "canary" not in failed.err


def test_rollback_ends_a_build_and_a_list(site: Site, appliances: TinyAppliances, pybuilder: Command) -> None:
    old = site.index.read_bytes()
    site.sign()
    assert pybuilder("--list").code == 0
    site.index.write_bytes(old)
    for words in (["--list"], ["tiny"], ["--notes", "tiny"]):
        pybuilder(*words).failed(3, "rolled back")
    assert appliances.launches == []


def test_list_sources(site: Site, home: Path, pybuilder: Command) -> None:
    site.configure(home, **{"max-age": "30"})
    folder = home / "pybuilder" / "repos.d"
    (folder / "u.conf").write_text(
        "[plain]\nuri=https://u:canary@example.org/i\nunsigned=yes\n[off]\nenabled=no\n"
    )
    before = pybuilder("source", "list")
    assert (before.code, before.err) == (0, "")
    assert before.out == (
        f"Source:                  test\nURI:                     {site.index}\n"
        f"Configuration:           {folder / 'test.conf'}\n"
        f"Key:                     {site.folder / 'key.gpg'}\n"
        "Oldest allowed:          30 days\nState:                   never used\n\n"
        "Source:                  plain\nURI:                     https://example.org/i\n"
        f"Configuration:           {folder / 'u.conf'}\n"
        "State:                   not signed (unsigned=yes)\n\n"
        f"Source:                  off\nConfiguration:           {folder / 'u.conf'}\n"
        "State:                   switched off by enabled=no\n\n"
    )
    (folder / "u.conf").unlink()
    assert pybuilder("--list").code == 0
    (record,) = (home / "pybuilder" / "sources").glob("*.json")
    fields = json.loads(record.read_text())
    signed_at = fields["signed_at"].replace("T", " ").replace("+00:00", " UTC")
    after = pybuilder("source", "list").out
    assert f"Signed by:               {site.key}\n" in after
    assert f"Signed at:               {signed_at}\n" in after
    assert "Expires:                 never\n" in after
    assert "Last accepted:           20" in after
    site.configure(home, gpgkey="", unsigned="yes")
    assert "refused with unsigned=yes" in pybuilder("source", "list").out
    record.write_text("junk")
    assert "source forget" in pybuilder("source", "list").out


def test_list_sources_needs_no_source_to_answer(home: Path, pybuilder: Command) -> None:
    ran = pybuilder("source", "list", "--source", "/nowhere/index", "--fingerprint", "A" * 40).good()
    assert "command line" in ran.out
    assert pybuilder("source", "list", "name").code == 2


def test_list_sources_without_any_says_what_to_do(home: Path, pybuilder: Command) -> None:
    for path in (home / "pybuilder" / "repos.d").glob("*"):
        path.unlink()
    ran = pybuilder("source", "list")
    assert (ran.code, ran.out) == (0, "")
    assert "to add one: pybuilder source add" in ran.err


def test_list_sources_may_ask_them(site: Site, home: Path, pybuilder: Command) -> None:
    ran = pybuilder("source", "list", "--long").good()
    assert "Answer now:              good, with 1 template\n" in ran.out
    text = "[gone]\nuri=/nowhere/index\nunsigned=yes\nproxy=http://u:canary@p:1\n"
    (home / "pybuilder" / "repos.d" / "u.conf").write_text(text)
    ran = pybuilder("source", "list", "--long")
    assert ran.code == 1
    assert "Answer now:              not usable: cannot read /nowhere/index" in ran.out
    assert "Proxy:                   http://p:1\n" in ran.out
    site.index.unlink()  # what was accepted before does not count
    assert pybuilder("source", "list", "--long").out.count("not usable") == 2
    assert pybuilder("source", "list").code == 0


def test_the_full_list(site: Site, home: Path, pybuilder: Command, tmp_path: Path) -> None:
    zstd, blocks = FurtherFile("tiny.zst", "ef" * 64, 77), FurtherFile("tiny.blocklist", "ab" * 64, 8)
    extra = (ExtraField("color", None, "blue\nand red"), ExtraField("size", "real", "1"))
    notes = (Note("", "Hi \u202e \N{SNOWMAN}"), Note("de", "Hallo"))
    wanted = replace(
        site.entry, aliases=("a", "b"), notes=notes, extra=extra, zstd=zstd, blocks=blocks, revision=9
    )
    site.sign(wanted, replace(site.entry, os_version="secret", hidden=True))
    folder = home / "pybuilder" / "repos.d"
    (tmp_path / "index").write_text(
        "[tiny]\nfile=x.xz\narch=amd64\nsize=512\n[own]\nfile=o\narch=i686\nsize=512\n"
    )
    (folder / "u.conf").write_text(
        f"[second]\nuri={tmp_path}/index\nunsigned=yes\n"
        f"[gone]\nuri=https://u:canary@localhost:1/index,/nowhere/i\ngpgkey={site.folder}/key.gpg\n"
        f"fingerprint={site.key}\n"
    )
    ran = pybuilder("--list", "--list-format", "full").good()
    assert ran.out.isascii()
    assert "canary" not in ran.out
    full = json.loads(ran.out)
    assert full["version"] == 2
    first, second = full["sources"]
    assert (first["name"], first["uri"], first["format"]) == ("test", str(site.index), "native")
    assert first["key"] == str(site.folder / "key.gpg")
    assert (first["signed"]["by"], first["signed"]["with"]) == (site.key, site.key)
    assert 0 <= first["signed"]["age"] < 3600
    assert first["signed"]["at"].endswith("+00:00")
    assert (second["name"], second["signed"]) == ("second", None)
    (gone,) = full["unusable-sources"]
    assert (gone["name"], gone["mirrors"], gone["fingerprints"]) == ("gone", ["/nowhere/i"], [site.key])
    assert "cannot read /nowhere/i" in gone["error"]
    tiny, secret, shadowed, own = full["templates"]
    assert tiny == {
        "os-version": "tiny", "source": "test", "shadowed": False, "full-name": "Tiny Linux",
        "arch": "x86_64", "osinfo": None, "aliases": ["a", "b"], "hidden": False, "revision": 9,
        "size": site.entry.size,
        "format": "raw", "url": str(site.folder / "tiny.xz"), "compressed-size": site.entry.compressed_size,
        "sha512": site.entry.sha512, "sha256": None,
        "zstd": {"url": str(site.folder / "tiny.zst"), "compressed-size": 77, "sha512": "ef" * 64},
        "blocks": {"url": str(site.folder / "tiny.blocklist"), "compressed-size": 8, "sha512": "ab" * 64},
        "expand": "/dev/sda2", "lvexpand": None, "notes": {"": "Hi \u202e \N{SNOWMAN}", "de": "Hallo"},
        "other": {"color": "blue\nand red", "size[real]": "1"},
    }  # fmt: skip
    assert (secret["hidden"], shadowed["shadowed"], shadowed["source"]) == (True, True, "second")
    assert own["shadowed"] is False
    only = json.loads(pybuilder("--list", "a", "--list-format", "full").out)
    assert only["templates"] == [tiny]
    assert [source["name"] for source in only["sources"]] == ["test"]
    (folder / "u.conf").write_text(f"[second]\nuri={tmp_path}/index\nunsigned=yes\n")
    found = json.loads(pybuilder("search", "TINY", "--list-format", "full").out)["templates"]
    assert [item["source"] for item in found] == ["test", "second"]


def test_list_by_pattern_and_by_word(site: Site, pybuilder: Command) -> None:
    other = replace(
        site.entry, os_version="debian-12", name="Debian Bookworm", aliases=("stable",), osinfo="debian12",
        notes=(Note("", "With cloud-init"),),
    )  # fmt: skip
    hidden = replace(site.entry, os_version="debian-0", hidden=True)
    site.sign(site.entry, other, hidden)

    def found(*words: str) -> list[str]:
        return [line.split()[0] for line in pybuilder(*words).out.splitlines()]

    assert found("--list") == ["tiny", "debian-12"]
    assert found("--list", "debian*") == found("--list", "sta?le") == ["debian-12"]
    assert found("--list", "[dt]*") == found("--list", "*") == ["tiny", "debian-12"]
    for word in ("BOOKWORM", "cloud-init", "stable", "debian12", "debian-1"):
        assert found("search", word) == ["debian-12"], word
    assert found("search", "N") == ["tiny", "debian-12"]
    listed = json.loads(pybuilder("--list", "debian*", "--list-format", "json").out)
    assert [item["os-version"] for item in listed["templates"]] == ["debian-12"]
    for words in (["--list", "x*"], ["search", "a", "tiny"]):
        assert pybuilder(*words).code == 2
    ran = pybuilder("search", "nowhere")
    assert (ran.code, "no template matches 'nowhere'" in ran.err) == (1, True)
    assert pybuilder("--list", "Debian*").code == 2, "names are compared exactly"


def test_attached_disks_are_read_only_and_formats_are_sticky(
    site: Site, appliances: TinyAppliances, tmp_path: Path, pybuilder: Command
) -> None:
    disks = [str(tmp_path / f"{number}.disk") for number in range(4)]
    for disk in disks:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    one, two, three, four = disks
    ran = pybuilder(
        "tiny", "--root-password", "disabled", "--attach", one, "--attach-format", "raw",
        "--attach", two, "--hostname", "x", "--attach", three, "--attach-format=auto", "-attach", four,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (launched,) = appliances.launches
    assert [(str(disk.path), str(disk.format)) for disk in launched[1:]] == [
        (one, "qcow2"), (two, "raw"), (three, "raw"), (four, "qcow2"),
    ]  # fmt: skip
    assert [disk.readonly for disk in launched] == [False, True, True, True, True]
    assert pybuilder("tiny", "--attach", "/nonexistent").code == 2
    assert "not supported" in pybuilder("tiny", "--attach-format", "vmdk", "--attach", one).err
    assert not (tmp_path / "home/pybuilder/templates/x").exists()


def test_get_kernel_takes_an_image_and_nothing_else(
    site: Site, appliances: TinyAppliances, tmp_path: Path, pybuilder: Command
) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    appliances.roots = {"/dev/sda2": {}}
    appliances.guest.add("/boot/vmlinuz-5.1", b"kernel")
    ran = pybuilder("--get-kernel", str(image)).good()
    assert ran.out == "download: /boot/vmlinuz-5.1 -> ./vmlinuz-5.1\n"
    assert Path("vmlinuz-5.1").read_bytes() == b"kernel"
    words = ("get-kernel", "--prefix", "p", "--unversioned-names", "-q", str(image))
    assert pybuilder(*words).out == ""
    assert Path("p-vmlinuz").read_bytes() == b"kernel"
    assert pybuilder("get-kernel", "--prefix", "../p", str(image)).code == 2
    assert pybuilder("--get-kernel", str(image), "tiny").code == 2
    assert pybuilder("--get-kernel").code == 2
    assert pybuilder("--get-kernel", str(image), "--hostname", "x").code == 2
    assert "does not exist" in pybuilder("--get-kernel", str(image), "-o", "missing").err
    assert "supported" in pybuilder("--get-kernel", str(image), "--format", "vmdk").err
