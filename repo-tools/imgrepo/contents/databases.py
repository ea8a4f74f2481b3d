"""The package databases of a guest: dpkg, rpm and apk.

dpkg and apk keep text files, which are read here. The database of rpm has had
three formats (Berkeley DB, ndb, SQLite), so the guest's own rpm lists it: it
runs in the appliance without a network, on filesystems that are mounted
read-only, and writes into memory.

All of it may be hostile. Texts, numbers of packages and the memory that they
take are limited, and a package that cannot be is an error: none is left out
silently (``docs/threat-model.md`` T14, T15).
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

from imgbuilder.errors import ApplianceError, GuestCallError, GuestError, RepositoryError
from imgbuilder.guests.ports import Guest
from imgrepo.contents.debcontrol import exact_relations, is_package_name, is_version, paragraphs
from imgrepo.contents.licences import UNKNOWN, Licences, of_copyright, of_expression
from imgrepo.contents.mounting import read_text
from imgrepo.library.records import Package

STATUS = "/var/lib/dpkg/status"
_FOLDER = "/var/lib/dpkg/status.d"
_LARGEST = 16 << 20
"""Bytes of the database of dpkg, or of the list that rpm writes."""
_LARGEST_COPYRIGHT = 2 << 20
_LARGEST_COPYRIGHTS = 256 << 20
"""Bytes of all copyright files, which are read one after the other."""
_LARGEST_APK = 32 << 20
"""Bytes of the database of apk, which lists all files as well."""
_MOST_FILES = 20_000
_MOST_PACKAGES = 20_000
"""More than twice as many as the largest guests have."""
_MOST_MEMORY = 64 << 20
"""Bytes that the names in the packages of one guest take, about; the largest guests need a tenth of it."""
_OF_ONE_NAME = 64
"""Bytes that Python needs for a short text, besides its characters."""
_ABSENT = {"not-installed", "config-files"}
"""States of a package of which at most the settings are left (dpkg(1))."""
_BUILT_USING = ("Built-Using", "Static-Built-Using")


def _lines_of(text: str) -> Iterator[str]:
    """Yield the lines of a text one after the other: a list of all of them takes twenty times the memory."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end]
        start = end + 1
    yield text[start:]


def _limited(packages: Iterator[Package]) -> Iterator[Package]:
    """Yield packages; refuse more of them than any guest has, and those that take too much memory."""
    memory = 0
    for count, package in enumerate(packages, 1):
        names = [*package.licences, *(name for pair in package.built_using for name in pair)]
        memory += sum(_OF_ONE_NAME + len(name) for name in names)
        if count > _MOST_PACKAGES:
            raise GuestError(f"the guest's database has more than {_MOST_PACKAGES} packages")
        if memory > _MOST_MEMORY:
            raise GuestError("the guest's database has more names of licences and sources than any system")
        yield package


def _impossible(package: str) -> str:
    return f"the guest's database has an impossible package: {package}"


def has_dpkg(guest: Guest) -> bool:
    """Check whether a guest has the database of dpkg, or ``status.d`` as images without dpkg have it."""
    return guest.is_file(STATUS) or guest.is_dir(_FOLDER)


def read_dpkg(guest: Guest) -> tuple[Package, ...]:
    """Read the packages of Debian and its relatives from a mounted guest."""
    paths = [STATUS] if guest.is_file(STATUS) else []
    if guest.is_dir(_FOLDER):
        names = [name for name in guest.ls(_FOLDER) if not name.endswith(".md5sums")]
        if len(names) > _MOST_FILES:
            raise GuestError(f"{_FOLDER} of the guest has {len(names)} files")
        paths += [f"{_FOLDER}/{name}" for name in names]
    copyrights, left = _Copyrights(guest), _LARGEST

    def found() -> Iterator[Package]:
        nonlocal left
        for path in paths:
            text = read_text(guest, path, left)
            left -= len(text)
            yield from parse_status(text, copyrights.of)

    return tuple(_limited(found()))


