"""Packages of Debian and its relatives: ``/var/lib/dpkg/status``, and ``status.d`` of images without dpkg."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

from imgbuilder.errors import ApplianceError, GuestCallError, GuestError, RepositoryError
from imgbuilder.guests.ports import Guest
from imgrepo.contents.debcontrol import exact_relations, is_package_name, is_version, paragraphs
from imgrepo.contents.licences import UNKNOWN, Licences, of_copyright, of_expression
from imgrepo.contents.mounting import at_most, lines_of, read_text
from imgrepo.library.records import Package

STATUS = "/var/lib/dpkg/status"
_FOLDER = "/var/lib/dpkg/status.d"
_LARGEST = 16 << 20
"""Bytes of the whole database."""
_LARGEST_COPYRIGHT = 2 << 20
_LARGEST_COPYRIGHTS = 256 << 20
"""Bytes of all copyright files, which are read one after the other."""
_MOST_FILES = 20_000
_ABSENT = {"not-installed", "config-files"}
"""States of a package of which nothing but settings is there (dpkg(1))."""
_BUILT_USING = ("Built-Using", "Static-Built-Using")


def has_dpkg(guest: Guest) -> bool:
    """Tell whether a guest has such a database."""
    return guest.is_file(STATUS) or guest.is_dir(_FOLDER)


def read_dpkg(guest: Guest) -> tuple[Package, ...]:
    """Read the packages of a mounted guest.

    Raises:
        GuestError: The database cannot be understood.
    """
    paths = [STATUS] if guest.is_file(STATUS) else []
    if guest.is_dir(_FOLDER):
        names = [name for name in guest.ls(_FOLDER) if not name.endswith(".md5sums")]
        if len(names) > _MOST_FILES:
            raise GuestError(f"{_FOLDER} of the guest has {len(names)} files")
        paths += [f"{_FOLDER}/{name}" for name in names]
    copyrights, left = _Copyrights(guest), _LARGEST
    packages: list[Package] = []
    for path in paths:
        text = read_text(guest, path, left)
        left -= len(text)
        packages += at_most(parse_status(text, copyrights.of))
    return tuple(packages)


def parse_status(text: str, licences: Callable[[str], Licences]) -> Iterator[Package]:
    """Read a status file.

    Args:
        text: Its content.
        licences: Tells the licences of the package with a name.

    Raises:
        GuestError: It cannot be understood; nothing is left out silently.
    """
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
        raise RepositoryError(
            f"the guest's database has a package that cannot be: {name[:60]!r} {version[:60]!r}"
        )
    found = licences(name)
    used = {pair for field in _BUILT_USING for pair in exact_relations(fields.get(field, ""))}
    return Package(
        name, version, arch, source, source_version, found.names, found.copyleft, tuple(sorted(used))
    )


class _Copyrights:
    """The copyright files of a guest; packages of one source mostly have the same one, which is read once."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._known: dict[bytes, Licences] = {}
        self._left = _LARGEST_COPYRIGHTS

    def of(self, name: str) -> Licences:
        """Tell the licences of a package."""
        path = f"/usr/share/doc/{name}/copyright"
        try:
            text = read_text(self._guest, path, _LARGEST_COPYRIGHT)
        except ApplianceError:
            raise
        except GuestError:
            return UNKNOWN  # not there, as in guests that save space
        self._left -= len(text)
        if self._left < 0:
            raise GuestError("the guest has more copyright files than are read")
        digest = hashlib.sha256(text.encode()).digest()
        if digest not in self._known:
            self._known[digest] = of_copyright(text, where=path)
        return self._known[digest]


# rpm: Packages of Fedora, SUSE and their relatives: asked of the guest's own rpm, in the appliance.


_FOLDERS = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")
_FILES = ("rpmdb.sqlite", "Packages.db", "Packages")
_MEMORY = "/tmp"  # noqa: S108 - in the guest, where memory is mounted on it
_LIST = f"{_MEMORY}/packages"
_LIMIT = 300.0
"""Seconds for rpm, under emulation."""

_FORMAT = r"%{NAME}\t%|EPOCH?{%{EPOCH}}|\t%{VERSION}\t%{RELEASE}\t%{ARCH}\t%{SOURCERPM}\t%{LICENSE}\n"
_SCRIPT = f"""\
export LC_ALL=C HOME={_MEMORY}
ask() {{
    rpm "$@" -qa --nodigest --nosignature --queryformat '{_FORMAT}' >{_LIST} 2>{_MEMORY}/words
    [ "$?" = 0 ] && [ -s {_LIST} ]
}}
ask --dbpath DATABASE && exit 0
# Some formats want to write even to read.
cp -r DATABASE {_MEMORY}/database && ask --dbpath {_MEMORY}/database && exit 0
tail -n 3 {_MEMORY}/words
exit 1
"""
_PSEUDO = "gpg-pubkey"
"""What rpm calls the keys in its database."""

