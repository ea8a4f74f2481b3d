"""Mistyped command lines are answered with what was probably meant, before any server is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imgindex.gpg import GpgVerifier
from imgindex.trust import VerifiedText
from tests.fakes.commands import Command
from tests.fakes.template import Site
from tests.fakes.webfolder import WebFolder


@pytest.fixture
def web(site: Site, home: Path, no_proxies: None, pybuilder: Command) -> Iterator[WebFolder]:
    """The source on a server whose index is known; what follows is asked now."""
    (home / "key.gpg").write_bytes(site.keys.export(site.key))
    for folder in ("virt-builder", "pybuilder"):
        place = home / folder / "repos.d"
        place.mkdir(parents=True, exist_ok=True)
        for path in place.glob("*.conf"):
            path.unlink()
    with WebFolder(site.folder) as server:
        text = f"[web]\nuri={server.url}/index.asc\ngpgkey={home}/key.gpg\n"
        (home / "pybuilder" / "repos.d" / "web.conf").write_text(text)
        pybuilder("--list").good()
        del server.asked[:]
        yield server


@pytest.mark.parametrize(
    "words", ["tniy", "Tiny", "t-i-n-y --dry-run", "--notes tniy", "plan tniy", "build tniy"]
)
def test_a_mistyped_template(web: WebFolder, pybuilder: Command, words: str) -> None:
    pybuilder(*words.split()).failed(
        2, "no source had a template", "did you mean tiny? To ask the sources again: pybuilder list"
    )
    assert web.asked == []


@pytest.mark.parametrize("name", ["tiny2", "tinny", "tin", "other"])
def test_what_may_be_a_new_template_is_asked_for(web: WebFolder, pybuilder: Command, name: str) -> None:
    pybuilder(name).failed(2, f"no source offers a template '{name}'")
    assert web.paths == ["/index.asc"]


def test_a_known_template_is_verified_once(
    web: WebFolder, pybuilder: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    real = GpgVerifier.verify

    def counted(self: GpgVerifier, *arguments: Any, **named: Any) -> VerifiedText:
        verified.append(named["where"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(GpgVerifier, "verify", counted)
    pybuilder("plan", "tiny").good()
    assert len(verified) == 1


def test_a_mistyped_verb(web: WebFolder, pybuilder: Command) -> None:
    ran = pybuilder("lsit").failed(2, "pybuilder has no verb 'lsit', and no template of that name is known")
    assert (
        "did you mean the verb list? pybuilder list; to build it all the same: pybuilder build lsit"
        in ran.err
    )
    assert web.asked == []


def test_a_template_whose_name_is_close_to_a_verb(site: Site, pybuilder: Command) -> None:
    site.sign(site.entry.__class__("lists", "tiny.xz", "x86_64", site.entry.size, sha512=site.entry.sha512))
    assert pybuilder("lists", "--dry-run").good().out.startswith("template: lists ")


def test_an_image_is_not_a_template(web: WebFolder, pybuilder: Command) -> None:
    Path("x.img").touch()
    pybuilder("x.img").failed(2, "x.img is a file, not a template", "pybuilder-customize -a x.img")
    assert web.asked == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("tiny --install nginx curl", "--install nginx,curl"),
        ("tiny --install nginx curl wget --dry-run", "--install nginx,curl,wget"),
        ("--install nginx curl tiny", "--install nginx,curl"),
        ("unknown --uninstall nginx curl", "--uninstall nginx,curl"),
    ],
)
def test_packages_with_blanks_between(site: Site, pybuilder: Command, words: str, hint: str) -> None:
    pybuilder(*words.split()).failed(2, f"packages are separated by commas: {hint}\n")


def test_two_templates_are_not_packages(site: Site, pybuilder: Command) -> None:
    assert "comma" not in pybuilder("tiny", "other").failed(2, "exactly one OS-VERSION").err


def test_the_plan_names_an_output_that_is_replaced(site: Site, pybuilder: Command) -> None:
    assert "in place of" not in pybuilder("plan", "tiny").good().out
    Path("tiny.img").touch()
    line = next(
        line for line in pybuilder("plan", "tiny").good().out.split("\n") if line.startswith("output:")
    )
    assert line.endswith(", raw), in place of the file that is there")


@pytest.mark.parametrize("words", ["-h", "list -h", "cache -h", "cache list -h", "plan -h"])
def test_h_is_help(pybuilder: Command, words: str) -> None:
    assert pybuilder(*words.split()).good().out.startswith("Usage: pybuilder")
