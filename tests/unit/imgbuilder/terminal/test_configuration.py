"""pybuilder.toml: what it may say, and what comes before it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgbuilder.cli.main import run
from imgbuilder.errors import UsageError
from imgbuilder.terminal.configuration import KEYS, apply_configuration


def write(folder: Path, content: bytes | str) -> Path:
    path = folder / "pybuilder" / "pybuilder.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def apply(tmp_path: Path, content: bytes | str, **variables: str) -> dict[str, str]:
    """Return the variables that a user's file sets."""
    write(tmp_path / "user", content)
    places = {"XDG_CONFIG_HOME": str(tmp_path / "user"), "VIRT_BUILDER_DIRS": str(tmp_path / "system")}
    environ = {**places, **variables}
    apply_configuration(environ)
    return {name: value for name, value in environ.items() if name not in places}


def test_every_key(tmp_path: Path) -> None:
    text = (
        'cache-size = "20G"\ncache-path = ["/srv/one", "/srv/two"]\nreuse = ["/srv/web.img"]\n'
        'peers = ["http://a:1", "http://b:1"]\n'
        'instant = false\nhostside = "never"\nmemsize = 1024\n'
        'hypervisor = "qemu"\nguestfs-python = "/usr/bin/python3"\n'
    )
    assert apply(tmp_path, text) == {
        "PYBUILDER_CACHE_SIZE": "20G", "PYBUILDER_CACHE_PATH": "/srv/one:/srv/two",
        "PYBUILDER_REUSE": "/srv/web.img", "PYBUILDER_PEERS": "http://a:1 http://b:1",
        "PYBUILDER_INSTANT": "no", "PYBUILDER_HOSTSIDE": "never",
        "LIBGUESTFS_MEMSIZE": "1024", "LIBGUESTFS_HV": "qemu", "PYBUILDER_GUESTFS_PYTHON": "/usr/bin/python3",
    }  # fmt: skip
    assert text.count("=") == len(KEYS)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("cache-size = 1048576", "1048576b"),
        ('cache-path = "/srv/one"', "/srv/one"),
        ("instant = true", "yes"),
        ('instant = "auto"', "auto"),
    ],
)
def test_other_forms(tmp_path: Path, line: str, value: str) -> None:
    assert list(apply(tmp_path, line).values()) == [value]


def test_variables_come_before_the_users_file_and_that_before_the_systems(tmp_path: Path) -> None:
    write(tmp_path / "system", 'instant = true\nmemsize = 1\ncache-size = "1G"')
    found = apply(tmp_path, "instant = false\nmemsize = 2", PYBUILDER_INSTANT="auto", PYBUILDER_CACHE_SIZE="")
    assert found == {
        "PYBUILDER_INSTANT": "auto", "LIBGUESTFS_MEMSIZE": "2", "PYBUILDER_CACHE_SIZE": "1G"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cachesize = 1", "did you mean cache-size"),
        ("xyz = 1", "known are cache-size"),
        ("instant = 1", "instant = 1 is not true, false"),
        ("memsize = true", "memsize = True"),
        ("memsize = -1", "a number of MiB"),
        ('cache-path = ["/a:b"]', "without colons"),
        ("cache-path = [1]", "cache-path"),
        ("cache-size = [1]", "a size"),
        ('peers = ["http://a b"]', "an address"),
        ('hypervisor = "a\\u0000b"', "hypervisor"),
        ("instant = ", "not a TOML file"),
        (b"\xff", "not a TOML file"),
        ("# " + "x" * 70_000, "larger than"),
        ("instant = " + "[" * 50_000, "TOML"),
    ],
)
def test_mistakes_name_the_file(tmp_path: Path, content: bytes | str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply(tmp_path, content)
    assert words in f"{caught.value.message} {caught.value.hint}"
    assert "user/pybuilder/pybuilder.toml" in caught.value.message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "user/pybuilder/pybuilder.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read"):
        apply_configuration({"XDG_CONFIG_HOME": str(tmp_path / "user")})


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: f"instant = {text}".encode()))
def test_any_content(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with contextlib.suppress(UsageError):
        apply(tmp_path_factory.mktemp("any"), content)


def test_the_command_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, 'cache-size = "many"')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PYBUILDER_CACHE_SIZE", "")
    assert run(["cache", "gc"]) == 2
    assert "many" in capsys.readouterr().err
