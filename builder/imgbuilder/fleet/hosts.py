"""Makes the hosts of a fleet from its entries, and checks them one against the other; nothing is changed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from imgbuilder.building.request import BuildRequest, HostsideMode
from imgbuilder.customize.operation import Operation
from imgbuilder.customize.ops.staticip import StaticIp
from imgbuilder.customize.registry import Written, all_operations
from imgbuilder.customize.run import validate
from imgbuilder.customize.values import hostname
from imgbuilder.errors import UsageError
from imgbuilder.fleet.entries import Draft, Entry, FleetError, Place, Problems, Value, read_draft
from imgbuilder.fleet.outputs import OutputReader, output_key
from imgbuilder.outputs.store import Remote
from imgbuilder.recipe.document import nearest
from imgbuilder.recipe.reader import RecipeFiles
from imgbuilder.recipe.recipe import SETTINGS, Recipe, SettingKind
from imgbuilder.recipe.variables import split_selector
from imgbuilder.recipe.writer import recipe_text

_MOST_HOSTS = 10_000
_RANGE = re.compile(r"([^\[\]]*)\[([0-9]{1,6})-([0-9]{1,6})\]([^\[\]]*)")
_FIELD = re.compile(r"\{(?:(host)|(n)([+-][0-9]{1,9})?)\}")
_SETTINGS = ("template", "arch", "size", "format", "memsize", "seed")


@dataclass(frozen=True)
class Host:
    """One machine of a fleet.

    Attributes:
        name: Its name.
        recipe: All that its image is made of; files that it names have absolute paths.
        operations: The recipe's operations, checked.
        output: The image; if its place is on another machine, the file that it is first.
        remote: That place; None for a file or a block device.
        addresses: Its fixed addresses.
        mac: The MAC address of the card that has them, or an empty text.
        place: Returns the file and line that it comes from.
    """

    name: str
    recipe: Recipe
    operations: tuple[Operation, ...] = field(repr=False)
    output: Path
    remote: Remote | None
    addresses: tuple[str, ...]
    mac: str
    place: Place = field(repr=False, compare=False)

    @property
    def text(self) -> str:
        """The recipe as TOML, without the values of secrets."""
        return recipe_text(self.recipe, None)

    @property
    def goes_to(self) -> str:
        """The place of its image, as people write it."""
        return str(self.remote or self.output)

    def request(self, hostside: HostsideMode | None = None) -> BuildRequest:
        """Return the request to build its image."""
        return replace(self.recipe.request(), hostside=hostside, output=self.output)


@dataclass(frozen=True)
class Fleet:
    """The hosts of a fleet, checked."""

    path: Path
    hosts: tuple[Host, ...]


def read_fleet(path: Path) -> Fleet:
    """Read a fleet's files.

    Raises:
        FleetError: There are mistakes in them; it has all that were found.
        UsageError: The file cannot be read as TOML.
    """
    problems = Problems()
    draft = read_draft(path, problems)
    maker = _HostMaker(path.absolute(), draft, problems)
    hosts = [host for entry in draft.entries for host in maker.hosts(entry)]
    _check_doubles(hosts, problems)
    for folder, host in {host.output.parent: host for host in reversed(hosts)}.items():
        if host.remote is None and not folder.is_dir():
            message, hint = f"the folder {folder} is missing", f"make it first: mkdir -p {folder}"
            problems.add(host.place, f"{message}, where the image of {host.name} goes", hint)
    if not draft.entries:
        problems.add(lambda: f"{path}: line 1", "the fleet has no hosts", 'write [[host]], and name = "web1"')
    if problems.found:
        raise FleetError(path, problems.found)
    return Fleet(path.absolute(), tuple(hosts))


@dataclass(frozen=True)
class _Numbered:
    """A name, and its number in a range."""

    name: str
    number: int | None

    def fill(self, text: str) -> str:
        """Replace the marks in a text: {host}, and {n}, {n+10} and {n-1} in ranges."""

        def one(match: re.Match[str]) -> str:
            if match[1]:
                return self.name
            if self.number is None:
                raise UsageError(f"{match[0]} is for a range of hosts", hint='range = "web[01-20]"')
            return str(self.number + int(match[3] or 0))

        return _FIELD.sub(one, text)


class _HostMaker:
    """Makes the hosts of entries."""

    def __init__(self, path: Path, draft: Draft, problems: Problems) -> None:
        self._path = path
        self._secrets = draft.secrets
        self._problems = problems
        self._count = 0
        self._files: RecipeFiles | None = None
        self._usable = True
        if draft.recipe is not None:
            self._usable = False
            with problems.collect(draft.recipe.place):
                self._files = RecipeFiles(path.parent / draft.recipe.text)
                self._usable = True

    def hosts(self, entry: Entry) -> Iterator[Host]:
        """Yield the hosts of an entry; what is wrong with one goes to the problems."""
        for numbered in self._names(entry):
            self._count += 1
            if self._count == _MOST_HOSTS + 1:
                self._problems.add(entry.place, f"a fleet has at most {_MOST_HOSTS} hosts")
            if self._count > _MOST_HOSTS:
                return
            before = len(self._problems.found)
            host = None
            with self._problems.collect(entry.place):
                host = self._host(numbered, entry)
            if host is not None:
                yield host
            if entry.values.get("range") and len(self._problems.found) > before:
                return  # the other hosts of the range would say the same

    def _names(self, entry: Entry) -> list[_Numbered]:
        given = [entry.values[key] for key in ("name", "range") if key in entry.values]
        if len(given) != 1:
            self._problems.add(entry.place, "a host has a name or a range", 'for example name = "web1"')
            return []
        text, place = given[0].text, given[0].place
        numbered = [_Numbered(text, None)]
        if "range" in entry.values:
            match = _RANGE.fullmatch(text)
            if match is None or int(match[2]) > int(match[3]):
                self._problems.add(place, f"{text!r} is not a range of names", "for example web[01-20]")
                return []
            last = min(int(match[3]), int(match[2]) + _MOST_HOSTS)
            numbered = [
                _Numbered(f"{match[1]}{number:0{len(match[2])}}{match[4]}", number)
                for number in range(int(match[2]), last + 1)
            ]
        try:
            for host in numbered:
                hostname(host.name)
        except UsageError as error:
            self._problems.add(place, error.message, error.hint)
            return []
        return numbered

    def _host(self, numbered: _Numbered, entry: Entry) -> Host | None:
        before = len(self._problems.found)
        texts = {name: self._filled(numbered, value) for name, value in entry.values.items()}
        recipe = self._recipe(numbered, entry)
        settings = self._settings(texts, entry)
        network = self._network(numbered.name, texts, entry)
        own = [
            *self._secret_operations(numbered),
            self._written("hostname", (numbered.name,), entry.place),
            *([] if network is None else [network]),
            *self._key_operations(texts, entry),
        ]
        if recipe is None or len(self._problems.found) > before:
            return None
        settings = {**recipe.settings, **settings}
        output, remote = self._output(numbered.name, settings, texts, entry)
        if remote is None:
            settings["output"] = str(output)
        else:
            settings.pop("output", None)
        operations = (*own, *recipe.operations)
        made = tuple(written.make() for written in operations)
        if "template" not in settings:
            raise UsageError("the host has no template", hint='below [defaults]: template = "debian-12"')
        validate(made)
        fixed = [operation for operation in made if isinstance(operation, StaticIp)]
        addresses = tuple(text for operation in fixed for text in operation.addresses)
        mac = fixed[0].mac if fixed else ""
        if remote is not None and remote.domain is not None:
            remote = replace(remote, domain=replace(remote.domain, mac=mac))
        recipe = Recipe(settings, operations)
        return Host(numbered.name, recipe, made, output, remote, addresses, mac, entry.place)

    def _filled(self, numbered: _Numbered, value: Value) -> tuple[str, ...]:
        try:
            return tuple(numbered.fill(text) for text in value.texts)
        except UsageError as error:
            self._problems.add(value.place, error.message, error.hint)
            return ()

    def _recipe(self, numbered: _Numbered, entry: Entry) -> Recipe | None:
        """Return the recipe with the host's variables; None if that is not possible."""
        declared = {} if self._files is None else self._files.variables
        values = {}
        for name, value in entry.variables.items():
            if name in declared:
                values[name] = "".join(self._filled(numbered, value))
            elif self._usable:
                known = ", ".join(declared) or "none"
                hint = nearest(name, declared, f"its variables: {known}")
                self._problems.add(value.place, f"the recipe has no variable {name!r}", hint)
        for name, variable in declared.items():
            if name not in values and variable.default is None:
                self._problems.add(
                    entry.place, f"the recipe's variable {name!r} has no value", f'set = {{ {name} = "..." }}'
                )
                return None
        if self._files is None:
            return Recipe() if self._usable else None
        return self._files.recipe(values)

    def _settings(self, texts: Mapping[str, tuple[str, ...]], entry: Entry) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in _SETTINGS:
            if name in texts:
                with self._problems.collect(entry.values[name].place):
                    setting, value = SETTINGS[name], " ".join(texts[name])
                    number = setting.kind is SettingKind.NUMBER
                    if number and not (value.isascii() and value.isdigit()):
                        raise UsageError("a positive whole number is expected here")
                    found[name] = int(value) if number else value
                    setting.check(found[name])
        return found

    def _output(
        self, name: str, settings: Mapping[str, Any], texts: Mapping[str, tuple[str, ...]], entry: Entry
    ) -> tuple[Path, Remote | None]:
        if "output" not in texts and "output" in settings and self._count > 1:
            raise UsageError("all hosts have the output of the recipe", hint='add output = "{host}.img"')
        given = {key: Value(values, entry.values[key].place) for key, values in texts.items()}
        return OutputReader(name, self._path.parent, settings, given, self._problems).read()

    def _network(self, name: str, texts: Mapping[str, tuple[str, ...]], entry: Entry) -> Written | None:
        if "addresses" not in texts:
            for key in ("mac", "interface"):
                if key in texts:
                    self._problems.add(entry.values[key].place, f"{key} needs addresses")
            return None
        mac = " ".join(texts.get("mac", ()))
        values = (
            texts["addresses"],
            *(texts.get(key) or None for key in ("gateway", "dns", "search")),
            self._derived_mac(name) if mac == "auto" else mac or None,
            " ".join(texts.get("interface", ())) or None,
        )

        def where(field_name: str) -> str:
            key = "gateway" if field_name == "gateways" else field_name
            return entry.values[key].place() if key in entry.values else entry.place()

        written = Written(all_operations()["static-ip"], values, where)
        with self._problems.collect():
            written.make()
        return written

    def _derived_mac(self, name: str) -> str:
        """Return an address that is the same in each run; QEMU's prefix, and 32 bits of a digest."""
        digest = hashlib.sha256(f"{self._path.stem}\0{name}".encode()).hexdigest()
        return ":".join(["52", "54", *(digest[at : at + 2] for at in range(0, 8, 2))])

    def _secret_operations(self, numbered: _Numbered) -> Iterator[Written]:
        for name, value in self._secrets.items():
            source = " ".join(self._filled(numbered, value))
            written = self._written("secret", (name, self._with_file(source)), value.place)
            with self._problems.collect(value.place):
                written.make()
                yield written

    def _key_operations(self, texts: Mapping[str, tuple[str, ...]], entry: Entry) -> Iterator[Written]:
        for text in texts.get("ssh-keys", ()):
            place = entry.values["ssh-keys"].place
            written = self._written("ssh-inject", ("root", self._with_file(text)), place)
            with self._problems.collect(place):
                written.make()
                yield written

    def _with_file(self, selector: str) -> str:
        """Return a selector whose file is relative to the fleet's folder."""
        start, path = split_selector(selector)
        return f"{start}{self._path.parent / path}" if start else selector

    def _written(self, keyword: str, values: tuple[str, ...], place: Place) -> Written:
        return Written(all_operations()[keyword], values, lambda _field: place())


def _check_doubles(hosts: list[Host], problems: Problems) -> None:
    """Find hosts that share what only one can have."""
    kinds: dict[str, Callable[[Host], list[str]]] = {
        "name": lambda host: [host.name.lower()],
        "output": lambda host: [output_key(host.output, host.remote)],
        "address": lambda host: [text.partition("/")[0] for text in host.addresses],
        "MAC address": lambda host: [host.mac] if host.mac else [],
    }
    for kind, values_of in kinds.items():
        first: dict[str, Host] = {}
        for host in hosts:
            for value in values_of(host):
                other = first.setdefault(value, host)
                if other is not host:
                    message = f"{host.name} has the {kind} {value} of {other.name} ({other.place()})"
                    problems.add(host.place, message, "give each host its own")
