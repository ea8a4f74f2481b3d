from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from imgbuilder.catalog.sourcefiles import read_sources
from imgbuilder.catalog.sources import Source, sources_from_command_line
from imgbuilder.errors import UsageError
from imgbuilder.fetch.urls import Address

A = "A" * 40
B = "B" * 40
KEYED = f"gpgkey={A}\n"


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def only(tmp_path: Path, text: str) -> Source:
    write(tmp_path, "x.conf", text)
    (source,) = read_sources([tmp_path]).sources
    return source


def only_problem(folder: Path, text: str, *, check: bool = True) -> str:
    path = write(folder, "x.conf", text)
    result = read_sources([folder], check=check)
    (problem,) = result.problems
    assert not result.sources
    assert str(path) in problem.message
    return problem.message + " " + (problem.hint or "")


def names(*folders: Path) -> list[str]:
    return [source.name for source in read_sources(folders).sources]


def test_a_stock_file_of_virt_builder(tmp_path: Path) -> None:
    text = (
        "# comment\n[libguestfs.org]\nuri=http://libguestfs.org/download/builder/index.asc\n"
        "gpgkey=file:///etc/virt-builder/repos.d/lib%20guestfs.gpg\nproxy=off\nformat=native\nother=1\n"
    )
    path = write(tmp_path, "libguestfs.conf", text)
    result = read_sources([tmp_path, tmp_path / "missing"])
    assert result.problems == ()
    assert result.sources == (
        Source(
            "libguestfs.org",
            "http://libguestfs.org/download/builder/index.asc",
            Path("/etc/virt-builder/repos.d/lib guestfs.gpg"),
            proxy="no",
            origin=path,
        ),
    )


