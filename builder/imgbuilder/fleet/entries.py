"""Reads a fleet's file and its table of hosts into entries, which are not yet checked one against the other.

TOML and CSV give the same entries. A mistake does not end the reading: all are collected, each with file and
line, so that one run names them all.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgbuilder.errors import UsageError
from imgbuilder.machine.model import DEFAULT_MEMORY
from imgbuilder.recipe.document import Key, RecipeDocument, nearest, read_text
from imgbuilder.recipe.recipe import SETTINGS
from imgbuilder.recipe.variables import NAME, next_to

LISTS = {
    "addresses": "Addresses, each with the length of its network, such as 192.0.2.11/24.",
    "gateway": "Default gateways, one for IPv4 and one for IPv6 at most.",
    "dns": "Name servers.",
    "search": "Domains in which names are looked up.",
    "ssh-keys": "Public ssh keys that may log in as root, as file:PATH or string:KEY.",
}
"""Keys of a host that have a list of texts, or one text, and their descriptions."""
DOMAIN = {
    "domain": ("For libvirt: define, or start, the machine of the image.", ""),
    "memory": ("Memory of that machine in MiB.", str(DEFAULT_MEMORY)),
    "cpus": ("Its processors.", "1"),
    "net": ("The network of libvirt that its card is in.", "default"),
}
"""Keys of a host about the machine in libvirt, their descriptions and defaults."""
TEXTS = {
    "mac": "MAC address of the card that gets the addresses, or auto for one that follows from the name.",
    "interface": "Name of the interface that gets the addresses.",
    **{name: SETTINGS[name].summary for name in ("template", "arch", "size", "format", "memsize", "seed")},
    "output": "The image: a file, relative to the fleet's file; the default is {host} and the format. "
    "Or block:DEVICE, libvirt:POOL/VOLUME, or s3://BUCKET/OBJECT.",
    "server": "For libvirt: its URI, such as qemu+ssh://root@host/system. For S3: the URL of a server other "
    "than Amazon's.",
    **{name: text for name, (text, _default) in DOMAIN.items()},
}
"""Keys of a host that have a text."""
NAMES = {
    "name": "The host's name.",
    "range": "Names of several hosts, such as web[01-20].",
}
"""Keys of which each host has one."""
TOP = ("description", "recipe", "hosts", "defaults", "secrets", "host")
_LARGEST_TABLE = 16 << 20
_MOST_SHOWN = 100

Place = Callable[[], str]


class FleetError(UsageError):
    """The mistakes of a fleet's files, all that were found."""

    def __init__(self, path: Path, found: list[UsageError]) -> None:
        problems = list({str(error): error for error in found}.values())  # hosts may share a mistake
        count = f"{len(problems)} mistakes" if len(problems) != 1 else "a mistake"
        super().__init__(f"{path}: {count}; nothing was built", hint="correct them and run the command again")
        self.problems = tuple(problems[:_MOST_SHOWN])


@dataclass
class Problems:
    """Mistakes that were found so far."""

    found: list[UsageError] = field(default_factory=list)

    def add(self, place: Place, message: str, hint: str | None = None) -> None:
        """Add a mistake."""
        self.found.append(UsageError(f"{place()}: {message}", hint=hint))

    @contextlib.contextmanager
    def collect(self, place: Place | None = None) -> Iterator[None]:
        """Add the mistake that ends the block, at a place if its message has none."""
        try:
            yield
        except UsageError as error:
            if place is None or ": line " in error.message:
                self.found.append(error)
            else:
                self.add(place, error.message, error.hint)


@dataclass(frozen=True)
class Value:
    """A value and where it was written: a text, or the texts of a list."""

    texts: tuple[str, ...]
    place: Place

    @property
    def text(self) -> str:
        """The value of a key that has no list."""
        return " ".join(self.texts)


@dataclass(frozen=True)
class Entry:
    """A host, or a range of hosts, as it is written, with the defaults."""

    values: Mapping[str, Value]
    variables: Mapping[str, Value]
    place: Place


@dataclass(frozen=True)
class Draft:
    """The content of a fleet's files."""

    recipe: Value | None
    secrets: Mapping[str, Value]
    entries: tuple[Entry, ...]


def read_draft(path: Path, problems: Problems) -> Draft:
    """Read a fleet's file and its table; only a file that is no TOML at all is an error."""
    document = RecipeDocument(path, "fleet file")
    reader = _TomlReader(document, problems)
    reader.check_top()
    defaults = reader.table("defaults", named=False)
    entries = [*reader.hosts(defaults)]
    table = reader.text("hosts")
    if table is not None:
        with problems.collect(table.place):
            entries += _read_table(next_to(document, table.text), defaults, problems)
    return Draft(reader.text("recipe"), reader.secrets(), tuple(entries))


