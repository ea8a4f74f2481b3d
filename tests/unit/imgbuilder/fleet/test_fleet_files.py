"""Fleets as they are written: what becomes of each host, and which mistakes are named, with their lines."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
import time
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgbuilder.errors import UsageError
from imgbuilder.fleet.entries import FleetError
from imgbuilder.fleet.hosts import Fleet, read_fleet
from imgbuilder.fleet.schema import fleet_schema
from imgbuilder.recipe.reader import read_recipe
from tests.fakes.debianguest import KEY

RECIPE = """\
template = "debian-12"
format = "qcow2"
[variables]
role = { description = "what it does" }
[[operation]]
write = "/etc/motd"
content = "${{ role }}"
[[operation]]
root-password = "secret:ROOT"
"""
FLEET = """\
recipe = "web.toml"
hosts = "hosts.csv"
[defaults]
output = "out/{host}.qcow2"
gateway = "192.0.2.1"
set = { role = "front" }
[secrets]
ROOT = "file:secrets/{host}"
[[host]]
range = "web[08-10]"
addresses = ["192.0.2.{n+10}/24"]
mac = "auto"
"""
TABLE = "name,addresses,role,size\ndb,192.0.2.50/24 2001:db8::1/64,back,4G\n\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "out").mkdir()
    for name in ("web08", "web09", "web10", "db"):
        (tmp_path / "secrets" / name).write_text(f"secret of {name}\n")
    (tmp_path / "web.toml").write_text(RECIPE)
    (tmp_path / "hosts.csv").write_text(TABLE)
    return tmp_path


def read(folder: Path, text: str) -> Fleet:
    (folder / "fleet.toml").write_text(text)
    return read_fleet(folder / "fleet.toml")


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(FleetError) as caught:
        read(folder, text)
    return [problem.message.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_hosts_of_a_range_and_of_a_table(folder: Path) -> None:
    hosts = read(folder, FLEET).hosts
    assert [host.name for host in hosts] == ["web08", "web09", "web10", "db"]
    assert [host.addresses for host in hosts[:2]] == [("192.0.2.18/24",), ("192.0.2.19/24",)]
    assert len({host.mac for host in hosts[:3]}) == 3
    assert hosts[0].output == folder / "out/web08.qcow2"
    # The recipe of a host says all, whatever the folder that it is read in, and has no secret.
    database = hosts[3]
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/db.toml").write_text(database.text)
    assert read_recipe(folder / "elsewhere/db.toml").request() == database.request()
    assert "secret of db" not in database.text
    assert f'source = "file:{folder}/secrets/db"' in database.text
    assert 'static-ip = ["192.0.2.50/24", "2001:db8::1/64"]\ngateway = ["192.0.2.1"]' in database.text
    assert 'content = "back"' in database.text
    assert database.request().size == 4 << 30


@pytest.mark.row("L3")
def test_all_mistakes_are_named_at_once(folder: Path) -> None:
    (folder / "hosts.csv").write_text(
        "name,addresses,role,size,colour\ndb,192.0.2.300/24,x,4G,\nweb09,,y\nw,,z,9Q,red\nweb08,192.0.2.60/24,,,\n"
    )
    text = FLEET + 'siez = "4G"\n[[host]]\nname = "a_b"\n[[host]]\nname = "c"\nmac = "{n}"\nset = { x = 1 }\n'
    assert problems(folder, text + "[[host]]\n") == [
        "fleet.toml: line 13: a host has no key 'siez'",
        "fleet.toml: line 19: a string is expected here",
        "hosts.csv: line 3: 3 cells, and 5 columns",
        "fleet.toml: line 15: 'a_b' is not a hostname",
        "fleet.toml: line 18: {n} is for a range of hosts",
        "fleet.toml: line 18: mac needs addresses",
        (
            f"fleet.toml: line 8: --secret: the secret file '{folder}/secrets/c' cannot be read: "
            "No such file or directory"
        ),
        "fleet.toml: line 20: a host has a name or a range",
        (
            "hosts.csv: line 2, column addresses: --static-ip: '192.0.2.300/24' is not an address with its "
            "network"
        ),
        "hosts.csv: line 4, column colour: the recipe has no variable 'colour'",
        "hosts.csv: line 4, column size: cannot parse size '9Q'",
        (
            f"fleet.toml: line 8: --secret: the secret file '{folder}/secrets/w' cannot be read: "
            "No such file or directory"
        ),
        f"hosts.csv: line 5: web08 has the name web08 of web08 ({folder}/fleet.toml: line 9)",
        (
            f"hosts.csv: line 5: web08 has the output {folder}/out/web08.qcow2 of web08 "
            f"({folder}/fleet.toml: line 9)"
        ),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the fleet has no hosts"),
        ("host = 1\n", "line 1: hosts are written as [[host]]"),
        ("host = [1]\n", "line 1: a table is expected here: [host]"),
        ("hosts = 'gone.csv'\n", "line 1: the table of hosts"),
        ("recipe = 'gone.toml'\n[[host]]\nname = 'a'\n", "line 1: the recipe"),
        ("[[host]]\nname = 'a'\n", "line 1: the host has no template"),
        ("[[host]]\nname = 'a'\ntemplate = 'x'\noutput = 'no/a'\n", "line 1: the folder"),
        ("[defaults]\nname = 'a'\n[[host]]\nname = 'a'\n", "line 2: a host has no key 'name'"),
        ("[[host]]\nname = 'a'\nrange = 'b[1-2]'\n", "line 1: a host has a name or a range"),
        ("[[host]]\nrange = 'b[2-1]'\n", "line 2: 'b[2-1]' is not a range"),
        ("[[host]]\nname = 'a'\noutput = '{hots}'\ntemplate = 'x'\n", "line 1: '{hots}' is not a file"),
        ("[[host]]\nrange = 'b[1-99999]'\ntemplate = 'x'\n", "line 1: a fleet has at most 10000 hosts"),
        (
            "[defaults]\ntemplate='x'\noutput='a'\n[[host]]\nname='a'\n[[host]]\nname='b'\n",
            "line 6: b has the output",
        ),
        (
            (
                "[defaults]\ntemplate='x'\n[[host]]\nname='a'\naddresses='192.0.2.1/24'\n[[host]]\nname='b'\n"
                "addresses=['192.0.2.2/24', '192.0.2.1/25']\n"
            ),
            "line 6: b has the address 192.0.2.1 of a",
        ),
        (
            (
                "[defaults]\ntemplate='x'\n[[host]]\nname='a'\naddresses='192.0.2.1/24'\nmac='52:54:00:00:00:01'\n"
                "[[host]]\nname='b'\naddresses='192.0.2.2/24'\nmac='52-54-00-00-00-01'\n"
            ),
            "line 7: b has the MAC address 52:54:00:00:00:01 of a",
        ),
        (
            (
                "[secrets]\nPW='env:NOT_SET_ANYWHERE'\n[[host]]\nname='a'\ntemplate='x'\n[[host]]\nname='b'\n"
                "template='x'\n"
            ),
            "line 2: --secret:",
        ),
    ],
)
def test_one_mistake(tmp_path: Path, text: str, message: str) -> None:
    found = problems(tmp_path, text)
    assert found[0].startswith(f"fleet.toml: {message}")
    assert len(found) == 1 or not text.startswith("[[host]]"), found


def test_what_is_no_toml_or_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 2: this is not TOML"):
        read(tmp_path, "[defaults]\nsize = 4G\n")
    with pytest.raises(UsageError, match=r"the fleet file .* cannot be read"):
        read_fleet(tmp_path / "gone.toml")


_WORDS = st.text(alphabet="abc ,\"'=#\n\u00e9", max_size=8)
_ROWS = st.lists(
    st.fixed_dictionaries(
        {"size": st.sampled_from(["", "4G", "512M"]), "seed": st.sampled_from(["", "a b", "x,y", '"q"'])},
        optional={"addresses": st.booleans()},
    ),
    min_size=1,
    max_size=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(_ROWS, _WORDS)
def test_a_table_and_toml_give_equal_hosts(tmp_path: Path, rows: list[dict[str, Any]], role: str) -> None:
    (tmp_path / "r.toml").write_text(
        "template = 'x'\n[variables]\nrole = 'none'\n[[operation]]\ntouch = '/a'\n"
    )
    tables = []
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["name", "size", "seed", "addresses", "role"])
    for number, row in enumerate(rows, 1):
        addresses = [f"192.0.2.{number}/24", f"2001:db8::{number}/64"] if row.get("addresses") else []
        said = role if role.strip() else ""
        writer.writerow([f"h{number}", row["size"], row["seed"], " ".join(addresses), said])
        entry: dict[str, Any] = {
            "name": f"h{number}",
            **{key: row[key] for key in ("size", "seed") if row[key]},
        }
        entry |= {"addresses": addresses} if addresses else {}
        tables.append(entry | ({"set": {"role": role}} if said else {}))
    (tmp_path / "hosts.csv").write_text(table.getvalue(), newline="")
    by_table = read(tmp_path, "recipe = 'r.toml'\nhosts = 'hosts.csv'\n")
    by_toml = read(tmp_path, tomli_w.dumps({"recipe": "r.toml", "host": tables}))
    assert by_table == by_toml
    jsonschema.validate({"recipe": "r.toml", "host": tables}, fleet_schema())


@pytest.mark.row("L4")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.text(alphabet='[]{}=",.#\n abcdefghimnoprst0123456789-', max_size=120),
    st.text(alphabet='nameix,"\n\r 0129./;\0', max_size=60),
)
def test_any_text_is_read_or_refused_by_our_error(tmp_path: Path, more: str, table: str) -> None:
    (tmp_path / "hosts.csv").write_text(f"name{table}", newline="")
    for text in (more, f'hosts = "hosts.csv"\n[defaults]\ntemplate = "x"\n[[host]]\nname = "a"\n{more}'):
        with contextlib.suppress(UsageError):
            assert read(tmp_path, text).hosts


def test_the_example_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[4]
    folder = tmp_path / "fleet"
    shutil.copytree(root / "examples/fleet", folder)
    (folder / "images").mkdir()
    monkeypatch.setenv("ROOT_PASSWORD", "a password")
    hosts = read_fleet(folder / "fleet.toml").hosts
    assert len(hosts) == 12
    assert len({host.recipe.settings.get("size") for host in hosts}) == 2
    page = (root / "docs/fleet.md").read_text()
    text = page.split("```toml\n")[1].split("```")[0]
    for written in (text, (folder / "fleet.toml").read_text()):
        jsonschema.validate(tomllib.loads(written), fleet_schema())
    for name in ("secrets", "keys", "out"):
        (folder / name).mkdir()
    (folder / "keys/ops.pub").write_text(f"{KEY}\n")
    for name in ("db", "mail", *(f"web{n:02}" for n in range(1, 21))):
        (folder / "secrets" / name).write_text("a password\n")
    (folder / "web.toml").write_text("[variables]\nrole = {}\n")
    (folder / "hosts.csv").write_text(page.split("```csv\n")[1].split("```")[0])
    found = {host.name: host for host in read(folder, text).hosts}
    assert len(found) == 22
    assert found["web01"].addresses == ("192.0.2.11/24",)
    assert found["mail"].request().size == 20 << 30


def test_the_published_schema(tmp_path: Path) -> None:
    published = json.loads((Path(__file__).parents[4] / "docs/fleet.schema.json").read_text())
    assert published == fleet_schema()
    jsonschema.Draft202012Validator.check_schema(published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"host": [{"name": "a", "range": "b[1-2]"}]}, published)


def test_a_thousand_hosts_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    rows = "".join(f"h{n},10.0.{n // 250}.{n % 250 + 1}/16,x\n" for n in range(1000))
    (folder / "hosts.csv").write_text(f"name,addresses,role\n{rows}")
    monkeypatch.setattr("imgbuilder.recipe.document.tomllib.loads", _counting(opened))
    text = 'recipe = "web.toml"\nhosts = "hosts.csv"\n[secrets]\nROOT = "file:secrets/db"\n'
    started = time.process_time()
    assert len(read(folder, text).hosts) == 1000
    print(f"{time.process_time() - started:.2f} s")
    assert len(opened) == 2, "the recipe is parsed once, not for each host"


def _counting(opened: list[str]) -> Any:
    import tomllib

    real = tomllib.loads

    def loads(text: str) -> dict[str, Any]:
        opened.append(text)
        return real(text)

    return loads