def test_order_is_folder_then_file_name_then_text(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    write(system, "a.conf", f"[s1]\nuri=/s1\n{KEYED}")
    write(user, "z.conf", f"[u3]\nuri=/u3\n{KEYED}\n[u1]\nuri=/u1\n{KEYED}")
    write(user, "b.conf", f"[u2]\nuri=/u2\n{KEYED}")
    for letter in "ywvkgfc":
        write(user, f"{letter}.conf", f"[{letter}]\nuri=/x\n{KEYED}")
    write(user, "ignored.conf.bak", f"[no]\nuri=/no\n{KEYED}")
    assert names(user, system) == ["u2", *"cfgkvwy", "u3", "u1", "s1"]


def test_a_file_hides_its_namesakes_even_when_empty(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    write(user, "x.conf", "")
    write(system, "x.conf", f"[s]\nuri=/s\n{KEYED}")
    assert names(user, system) == []


def test_a_broken_file_is_a_problem_and_hides_nothing(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    broken = write(user, "x.conf", f"[u]\nuri=/u\n{KEYED}what is this\n")
    write(user, "y.conf", f"[y]\nuri=/y\n{KEYED}")
    write(system, "x.conf", f"[s]\nuri=/s\n{KEYED}")
    result = read_sources([user, system])
    assert [source.name for source in result.sources] == ["y", "s"]
    (problem,) = result.problems
    assert f"{broken}: line 4" in problem.message


def test_url_instead_of_uri(tmp_path: Path) -> None:
    write(tmp_path, "x.conf", f"[x]\nurl=/first\n{KEYED}\n")
    (problem,) = read_sources([tmp_path]).problems
    assert "line 2: source x is not used: it has no uri, but a url" in problem.message
    assert problem.hint == "write uri= instead of url="


def test_a_source_hides_its_namesakes(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    write(user, "a.conf", f"[one]\nuri=/mine\n{KEYED}\n[two]\nuri=/mine2\n")
    write(system, "b.conf", f"[one]\nuri=/theirs\n{KEYED}\n[two]\nuri=/theirs2\n{KEYED}")
    result = read_sources([user, system])
    # The key of [two] of the user is missing; the system's does not take its place.
    assert [source.uri for source in result.sources] == ["/mine"]
    assert len(result.problems) == 1


def test_within_one_file_the_last_duplicate_counts_and_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.conf", f"[one]\nuri=/first\n{KEYED}\n[one]\nuri=/last\n{KEYED}")
    result = read_sources([tmp_path])
    assert [source.uri for source in result.sources] == ["/last"]
    assert "line 5" in result.problems[0].message


@pytest.mark.row("T6")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "no gpgkey"),
        ("gpgkey=https://h/key.gpg", "downloaded unchecked"),
        ("gpgkey=ldap://h/key", "downloaded unchecked"),
        ("gpgkey=relative/key.gpg", "absolute path"),
        ("gpgkey=file://other/key.gpg", "this machine"),
        ("gpgkey=ABCD1234", "full key fingerprint"),
        (f"gpgkey={A},ABCD1234", "full key fingerprint"),
        (f"gpgkey={A}\ngpgkey={B}", "given twice"),
        (f"gpgkey={A}\nunsigned=yes", "both"),
        ("unsigned=maybe", "neither yes nor no"),
        ("unsigned=no", "no gpgkey"),
        (KEYED + "format=zip", "unknown format"),
        (KEYED + "proxy=gopher://h", "proxy"),
        (KEYED + "proxy=h:3128", "proxy"),
        (KEYED + "proxy=a\n b", "more than one line"),
        (KEYED + f"fingerprint={A}", "gpgkey file"),
        (f"gpgkey=/k.gpg\nfingerprint={A[1:]}", "full key fingerprint"),
    ],
)
def test_faults_of_one_source(tmp_path: Path, line: str, words: str) -> None:
    """Nothing is unsigned by accident."""
    message = only_problem(tmp_path, f"[x]\nuri=https://h/index\n{line.rstrip()}\n".replace("\n\n", "\n"))
    assert words in message
    assert "switch" not in message
    assert "no-check" not in message


@pytest.mark.parametrize(
    "uri", ["", "uri=\n", "uri=ftp://h/x\n", "uri=index\n", "uri=x://h\n", "uri=http://h x\n"]
)
def test_faults_of_the_address(tmp_path: Path, uri: str) -> None:
    only_problem(tmp_path, f"[x]\n{uri}{KEYED}")


def test_passwords_are_not_shown(tmp_path: Path) -> None:
    assert "secret" not in only_problem(tmp_path, f"[x]\nuri=ftp://me:secret@h/x\n{KEYED}")
    (tmp_path / "x.conf").unlink()
    assert "secret" not in only_problem(tmp_path, f"[x]\nuri=/x\n{KEYED}proxy=socks://me:secret@h\n")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"gpgkey={A}", (A,)),
        (f"gpgkey={A.lower()}, 0x{B}", (A, B)),
        ("gpgkey=" + " ".join(["AAAA"] * 10), (A,)),
        ("gpgkey=/k.gpg", Path("/k.gpg")),
        ("gpgkey=file:///k.gpg", Path("/k.gpg")),
    ],
)
def test_keys(tmp_path: Path, text: str, key: object) -> None:
    source = only(tmp_path, f"[x]\nuri=/i\n{text}\n")
    assert source.key == key
    assert source.check


def test_a_key_beside_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert only(tmp_path, "[x]\nuri=/i\ngpgkey=./keys/k.gpg\n").key == tmp_path / "keys/k.gpg"


@pytest.mark.parametrize(
    "uri",
    ["https://h/x", "https://h/x/", "https://h/x/streams/v1", "https://h/x/streams/v1/", "https://h/x//"]
    + [f"https://h/x/streams/v1/index.{suffix}" for suffix in ("json", "sjson")],
)
def test_the_base_of_simplestreams(tmp_path: Path, uri: str) -> None:
    source = only(tmp_path, f"[x]\nuri={uri}\nformat=simplestreams\n{KEYED}")
    assert source.uri == "https://h/x/"
    assert source.index(signed=True).uri == "https://h/x/streams/v1/index.sjson"
    assert source.index(signed=False).uri == "https://h/x/streams/v1/index.json"


