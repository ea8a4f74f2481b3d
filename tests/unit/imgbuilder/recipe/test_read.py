"""Reading recipes: their meaning, and the errors about mistakes."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuilder.customize.ops.accounts import Password
from imgbuilder.customize.ops.files import Upload, Write
from imgbuilder.customize.ops.identity import User
from imgbuilder.customize.ops.packages import Install, Update
from imgbuilder.customize.ops.paths import Chmod, Chown
from imgbuilder.customize.ops.system import Hostname
from imgbuilder.errors import UsageError
from imgbuilder.recipe.reader import read_recipe
from imgbuilder.recipe.variables import escape, substitute
from tests.fakes.fuzz import examples

WEB = """\
description = "A web server"
template = "debian-12"
size = "${{ disk }}"
memsize = "${{ memory }}"
network = false
keys = ["all:file:key"]

[[attach]]
file = "cd.iso"
format = "raw"

[[source]]
url = "https://images.example.org/index.asc"
fingerprint = "${{ pin }}"

[variables]
disk = "20G"
memory = "512"
pin = "0123456789ABCDEF0123456789ABCDEF01234567"
domain = { description = "The machine's domain", default = "example.org" }

[[operation]]
install = ["nginx", "vim-tiny"]

[[operation]]
upload = "page.html"
destination = "/var/www/index.html"

[[operation]]
write = "/etc/motd"
content = '''
${{domain}} keeps $HOME, ${HOME} and $${{ this }}.
'''

[[operation]]
chmod = "0644"
path = "/etc/motd"

[[operation]]
chown = 33
gid = "www-data"
path = "/var/www"

[[operation]]
user = "ann"
sudo = true
groups = ["adm"]
password = "locked"

[[operation]]
password = "bob"
selector = "file:pw"

[[operation]]
update = true
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in (("page.html", "x"), ("key", "k"), ("pw", "secret\n"), ("cd.iso", "")):
        (tmp_path / name).write_text(content)
    return tmp_path


