"""The lines to copy, read by the tools that they are for; and the names of systems."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from typing import Any

import pytest

from imgindex.model import Entry
from imgrepo.catalogue.snippets import command, snippets
from imgrepo.catalogue.systems import family
from tests.unit.imgrepo.catalogue.test_render import HOSTILE

URL, KEY = "http://images.example.org/i/", "AB" * 20
NAMES = ("debian-12", "1.2", "yes", "0x1F", "1e3", "-x", "..", "a_b")
ARCHS = ("x86_64", "aarch64", 'a"${x}%{y} {{ b }} $(id)', *HOSTILE[:10])
CASES = [(name, "x86_64") for name in NAMES] + [("debian-12", arch) for arch in ARCHS]


def texts(name: str, arch: str, url: str = URL) -> dict[str, str]:
    return {one.tool: one.text for one in snippets(Entry(name, "f.xz", arch, 1, revision=7), url, KEY)}


@pytest.mark.parametrize(("name", "arch"), CASES)
def test_a_shell_reads_the_words(name: str, arch: str) -> None:
    found = texts(name, arch)
    assert shlex.split(command(Entry(name, "f.xz", arch, 1)))[:2] == ["pybuilder", name]
    for tool in ("pybuilder, without adding the library", "virt-builder"):
        key, build = found[tool].split("\n", 1)
        assert key == f"curl -O {URL}index.gpg && gpg --import index.gpg"
        words = shlex.split(build.replace(" \\\n", " "))
        assert words[1:3] == [name, "--arch"]
        assert words[4:] == ["--source", f"{URL}index.asc", "--fingerprint", KEY]
        subprocess.run(["bash", "-n", "-c", found[tool]], check=True)


@pytest.mark.parametrize(("name", "arch"), CASES)
def test_ansible_reads_the_task(name: str, arch: str) -> None:
    yaml: Any = pytest.importorskip("yaml")

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Knows Ansible's tag for a text in which braces mean nothing."""

    Loader.add_constructor("!unsafe", lambda loader, node: loader.construct_scalar(node))
    text = texts(name, arch)["Ansible"]
    (task,) = yaml.load(text, Loader)
    built = task["ansible.builtin.command"]
    assert built["argv"][:2] == ["pybuilder", name]
    assert all(isinstance(word, str) for word in built["argv"])
    assert built["argv"][-1] == built["creates"] == f"/var/lib/libvirt/images/{name}.qcow2"
    braces = [row for row in text.splitlines() if "{" in row]
    assert all(row.strip().startswith("- !unsafe ") for row in braces), "a template would be run"


@pytest.mark.skipif(shutil.which("terraform") is None, reason="terraform is not installed")
@pytest.mark.parametrize(("name", "arch"), CASES)
def test_terraform_reads_the_resources(name: str, arch: str) -> None:
    """Its own formatter finds nothing to do; it refuses what is not valid."""
    text = texts(name, arch)["Terraform with libvirt"]
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-"], input=text + "\n", text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{text}"
    (row,) = [row.strip() for row in text.splitlines() if row.strip().startswith("command =")]
    words = json.loads(row.partition("= ")[2]).replace("$${", "${").replace("%%{", "%{")
    assert shlex.split(words)[:2] == ["pybuilder", name]


def test_without_an_address_only_what_works() -> None:
    assert list(texts("debian-12", "x86_64", "")) == ["Ansible", "Terraform with libvirt"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("debian", "debian12"), "Debian"),
        (("", "debian12"), "Debian"),
        (("Debian GNU/Linux 12 (bookworm)",), "Debian"),
        (("opensuse-leap",), "openSUSE"),
        (("", "centos-stream9"), "CentOS"),
        (("rhel",), "Red Hat Enterprise Linux"),
        (("arch",), "Arch Linux"),
        (("", "archlinux"), "Arch Linux"),
        (("", "win2k22"), "Windows"),
        (("hannah-montana", "x"), "Hannah"),
        (("Foo OS 3",), "Foo"),
        (("", None), ""),
        (("<b>",), "<b>"),
    ],
)
def test_a_system_has_one_name(names: tuple[str | None, ...], shown: str) -> None:
    assert family(*names) == shown