@pytest.mark.row("S30")
def test_which_keys_of_a_file_count(tmp_path: Path) -> None:
    source = only(tmp_path, f"[x]\nuri=/i\ngpgkey=/k.gpg\nfingerprint={A.lower()},{B}\n")
    assert (source.key, source.only) == (Path("/k.gpg"), (A, B))


@pytest.mark.row("S40")
def test_unsigned_must_be_said(tmp_path: Path) -> None:
    """A source that says nothing about signatures is not used."""
    source = only(tmp_path, "[x]\nuri=/i\nunsigned=yes\nproxy=http://p:3128\n")
    assert (source.unsigned, source.check, source.proxy) == (True, False, "http://p:3128")


def test_checks_switched_off_need_no_key(tmp_path: Path) -> None:
    write(tmp_path, "x.conf", f"[x]\nuri=/i\n\n[y]\nuri=/j\n{KEYED}")
    result = read_sources([tmp_path], check=False)
    assert [(source.name, source.check) for source in result.sources] == [("x", False), ("y", False)]


def test_hostile_files_are_problems(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.conf")
    (tmp_path / "folder.conf").mkdir()
    (tmp_path / "dangling.conf").symlink_to("nowhere")
    (tmp_path / "binary.conf").write_bytes(b"\xff\xfe\0")
    (tmp_path / "huge.conf").write_bytes(b"#\n" * 600_000)
    write(tmp_path, "good.conf", f"[x]\nuri=/i\n{KEYED}")
    result = read_sources([tmp_path])
    assert [source.name for source in result.sources] == ["x"]
    assert len(result.problems) == 5


def test_command_line_pairs_by_position() -> None:
    sources = sources_from_command_line(["/a", "https://u:p@h/b"], [A, B])
    assert [(source.name, source.key) for source in sources] == [("/a", (A,)), ("https://h/b", (B,))]
    assert Address(sources[1].uri).reveal() == "https://u:p@h/b"
    assert all(source.check for source in sources)


def test_one_fingerprint_serves_all() -> None:
    assert [source.key for source in sources_from_command_line(["/a", "/b", "/c"], [A])] == [(A,)] * 3
    assert sources_from_command_line([], [A]) == ()


@pytest.mark.parametrize(("urls", "keys"), [(1, 0), (2, 0), (1, 2), (3, 2), (0, 2)])
def test_numbers_must_fit(urls: int, keys: int) -> None:
    with pytest.raises(UsageError, match="do not fit" if keys else "needs --fingerprint"):
        sources_from_command_line(["/a"] * urls, [A] * keys)


@pytest.mark.parametrize(("url", "key"), [("ftp://h/i", A), ("/i", "DEADBEEF"), ("", A)])
def test_command_line_faults(url: str, key: str) -> None:
    with pytest.raises(UsageError):
        sources_from_command_line([url], [key])


def test_command_line_without_checks_ignores_fingerprints() -> None:
    (source,) = sources_from_command_line(["/a"], ["nonsense", "more"], check=False)
    assert source.key == ()
    assert not source.check


@pytest.mark.parametrize(
    "text",
    [
        "uri=https://a/i,https://b/i\nuri=/srv/i\n",
        "uri=https://a/i , https://b/i,/srv/i,\n",
        "uri=https://a/i\nuri=https://b/i\nuri=https://a/i,/srv/i\n",
    ],
)
def test_mirrors_of_one_index(tmp_path: Path, text: str) -> None:
    found = only(tmp_path, f"[x]\n{text}{KEYED}")
    assert (found.uri, found.mirrors) == ("https://a/i", ("https://b/i", "/srv/i"))
    assert found.addresses == ("https://a/i", "https://b/i", "/srv/i")


def test_a_comma_inside_an_address_belongs_to_it(tmp_path: Path) -> None:
    assert only(tmp_path, f"[x]\nuri=https://a/b,c/i\n{KEYED}").addresses == ("https://a/b,c/i",)


@pytest.mark.parametrize("uri", ["https://a/i,ftp://b/i", "https://a/i,file://host/i", "a,/srv/i"])
def test_every_mirror_is_checked(tmp_path: Path, uri: str) -> None:
    only_problem(tmp_path, f"[x]\nuri={uri}\n{KEYED}")


@pytest.mark.parametrize(("text", "days"), [("1", 1), ("30", 30), ("99999", 99999), ("", None)])
def test_max_age(tmp_path: Path, text: str, days: int | None) -> None:
    max_age = only(tmp_path, f"[x]\nuri=/i\nmax-age={text}\n{KEYED}").max_age
    assert max_age == (None if days is None else timedelta(days=days))


def test_max_age_as_virt_builder_can_pass_over_it(tmp_path: Path) -> None:
    assert only(tmp_path, f"[x]\nuri=/i\nmax_age=30\n{KEYED}").max_age == timedelta(days=30)
    assert "given twice" in only_problem(tmp_path, f"[x]\nuri=/i\nmax_age=30\nmax-age=30\n{KEYED}")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "30d", "x", "1e3", "100000", "+1", "\u0663"])