class _TomlReader:
    def __init__(self, document: RecipeDocument, problems: Problems) -> None:
        self._document = document
        self._problems = problems

    def _place(self, *key: str | int) -> Place:
        return lambda: self._document.place(key)

    def check_top(self) -> None:
        """Refuse keys that a fleet does not have."""
        for name in self._document.data:
            if name not in TOP:
                hint = nearest(
                    name, TOP, f"known: {', '.join(TOP)}; what all hosts share is below [defaults]"
                )
                self._problems.add(self._place(name), f"a fleet has no key {name!r}", hint)
        self.text("description")

    def text(self, name: str) -> Value | None:
        """Return a text of the file itself."""
        if name not in self._document.data:
            return None
        value = self._value((name,), self._document.data[name], many=False)
        return value if value and value.text else None

    def secrets(self) -> dict[str, Value]:
        """Return the places of the secrets' values."""
        table = self._document.data.get("secrets", {})
        if not isinstance(table, dict):
            self._problems.add(self._place("secrets"), 'write [secrets], and below it NAME = "file:PATH"')
            return {}
        found = {name: self._value(("secrets", name), value, many=False) for name, value in table.items()}
        return {name: value for name, value in found.items() if value is not None}

    def hosts(self, defaults: Entry) -> Iterator[Entry]:
        """Yield the hosts, with the defaults for what they do not have."""
        tables = self._document.data.get("host", [])
        if not isinstance(tables, list):
            self._problems.add(self._place("host"), "hosts are written as [[host]]", "with two brackets")
            return
        for index in range(len(tables)):
            entry = self.table("host", index)
            yield Entry(
                {**defaults.values, **entry.values},
                {**defaults.variables, **entry.variables},
                entry.place,
            )

    def table(self, *key: str | int, named: bool = True) -> Entry:
        """Return the keys of a host, or of the defaults."""
        data: object = self._document.data
        for step in key:
            data = data.get(step, {}) if isinstance(data, dict) else data[step]  # type: ignore[index]
        known = {**(NAMES if named else {}), **TEXTS, **LISTS}
        values: dict[str, Value] = {}
        variables: dict[str, Value] = {}
        if not isinstance(data, dict):
            self._problems.add(self._place(*key), f"a table is expected here: [{key[0]}]")
            data = {}
        for name, given in data.items():
            way = (*key, name)
            if name == "set":
                variables = self._variables(way, given)
            elif name in known:
                value = self._value(way, given, many=name in LISTS)
                if value is not None:
                    values[name] = value
            else:
                hint = nearest(name, known, f"a variable of the recipe goes into set = {{ {name} = ... }}")
                self._problems.add(self._place(*way), f"a host has no key {name!r}", hint)
        return Entry(values, variables, self._place(*key))

    def _variables(self, key: Key, given: object) -> dict[str, Value]:
        if not isinstance(given, dict):
            self._problems.add(self._place(*key), "a table is expected here", 'set = { role = "front" }')
            return {}
        found = {name: self._value((*key, name), value, many=False) for name, value in given.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, key: Key, given: object, *, many: bool) -> Value | None:
        items = given if many and isinstance(given, list) else [given]
        texts = tuple(item for item in items if isinstance(item, str))
        if len(texts) != len(items):
            what = "a list of strings is" if many else "a string is"
            self._problems.add(self._place(*key), f"{what} expected here", "put it in quotes")
            return None
        return Value(texts, self._place(*key))


def _read_table(path: Path, defaults: Entry, problems: Problems) -> Iterator[Entry]:
    """Yield the rows of a table of hosts; a column that no host has is a variable."""
    text = read_text(path, "table of hosts", _LARGEST_TABLE)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)

    def place(column: str = "") -> Place:
        line = max(rows.line_num, 1)
        return lambda: f"{path}: line {line}" + (f", column {column}" if column else "")

    try:
        columns = [cell.strip() for cell in next(rows, [])]
        _check_columns(columns, place(), problems)
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                message = f"{len(cells)} cells, and {len(columns)} columns"
                problems.add(place(), message, "put a cell that contains a comma in double quotes")
                continue
            values, variables = dict(defaults.values), dict(defaults.variables)
            for column, cell in zip(columns, cells, strict=True):
                if not cell.strip():
                    continue  # the default holds
                if column in LISTS:
                    values[column] = Value(_items(column, cell), place(column))
                elif column in TEXTS or column in NAMES:
                    values[column] = Value((cell.strip(),), place(column))
                else:
                    variables[column] = Value((cell,), place(column))
            yield Entry(values, variables, place())
    except csv.Error as error:
        problems.add(place(), f"this is not CSV ({error})", "quotes are doubled inside quotes")


def _items(column: str, cell: str) -> tuple[str, ...]:
    """Split a cell at blanks; a key may contain them, so that a cell has one."""
    return (cell.strip(),) if column == "ssh-keys" else tuple(cell.split())


def _check_columns(columns: list[str], place: Place, problems: Problems) -> None:
    for name in dict.fromkeys(columns):
        if columns.count(name) > 1:
            problems.add(place, f"the column {name!r} is there twice")
        if not NAME.fullmatch(name):
            problems.add(place, f"{name!r} is not the name of a column")
    if not set(columns) & set(NAMES):
        problems.add(
            place, "the column name is missing", "the first line names the columns: name,addresses,..."
        )
