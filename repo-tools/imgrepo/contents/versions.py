"""Compares versions by the rule of each package manager. Pure functions."""

from __future__ import annotations

import itertools
import re

from imgbuilder.errors import RepositoryError
from imgrepo.contents.debcontrol import compare_versions

_RPM_PIECES = re.compile(r"[0-9]+|[A-Za-z]+|~|\^")
_APK = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)(?P<letter>[a-z]?)(?P<suffixes>(?:_[a-z]+[0-9]*)*)"
    r"(?:~(?P<hash>[0-9a-f]+))?(?:-r(?P<revision>[0-9]+))?"
)
_APK_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}


def compare(manager: str, left: str, right: str) -> int:
    """Compare two versions by a package manager's rule.

    Args:
        manager: ``dpkg``, ``rpm`` or ``apk``.
        left: A version.
        right: Another version.

    Returns:
        Less than 0, 0, or more than 0.

    Raises:
        RepositoryError: One of them is not a version, or the manager is not known.
    """
    match manager:
        case "dpkg":
            return compare_versions(left, right)
        case "rpm":
            return _compare_rpm(left, right)
        case "apk":
            return _compare_apk(left, right)
    raise RepositoryError(f"the order of versions of {manager} is not known")


def _compare_rpm(left: str, right: str) -> int:
    """Compare ``EPOCH:VERSION-RELEASE`` (rpm-version(7)); no epoch is 0."""
    for first, second in zip(_evr(left), _evr(right), strict=True):
        order = rpmvercmp(first, second)
        if order:
            return order
    return 0


def _evr(text: str) -> tuple[str, str, str]:
    epoch, colon, rest = text.partition(":")
    if not colon or not epoch.isdigit():
        epoch, rest = "0", text
    version, dash, release = rest.rpartition("-")
    return epoch, (version if dash else rest), (release if dash else "")


def rpmvercmp(left: str, right: str) -> int:
    """Compare two parts of a version as rpm does (rpm-version(7)).

    Pieces of digits and of letters are compared in turn. Other characters only separate them, except that a
    tilde sorts before the end, and a caret after the end but before everything else.
    """
    for first, second in itertools.zip_longest(_RPM_PIECES.findall(left), _RPM_PIECES.findall(right)):
        if first == second:
            continue
        order = _compare_pieces(first, second)
        if order:
            return order
    return 0


def _compare_pieces(first: str | None, second: str | None) -> int:
    for mark, sign in (("~", -1), ("^", 1)):
        if first == mark or second == mark:
            if mark == "^" and None not in (first, second):
                sign = -1  # a caret is newer than the end, and older than any further piece
            return sign if first == mark else -sign
    if first is None or second is None:
        return -1 if first is None else 1
    if first.isdigit() != second.isdigit():
        return 1 if first.isdigit() else -1
    if first.isdigit():
        one, two = _number(first), _number(second)
        return (one > two) - (one < two)
    return (first > second) - (first < second)


def _number(digits: str) -> tuple[int, str]:
    """Return the sort key of a number, without int(), which refuses very long ones."""
    plain = digits.lstrip("0")
    return len(plain), plain


def _compare_apk(left: str, right: str) -> int:
    first, second = _apk_key(left), _apk_key(right)
    return (first > second) - (first < second)


def _apk_key(text: str) -> tuple[object, ...]:
    """Return the sort key of a version of Alpine (apk-package(5))."""
    match = _APK.fullmatch(text)
    if match is None:
        raise RepositoryError(f"{text[:60]!r} is not a version of a package of Alpine")
    first, *others = match["numbers"].split(".")
    # After the first, a number with a leading zero is compared as a fraction, and before the others.
    parts = [(1, _number(first))]
    parts += [(0, (0, one)) if one[0] == "0" and one != "0" else (1, _number(one)) for one in others]
    suffixes = []
    for name, number in re.findall(r"_([a-z]+)([0-9]*)", match["suffixes"]):
        if name not in _APK_SUFFIXES:
            raise RepositoryError(f"{text[:60]!r} is not a version of a package of Alpine")
        suffixes.append((_APK_SUFFIXES[name], _number(number)))
    # The end sorts after _rc, and before _p.
    return tuple(parts), match["letter"], (*suffixes, (0, (0, ""))), _number(match["revision"] or "")