_NONE = "(none)"
_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^:-]{0,200}")
_SOURCE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?:no)?src\.rpm")


def has_rpm(guest: Guest) -> bool:
    """Tell whether a guest has such a database."""
    return _database(guest) is not None


def _database(guest: Guest) -> str | None:
    for folder in _FOLDERS:
        if any(guest.is_file(f"{folder}/{name}") for name in _FILES):
            return folder
    return None


def read_rpm(guest: Guest) -> tuple[Package, ...]:
    """Ask for the packages of a mounted guest.

    Raises:
        GuestError: Its rpm cannot be run, or says what cannot be.
    """
    folder = _database(guest)
    assert folder is not None
    guest.mount_memory(_MEMORY)
    try:
        try:
            result = guest.sh(_SCRIPT.replace("DATABASE", folder), limit=_LIMIT)
        except GuestCallError as error:
            raise _not_asked(error.message) from error
        if result.status != 0:
            raise _not_asked(result.output.strip()[-500:] or f"status {result.status}")
        return tuple(at_most(parse_list(read_text(guest, _LIST, _LARGEST))))
    finally:
        guest.unmount(_MEMORY)


def _not_asked(reason: str) -> GuestError:
    return GuestError(
        f"the guest's rpm does not tell its packages: {reason}",
        hint="the image needs its rpm, and must be of an architecture that this machine runs",
    )


def parse_list(text: str) -> Iterator[Package]:
    """Read what rpm said.

    Args:
        text: A line for each package.

    Raises:
        GuestError: It cannot be understood; nothing is left out silently.
    """
    for line in filter(None, lines_of(text)):
        fields = line.split("\t")
        if len(fields) != 7:
            raise GuestError(f"the guest's rpm has a package that cannot be: {line[:120]!r}")
        name, epoch, version, release, arch, source, licence = fields
        if name == _PSEUDO:
            continue
        whole = f"{version}-{release}"
        origin = _SOURCE.fullmatch(source)
        source_name, source_version = (origin["name"], origin["version"]) if origin else (name, whole)
        words = (name, whole, arch, source_name, source_version)
        if not all(map(_WORD.fullmatch, words)) or not (epoch.isascii() and (epoch.isdigit() or not epoch)):
            raise GuestError(f"the guest's rpm has a package that cannot be: {line[:120]!r}")
        found = of_expression("" if licence == _NONE else licence)
        full = f"{epoch}:{whole}" if epoch not in ("", "0") else whole
        yield Package(name, full, arch, source_name, source_version, found.names, found.copyleft)


# apk: Packages of Alpine: ``/lib/apk/db/installed`` (apk-package(5)).


_PLACES = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
_LARGEST_APK = 32 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")
_VERSION = re.compile(r"[A-Za-z0-9._~-]{1,200}")


def has_apk(guest: Guest) -> bool:
    """Tell whether a guest has such a database."""
    return any(guest.is_file(path) for path in _PLACES)


def read_apk(guest: Guest) -> tuple[Package, ...]:
    """Read the packages of a mounted guest.

    Raises:
        GuestError: The database cannot be understood.
    """
    path = next(path for path in _PLACES if guest.is_file(path))
    return tuple(at_most(parse_installed(read_text(guest, path, _LARGEST_APK))))


def parse_installed(text: str) -> Iterator[Package]:
    """Read a database.

    Args:
        text: Its content.

    Raises:
        GuestError: It cannot be understood; nothing is left out silently.
    """
    for fields in _paragraphs(text):
        name, version, arch = (fields.get(key, "") for key in "PVA")
        source = fields.get("o") or name
        if not all(map(_NAME.fullmatch, (name, arch, source))) or not _VERSION.fullmatch(version):
            raise GuestError(
                f"the guest's database has a package that cannot be: {name[:60]!r} {version[:60]!r}"
            )
        found = of_expression(fields.get("L", ""))
        # All packages of one source have the version that it was built as.
        yield Package(name, version, arch, source, version, found.names, found.copyleft)


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    for line in itertools.chain(lines_of(text), [""]):
        if not line:
            if fields:
                yield fields
            fields = {}
            continue
        key, colon, value = line.partition(":")
        if colon and len(key) == 1:  # F:, R: and the like come again and again, and tell of files
            fields.setdefault(key, value.strip())
        elif line.strip():
            fields.setdefault("", line)  # a paragraph all the same, and one that cannot be