def test_max_age_is_a_number_of_days(tmp_path: Path, text: str) -> None:
    assert "max-age" in only_problem(tmp_path, f"[x]\nuri=/i\nmax-age={text}\n{KEYED}")
    (tmp_path / "x.conf").unlink()
    assert "max-age" in only_problem(tmp_path, "[x]\nuri=/i\nmax-age=3\nunsigned=yes\n"), "no signature"


def test_disabled_sources_hide_their_namesakes_and_need_nothing_else(tmp_path: Path) -> None:
    user, system = tmp_path / "user", tmp_path / "system"
    path = write(user, "a.conf", "[x]\nenabled=no\n")
    write(system, "b.conf", f"[x]\nuri=/x\n{KEYED}[y]\nuri=/y\nenabled=yes\n{KEYED}")
    found = read_sources([user, system])
    assert [source.name for source in found.sources] == ["y"]
    assert found.disabled == (("x", path),)
    assert found.problems == ()
    assert "enabled is neither" in only_problem(tmp_path, f"[x]\nuri=/i\nenabled=maybe\n{KEYED}")


@pytest.mark.parametrize(("text", "expected"), [("yes", True), ("no", False), ("True", True)])
@pytest.mark.parametrize("key", ["allow-extra-signatures", "allow_extra_signatures"])
def test_extra_signatures(tmp_path: Path, key: str, text: str, expected: bool) -> None:
    write(tmp_path, "x.conf", f"[x]\nuri=/i\n{key}={text}\n{KEYED}[y]\nuri=/i\n{KEYED}")
    assert [found.extra_signatures for found in read_sources([tmp_path]).sources] == [expected, False]


@pytest.mark.parametrize("rest", [f"maybe\n{KEYED}", "yes\nunsigned=yes\n"])
def test_extra_signatures_wrongly_used(tmp_path: Path, rest: str) -> None:
    assert "allow-extra-signatures" in only_problem(tmp_path, f"[x]\nuri=/i\nallow-extra-signatures={rest}")


def test_a_source_says_whether_others_may_stand_in_for_it(tmp_path: Path) -> None:
    text = f"[x]\nuri=/i\ngpgkey={'A' * 40}\n"
    for words, optional in (("", False), ("optional=no\n", False), ("optional=yes\n", True)):
        write(tmp_path, "x.conf", text + words)
        assert [found.optional for found in read_sources([tmp_path]).sources] == [optional]
    assert "optional is neither yes nor no" in only_problem(tmp_path, f"{text}optional=maybe\n")