def parse_status(text: str, licences: Callable[[str], Licences]) -> Iterator[Package]:
    """Read a status file of dpkg; ``licences`` returns the licences of the package with a name."""
    try:
        for fields in paragraphs(text, where=f"{STATUS} of the guest"):
            words = fields.get("Status", "install ok installed").split()
            if not words or words[-1] not in _ABSENT:
                yield _package(fields, licences)
    except RepositoryError as error:
        raise GuestError(error.message) from error


def _package(fields: Mapping[str, str], licences: Callable[[str], Licences]) -> Package:
    name, version = fields.get("Package", ""), fields.get("Version", "")
    source, _, rest = fields.get("Source", name).strip().partition(" ")
    source_version = rest.strip().removeprefix("(").removesuffix(")").strip() or version
    arch = fields.get("Architecture", "")
    sound = all(map(is_package_name, (name, source, arch))) and all(
        map(is_version, (version, source_version))
    )
    if not sound:
        raise RepositoryError(_impossible(f"{name[:60]!r} {version[:60]!r}"))
    found = licences(name)
    used = {pair for field in _BUILT_USING for pair in exact_relations(fields.get(field, ""))}
    return Package(
        name, version, arch, source, source_version, found.names, found.copyleft, tuple(sorted(used))
    )


class _Copyrights:
    """The copyright files of a guest; packages of one source mostly have the same one, judged once."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._known: dict[bytes, Licences] = {}
        self._left = _LARGEST_COPYRIGHTS

    def of(self, name: str) -> Licences:
        """Return the licences of a package."""
        path = f"/usr/share/doc/{name}/copyright"
        try:
            text = read_text(self._guest, path, _LARGEST_COPYRIGHT)
        except ApplianceError:
            raise
        except GuestError:
            return UNKNOWN  # it is missing, as in guests that save space
        self._left -= len(text)
        if self._left < 0:
            raise GuestError("the guest has more copyright files than are read")
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in self._known:
            self._known[digest] = of_copyright(text, where=path)
        return self._known[digest]


_RPM_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
_RPM_FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
_PLACES = ("/tmp", "/run", "/root", "/mnt")  # noqa: S108 - in the guest
"""Folders on which memory may be mounted: the guest itself is not written to."""
_RPM_LIMIT = 300.0
"""Seconds for rpm, under emulation."""

_RPM_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}}|\t%{VERSION}\t%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n"
_RPM_SCRIPT = f"""\
export LC_ALL=C HOME=MEMORY
ask() {{
    rpm "$@" -qa --nodigest --nosignature --queryformat '{_RPM_FORMAT}' >MEMORY/packages 2>MEMORY/errors
    [ "$?" = 0 ] && [ -s MEMORY/packages ]
}}
ask --dbpath DATABASE && exit 0
# Some formats want to write even to read.
cp -r DATABASE MEMORY/database && ask --dbpath MEMORY/database && exit 0
tail -n 3 MEMORY/errors
exit 1
"""
_PSEUDO = "gpg-pubkey"
"""The name of keys in the database of rpm."""

_NONE = "(none)"
_RPM_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^:-]{0,200}")
_EPOCH = re.compile(r"[0-9]{0,10}")
_SOURCE_RPM = re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?:no)?src\.rpm")


def has_rpm(guest: Guest) -> bool:
    """Check whether a guest has the database of rpm."""
    return _rpm_database(guest) is not None


def _rpm_database(guest: Guest) -> str | None:
    for folder in _RPM_FOLDERS:
        if any(guest.is_file(f"{folder}/{name}") for name in _RPM_FILES):
            return folder
    return None


def read_rpm(guest: Guest) -> tuple[Package, ...]:
    """List the packages of Fedora, SUSE and their relatives with the rpm of a mounted guest."""
    folder = _rpm_database(guest)
    assert folder is not None
    memory = next((place for place in _PLACES if guest.is_dir(place)), None)
    if memory is None:
        raise _not_listed(f"it has none of the folders {', '.join(_PLACES)} for the list")
    script = _RPM_SCRIPT.replace("DATABASE", folder).replace("MEMORY", memory)
    guest.mount_memory(memory)
    try:
        try:
            result = guest.sh(script, limit=_RPM_LIMIT)
        except GuestCallError as error:
            raise _not_listed(error.message) from error
        if result.status != 0:
            raise _not_listed(result.output.strip()[-500:] or f"status {result.status}")
        return tuple(_limited(parse_rpm(read_text(guest, f"{memory}/packages", _LARGEST))))
    finally:
        guest.unmount(memory)


def _not_listed(reason: str) -> GuestError:
    return GuestError(
        f"the guest's rpm does not list its packages: {reason}",
        hint="the image needs its own rpm and an architecture that this machine runs",
    )


def parse_rpm(text: str) -> Iterator[Package]:
    """Read a list that rpm printed, with one line for each package."""
    for line in filter(None, _lines_of(text)):
        fields = line.split("\t", 7)
        if len(fields) != 7:
            raise GuestError(_impossible(repr(line[:120])))
        name, epoch, version, release, arch, source, licence = fields
        if name == _PSEUDO:
            continue
        whole = f"{version}-{release}"
        origin = _SOURCE_RPM.fullmatch(source)
        source_name, source_version = (origin["name"], origin["version"]) if origin else (name, whole)
        words = (name, whole, arch, source_name, source_version)
        if not all(map(_RPM_WORD.fullmatch, words)) or not _EPOCH.fullmatch(epoch):
            raise GuestError(_impossible(repr(line[:120])))
        found = of_expression("" if licence == _NONE else licence)
        full = f"{epoch}:{whole}" if epoch not in ("", "0") else whole
        yield Package(name, full, arch, source_name, source_version, found.names, found.copyleft)


_APK_PLACES = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_APK_FIELDS = {"P", "V", "A", "o", "L"}
"""Name, version, architecture, origin and licence; F:, R: and others are repeated for each file."""
_APK_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")
_APK_VERSION = re.compile(r"[A-Za-z0-9._~-]{1,200}")


def has_apk(guest: Guest) -> bool:
    """Check whether a guest has the database of apk (apk-package(5))."""
    return any(guest.is_file(path) for path in _APK_PLACES)


def read_apk(guest: Guest) -> tuple[Package, ...]:
    """Read the packages of Alpine from a mounted guest."""
    path = next(path for path in _APK_PLACES if guest.is_file(path))
    # One byte a character, whatever the guest wrote: the fields that count are ASCII.
    return tuple(_limited(parse_apk(guest.read(path, limit=_LARGEST_APK).decode("latin-1"))))


def parse_apk(text: str) -> Iterator[Package]:
    """Read a database of apk."""
    for fields in _apk_paragraphs(text):
        name, version, arch = (fields.get(key, "") for key in "PVA")
        source = fields.get("o") or name
        if not all(map(_APK_NAME.fullmatch, (name, arch, source))) or not _APK_VERSION.fullmatch(version):
            raise GuestError(_impossible(f"{name[:60]!r} {version[:60]!r}"))
        found = of_expression(fields.get("L", ""))
        # All packages of one source have the version that it was built as.
        yield Package(name, version, arch, source, version, found.names, found.copyleft)


def _apk_paragraphs(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each package that are needed; a paragraph without any of them is not empty."""
    fields: dict[str, str] = {}
    for line in itertools.chain(_lines_of(text), [""]):
        if not line:
            if fields:
                yield fields
            fields = {}
            continue
        key, colon, value = line.partition(":")
        if colon and key in _APK_FIELDS:
            fields.setdefault(key, value.strip())
        elif line.strip():
            fields.setdefault("", "")
