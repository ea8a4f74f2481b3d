from __future__ import annotations

from pathlib import Path

import pytest

from imgbuilder.errors import UsageError
from imgbuilder.host.paths import STOCK_SOURCES, cache_dir, config_dirs, state_dir, temporary_dir


def test_xdg_variables_win_over_home() -> None:
    environ = {"HOME": "/h", "XDG_CACHE_HOME": "/c", "XDG_STATE_HOME": "/s"}
    assert cache_dir(environ) == Path("/c/pybuilder")
    assert state_dir(environ) == Path("/s/pybuilder")


# An empty variable counts as unset, a relative path as invalid.
@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_home_is_used_without_xdg_variables(value: str | None) -> None:
    names = ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    environ = {"HOME": "/h"} | ({} if value is None else dict.fromkeys(names, value))
    assert cache_dir(environ) == Path("/h/.cache/pybuilder")
    assert state_dir(environ) == Path("/h/.local/state/pybuilder")
    assert config_dirs(environ)[0] == Path("/h/.config/pybuilder/repos.d")


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "here"}])
def test_no_home_is_an_error_only_when_needed(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        cache_dir(environ)
    assert "--cache" in (caught.value.hint or "")
    with pytest.raises(UsageError):
        state_dir(environ)
    assert config_dirs(environ) == (
        Path("/etc/pybuilder/repos.d"),
        Path("/etc/virt-builder/repos.d"),
        STOCK_SOURCES,
    )


def test_config_dirs_in_order_of_importance() -> None:
    environ = {"XDG_CONFIG_HOME": "/u", "VIRT_BUILDER_DIRS": "/a::/b"}
    assert [str(path) for path in config_dirs(environ)] == [
        "/u/pybuilder/repos.d",
        "/u/virt-builder/repos.d",
        "/a/pybuilder/repos.d",
        "/a/virt-builder/repos.d",
        "/b/pybuilder/repos.d",
        "/b/virt-builder/repos.d",
    ]


def test_temporary_dir() -> None:
    assert temporary_dir({"TMPDIR": "/x"}) == Path("/x")
    assert temporary_dir({"TMPDIR": ""}) == Path("/var/tmp")
