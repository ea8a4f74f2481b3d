"""The interface for programs: its names, and the examples of its page."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import imgbuilder
from imgbuilder import Builder, BuildRequest, Install, Services, Settings, Step, Write, api
from imgbuilder.customize.registry import all_operations
from imgbuilder.errors import UsageError
from imgbuilder.events import Event
from imgbuilder.host.arch import host_arch
from tests.fakes.template import Site, TinyAppliances

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/api.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def appliances(monkeypatch: pytest.MonkeyPatch) -> TinyAppliances:
    """In the place of the appliance, for users of the default services."""
    made = TinyAppliances()
    made.guest.add("/usr/bin/apt-get", b"")
    made.guest.add_dir("/var/www/html")  # as nginx would
    made.guest.add("/etc/group", b"root:x:0:\nadm:x:4:\n")
    made.roots = {"/dev/sda2": {"type": "linux", "arch": host_arch(), "distro": "debian"}}
    monkeypatch.setattr("imgbuilder.appliance.open_appliance", made)
    return made


def test_every_operation_is_offered_by_its_name() -> None:
    for spec in all_operations().values():
        assert getattr(imgbuilder, spec.cls.__name__) is spec.cls
        assert spec.cls.__name__.lower() == spec.keyword.replace("-", "")
        assert re.search(rf"\b{spec.cls.__name__}\b", PAGE), "docs/api.md lists it"


def test_the_names_are_those_of_the_module_api() -> None:
    everything: dict[str, object] = {}
    exec("from imgbuilder import *", everything)
    assert everything.keys() - {"__builtins__"} == set(api.__all__)
    for name in api.__all__:
        assert getattr(imgbuilder, name) is getattr(api, name)
        assert name in dir(imgbuilder)
    with pytest.raises(AttributeError, match="'nothing'"):
        imgbuilder.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import imgbuilder, sys; print(*[m for m in sys.modules if m.startswith('imgbuilder.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_examples_of_the_page_run(
    site: Site, appliances: TinyAppliances, capsys: pytest.CaptureFixture[str]
) -> None:
    site.sign(replace(site.entry, os_version="debian-12", arch=host_arch()))
    spaces: list[dict[str, Any]] = []
    for number, text in enumerate(EXAMPLES):
        space: dict[str, Any] = {"__name__": f"example_{number}"}
        exec(compile(text, f"docs/api.md example {number}", "exec"), space)
        spaces.append(space)
    said = capsys.readouterr().out
    assert spaces[0]["result"].path == Path("web.qcow2")
    assert "--chmod: 'etc/motd' is not an absolute path in the guest" in said
    assert re.search(r"no-such-template.*", said)
    assert appliances.guest.read("/etc/hostname") == b"a.example.org\n"
    assert appliances.guest.read("/etc/motd") == b"hello\n"
    assert Path("a.img").exists()


def test_the_comment_of_an_example_is_true() -> None:
    with pytest.raises(UsageError) as caught:
        imgbuilder.Chmod(0o644, "etc/motd")
    assert f"# {caught.value.message}" in PAGE


def test_examples_pass_the_type_checker(tmp_path: Path) -> None:
    for number, text in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_a_service_may_be_replaced_and_events_are_told(
    events: list[Event], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    appliances = TinyAppliances()
    builder = Builder(on_event=events.append, services=Services(Settings(), open_appliance=appliances))
    assert [entry.os_version for entry in builder.templates()] == ["tiny"]
    result = builder.build(BuildRequest("tiny", arch="x86_64", operations=(Write("/etc/a", "1"),)))
    assert result.root_password is not None
    assert appliances.guest.read("/etc/a") == b"1"
    assert "Writing: /etc/a" in [event.text for event in events if isinstance(event, Step)]
    said = capsys.readouterr()
    assert said.out + said.err == ""


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("Install", ("nginx",), "--install: a tuple is expected"),
        ("Install", (7,), "--install: a tuple is expected"),
        ("Install", ((7,),), "--install: "),
        ("Write", ("/a", 7), "--write: a string is expected"),
        ("Chmod", ("0644", "/a"), "--chmod: a number is expected"),
        ("Chmod", (True, "/a"), "--chmod: a number is expected"),
        ("Password", ("root", "canary"), "--password: a password selector is expected"),
        ("RootPassword", (None,), "--root-password: a password selector is expected"),
        ("User", ("ann", False, (), (), "canary"), "--user: a password selector is expected"),
        ("PasswordCrypto", ("sha512",), "--password-crypto: a password hash is expected"),
        ("Upload", ("/nonexistent", "/a"), "--upload: the local file"),
    ],
)
def test_what_programs_pass_is_checked(name: str, values: tuple[Any, ...], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        getattr(imgbuilder, name)(*values)
    assert caught.value.message.startswith(says)
    assert "canary" not in f"{caught.value.message}{caught.value.hint}"


def test_lists_are_as_good_as_tuples() -> None:
    assert Install(["nginx"]) == Install(("nginx",))  # type: ignore[arg-type]
    assert hash(Install(["nginx"])) == hash(Install(("nginx",)))  # type: ignore[arg-type]