def recipe(folder: Path, text: str, name: str = "r.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(folder: Path, text: str, **values: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        read_recipe(recipe(folder, text), values).make_operations()
    return caught.value


def test_a_whole_recipe(folder: Path) -> None:
    read = read_recipe(recipe(folder, WEB), {"disk": "30G"})
    assert dict(read.settings) == {
        "description": "A web server", "template": "debian-12", "size": "30G", "memsize": 512, "network": False,
        "keys": (f"all:file:{folder}/key",), "attach": ({"file": f"{folder}/cd.iso", "format": "raw"},),
        "source": ({"url": "https://images.example.org/index.asc", "fingerprint": "0123456789ABCDEF" * 2 + "01234567"},),
    }  # fmt: skip
    operations = read.make_operations()
    assert operations[:5] == (
        Install(("nginx", "vim-tiny")),
        Upload(folder / "page.html", "/var/www/index.html"),
        Write("/etc/motd", "example.org keeps $HOME, ${HOME} and ${{ this }}.\n"),
        Chmod(0o644, "/etc/motd"),
        Chown(33, "www-data", "/var/www"),
    )
    user, password = operations[5:7]
    assert isinstance(user, User)
    assert (user.name, user.sudo, user.groups, user.keys) == ("ann", True, ("adm",), ())
    assert isinstance(password, Password)
    assert (password.user, password.selector.text) == ("bob", "secret")
    assert operations[7] == Update()


def test_files_are_relative_to_the_folder_of_the_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(folder, '[[operation]]\nupload = "page.html"\ndestination = "/x"')
    monkeypatch.chdir("/")
    assert read_recipe(Path(os.path.relpath(path, "/"))).make_operations()
    monkeypatch.setenv("HOME", str(folder))
    path = recipe(folder, '[[operation]]\nupload = "~/page.html"\ndestination = "/x"')
    assert read_recipe(path).make_operations() == (Upload(folder / "page.html", "/x"),)


class TestIncludes:
    def test_the_included_comes_first_and_is_overruled(self, folder: Path) -> None:
        (folder / "parts").mkdir()
        (folder / "parts" / "file").write_text("")
        recipe(
            folder / "parts",
            'template = "debian-11"\nsize = "${{ disk }}"\n[variables]\ndisk = "5G"\n'
            '[[operation]]\nupload = "file"\ndestination = "/a"',
            "base.toml",
        )
        main = recipe(
            folder,
            'include = ["parts/base.toml"]\ntemplate = "debian-12"\n[variables]\ndisk = "6G"\n'
            '[[operation]]\nhostname = "b"',
        )
        read = read_recipe(main)
        assert dict(read.settings) == {"template": "debian-12", "size": "6G"}
        assert read.make_operations() == (Upload(folder / "parts/file", "/a"), Hostname("b"))

    def test_a_file_that_two_include_counts_once(self, folder: Path) -> None:
        recipe(folder, '[[operation]]\nhostname = "base"', "base.toml")
        recipe(folder, 'include = ["base.toml"]\n[[operation]]\nhostname = "one"', "one.toml")
        recipe(folder, 'include = ["./base.toml"]\n[[operation]]\nhostname = "two"', "two.toml")
        main = recipe(folder, 'include = ["one.toml", "two.toml"]')
        assert read_recipe(main).make_operations() == (Hostname("base"), Hostname("one"), Hostname("two"))

    @pytest.mark.parametrize("other", ["r.toml", "./r.toml", "link.toml"])
    def test_a_cycle_is_refused(self, folder: Path, other: str) -> None:
        (folder / "link.toml").symlink_to("r.toml")
        recipe(folder, f'\ninclude = ["{other}"]', "other.toml")
        error = refused(folder, 'include = [\n  "other.toml",\n]')
        assert error.message.startswith(f"{folder}/other.toml: line 2: recipes include each other: ")
        assert "r.toml -> " in error.message

    def test_a_missing_file_is_the_includers_fault(self, folder: Path) -> None:
        error = refused(folder, '\ninclude = [\n  "none.toml",\n]')
        assert error.message.startswith(
            f"{folder}/r.toml: line 3: the recipe '{folder}/none.toml' cannot be read"
        )

    def test_not_without_end(self, folder: Path) -> None:
        for number in range(120):
            recipe(folder, f'include = ["{number + 1}.toml"]', f"{number}.toml")
        recipe(folder, "", "120.toml")
        with pytest.raises(UsageError, match="more than 100"):
            read_recipe(folder / "0.toml")


MISTAKES = [
    ("tempalte = 'x'", 1, "there is no setting 'tempalte'", "did you mean 'template'?"),
    ("\nsize = 20", 2, "a string is expected here, not a number", "put it in quotes"),
    ("size = '20'", 1, "cannot parse size '20'", "20G"),
    ("\n\nsmp = 'x'", 3, "a number is expected here, not a string", None),
    ("smp = true", 1, "a number is expected here, not true or false", None),
    ("smp = 0", 1, "positive", None),
    ("compress = 'yes'", 1, "true or false is expected", None),
    ("format = 'qcow'", 1, "'qcow' is not supported", "qcow2"),
    ("template = ''", 1, "a name is expected", None),
    ("keys = ['all:key:canary']", 1, "a recipe must not contain a key", "all:file:PATH"),
    ("keys = [\n'all:file:key',\n'all:file:none']", 3, "cannot be read", None),
    ("[source]\nurl = 'x'", 1, "[[source]]", None),
    ("[[source]]\nurl = 'https://x.example/index'", 1, "[[source]] needs fingerprint", None),
    ("[[source]]\nurl = 'https://x.example/index'\nfingerprint = 'x'", 1, "", None),
    ("[[source]]\nurl = 'https://u:canary@x.example/index'\nfingerprint = 'x'", 1, "must not contain a password", None),
    ("[[attach]]\nfile = 'a'\nformt = 'raw'", 3, "[[attach]] has no key 'formt'", "did you mean 'format'?"),
    ("attach = ['a']", 1, "[[attach]]", None),
    ("[[attach]]\nfile = 'a'\nformat = 'vmdk'", 1, "'vmdk' is not supported", None),
    ("[operation]\nupdate = true", 1, "[[operation]]", None),
    ("operation = ['x']", 1, "the operation is empty", "[[operation]]"),
    ("[[operation]]", 1, "the operation is empty", "install"),
    ("install = ['a']", 1, "'install' is an operation", "[[operation]]"),
    ("[[operation]]\ninstal = ['a']", 2, "there is no operation 'instal'", "did you mean 'install'?"),
    ("[[operation]]\nxyzzy = ['a']", 2, "there is no operation 'xyzzy'", "pybuilder(1)"),
    ("[[operation]]\ninstall = 'nginx'", 2, "a list is expected here, not a string", '["nginx"]'),
    ("[[operation]]\ninstall = [\n'a',\n1]", 4, "a string is expected here, not a number", None),
    ("[[operation]]\ninstall = [\n'a',\n'b c']", 2, "--install: 'b c' is not a package name", None),
    ("[[operation]]\nupdate = 'now'", 2, "update = true", None),
    ("[[operation]]\nupdate = false", 2, "leave it out", None),
    ("[[operation]]\nupdate = true\nx = 1", 3, "'update' has no key 'x'", "it takes only its value"),
    ("[[operation]]\nwrite = '/a'", 1, "'write' needs content", 'content = "..."'),
    ("[[operation]]\nappend-line = '/a'\nlines = 'x'", 3, "'append-line' has no key 'lines'", "did you mean 'line'?"),
    ("[[operation]]\nhostname = 'a'\ninstall = ['b']", 3, "'hostname' and 'install' are two operations", "[[operation]]"),
    ("[[operation]]\nhostname = 'a'\nsize = '1G'", 3, "'size' is a setting", "settings come first"),
    ("[[operation]]\nchmod = 0o755\npath = '/a'", 2, "a string is expected here, not a number", "quotes"),
    ("[[operation]]\npath = '/a'\nchmod = 'u+x'", 3, "--chmod: 'u+x' is not an octal", None),
    ("[[operation]]\nchmod = '755'\n\npath = 'a'", 4, "--chmod: 'a' is not an absolute path", None),
    ("[[operation]]\nwrite = '/a'\ncontent = '''\nx\n'''\n[[operation]]\nupload = 'none'\ndestination = '/x'", 7,
     "none' cannot be used", None),
    ("[[operation]]\nuser = 'ann'\nsudo = 'yes'", 3, "true or false is expected", None),
    ("[[operation]]\nroot-password = 'password:canary'", 2, "a recipe must not contain a password", "secret:NAME"),
    ("[[operation]]\npassword = 'a'\nselector = 'locked:password:canary'", 3, "must not contain a password", "secret:NAME"),
    ("[[operation]]\nuser = 'a'\npassword = 'password:canary'", 3, "must not contain a password", "secret:NAME"),
    ("[[operation]]\nmirror = 'http://u:canary@example.org'", 2, "must not contain a password", "leave it out"),
    ("[[operation]]\nsecret = 'A'\nsource = 'canary'", 3, "the source of the secret is not valid", None),
    ("[variables]\nx = 1", 2, "a string is expected here", '"1"'),
    ("[variables]\n'a b' = 'x'", 2, "is not the name of a variable", None),
    ("[variables]\nx = {defualt = 'x'}", 2, "a variable has no key 'defualt'", "did you mean 'default'?"),
    ("variables = 1", 1, "a table is expected", None),
    ("[variables]\n\nx = {description = 'the name'}", 3, "the variable 'x' (the name) has no value", "--set x=VALUE"),
    ("[variables]\nx = '${{ y }}'\ny = '${{ x }}'", 2, "variables refer to each other: x -> y -> x", "default"),
    ("[variables]\nx = '${{ z }}'", 2, "there is no variable 'z'", None),
    ("template = '${{ nme }}'\n[variables]\nname = 'x'", 1, "there is no variable 'nme'", "did you mean 'name'?"),
    ("template = '${{ a b }}'", 1, "is not the name of a variable", "$${{"),
    ("\ntemplate = '${{ a'", 2, "is not closed", "$${{"),
    ("include = 'a'", 1, "a list of files is expected", "include = ["),
    ("\nsize = 20G", 2, "this is not TOML", 'size = "20G"'),
    ("template = debian-12", 1, "this is not TOML", 'template = "debian-12"'),
    ("[[operation]]\nwrite = '/a'\ncontent = \"a\nb\"", 3, "this is not TOML", '"""'),
    ("size = '1G'\nsize = '2G'", 2, "this is not TOML", "only once"),
    ("a = [1,\n2", 2, "this is not TOML", None),
    ("a = " + "[" * 5000, 1, "nested too deeply", None),
    ("a = " + "[" * 20 + "]" * 20, 1, "nested too deeply", None),
    ("a = 1" + "0" * 5000, 1, "this is not TOML", None),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "says", "hint"), MISTAKES, ids=range(len(MISTAKES)))
