"""Packages of Debian and its relatives: ``/var/lib/dpkg/status``, and ``status.d`` of images without dpkg."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

from imgbuilder.errors import ApplianceError, GuestError, RepositoryError
from imgbuilder.guests.ports import Guest
from imgrepo.contents.debcontrol import exact_relations, is_package_name, is_version, paragraphs
from imgrepo.contents.licences import UNKNOWN, Licences, of_copyright
from imgrepo.contents.reading import at_most, read_text
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