def test_mistakes_are_named_with_their_lines(
    folder: Path, text: str, line: int, says: str, hint: str | None
) -> None:
    error = refused(folder, text)
    place = "" if "deeply" in says else f"line {line}: "
    assert error.message.startswith(f"{folder}/r.toml: {place}"), error.message
    assert says in error.message
    assert hint is None or (error.hint is not None and hint in error.hint), error.hint
    assert "canary" not in f"{error.message}{error.hint}"


def test_other_files_are_refused(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "binary").write_bytes(b"a = 1\n\xff")
    (folder / "large").write_bytes(b"#" * (1 << 20) + b"\n")
    for name, says in (
        ("fifo", "not an ordinary file"),
        ("none", "No such file"),
        (".", "Is a directory"),
        ("x\0y", "not a valid file name"),
        ("binary", "line 2: this is not UTF-8"),
        ("large", "at most 1048576 bytes"),
    ):
        with pytest.raises(UsageError, match=says):
            read_recipe(folder / name)


def test_marks_of_windows_editors_do_not_count(folder: Path) -> None:
    path = folder / "r.toml"
    path.write_bytes(b"\xef\xbb\xbftemplate = 'x'\r\n\r\nsize = 1\r\n")
    with pytest.raises(UsageError, match="line 3"):
        read_recipe(path)


def test_values_for_variables_that_there_are_not(folder: Path) -> None:
    path = recipe(folder, "[variables]\nname = 'x'")
    with pytest.raises(UsageError, match="no such variable") as caught:
        read_recipe(path, {"nmae": "y"})
    assert caught.value.hint == "did you mean 'name'?"


def test_a_value_that_is_set_is_used_as_it_is(folder: Path) -> None:
    path = recipe(folder, "template = '${{ a }}'\n[variables]\na = {}\nb = 'x'")
    assert read_recipe(path, {"a": "${{ b }}"}).settings["template"] == "${{ b }}"


def test_the_order_of_keys_does_not_matter(folder: Path) -> None:
    path = recipe(folder, "[[operation]]\npassword = 'locked'\nuser = 'ann'\nsudo = true")
    (user,) = read_recipe(path).make_operations()
    assert isinstance(user, User)
    assert (user.name, user.sudo) == ("ann", True)


@given(st.text(), st.text())
@settings(max_examples=examples(40), deadline=None)
def test_escaped_texts_stay_as_they_are(text: str, other: str) -> None:
    assert substitute(escape(text), lambda _name: other) == text


PIECES = st.sampled_from(
    [*WEB.split("\n"), "include = ['r.toml']", "[operation]", "[[operation]]", "[variables]", '"""', "x = [", "}",
                       "write = 1", "write = []", "${{", "operation = 1", "[[variables]]", "[[template]]"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("\n".join) | st.binary(max_size=60) | st.text(max_size=60))
@settings(
    max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_hostile_input_is_only_ever_refused(folder: Path, content: str | bytes) -> None:
    path = folder / "r.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
    try:
        read_recipe(path).make_operations()
    except UsageError as error:
        assert str(path) in error.message  # noqa: PT017 - it need not fail
