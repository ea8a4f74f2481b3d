"""The expected texts were printed by virt-builder 1.48.2 for the same index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imgbuilder.catalog.listing import json_list, long_list, notes_text, preferred_languages, short_list
from imgbuilder.catalog.sources import Source
from imgindex.model import Entry, Note

ENTRIES = (
    Entry(
        "debian-12",
        "d.xz",
        "x86_64",
        2147483648,
        name='Debian "12"\\x',
        compressed_size=1048575,
        revision=3,
        aliases=("debian", "deb"),
        osinfo="debian12",
        notes=(Note("", "Line one\n\nline\ttwo"), Note("de", "Hallo")),
    ),
    Entry("averyveryverylongnameofatemplate", "e", "i686", 1126, compressed_size=0),
    Entry("hid", "h", "aarch64", 1073741823, name="Hid", hidden=True),
    Entry("nonotes", "h", "aarch64", 1048575, name="Noé"),
)

SOURCES = (
    Source("k", "/tmp/vb/i3", Path("/etc/virt-builder/repos.d/libguestfs.gpg")),
    Source("n", "/tmp/vb/i2", unsigned=True, check=False),
    Source("/tmp/vb/index", "/tmp/vb/index", (), check=False),
)

SHORT = (
    'debian-12                x86_64     Debian "12"\\x\n'
    "averyveryverylongnameofatemplate i686      \n"
    "nonotes                  aarch64    Noé\n"
)

LONG = (
    "Source URI: /tmp/vb/i3\nKey: /etc/virt-builder/repos.d/libguestfs.gpg\n\n"
    "Source URI: /tmp/vb/i2\n\n"
    "Source URI: /tmp/vb/index\nFingerprint: \n\n"
    "os-version:              debian-12\n"
    'Full name:               Debian "12"\\x\n'
    "Architecture:            x86_64\n"
    "Minimum/default size:    2.0G\n"
    "Download size:           1024.0K\n"
    "Aliases:                 debian deb\n"
    "\nNotes:\n\nLine one\n\nline\ttwo\n\n"
    "os-version:              averyveryverylongnameofatemplate\n"
    "Architecture:            i686\n"
    "Minimum/default size:    1.1K\n"
    "Download size:           0\n\n"
    "os-version:              nonotes\n"
    "Full name:               Noé\n"
    "Architecture:            aarch64\n"
    "Minimum/default size:    1024.0K\n\n"
)

JSON = r"""{
  "version": 1,
  "sources": [
    {
      "key": "/etc/virt-builder/repos.d/libguestfs.gpg",
      "uri": "/tmp/vb/i3"
    },
    {
      "uri": "/tmp/vb/i2"
    },
    {
      "fingerprint": "",
      "uri": "/tmp/vb/index"
    }
  ],
  "templates": [
    {
      "os-version": "debian-12",
      "full-name": "Debian \"12\"\\x",
      "arch": "x86_64",
      "size": 2147483648,
      "compressed-size": "1048575",
      "notes": {
        "C": "Line one\n\nline\ttwo",
        "de": "Hallo"
      },
      "aliases": [
        "debian",
        "deb"
      ],
      "osinfo": "debian12",
      "hidden": false
    },
    {
      "os-version": "averyveryverylongnameofatemplate",
      "arch": "i686",
      "size": 1126,
      "compressed-size": "0",
      "hidden": false
    },
    {
      "os-version": "hid",
      "full-name": "Hid",
      "arch": "aarch64",
      "size": 1073741823,
      "hidden": true
    },
    {
      "os-version": "nonotes",
      "full-name": "Noé",
      "arch": "aarch64",
      "size": 1048575,
      "hidden": false
    }
  ]
}
"""

EMPTY_JSON = '{\n  "version": 1,\n  "sources": [\n  ],\n  "templates": [\n  ]\n}\n'


def test_short_list() -> None:
    assert short_list(ENTRIES) == SHORT
    assert short_list(()) == ""


def test_long_list() -> None:
    assert long_list(SOURCES, ENTRIES) == LONG


def test_json_list() -> None:
    assert json_list(SOURCES, ENTRIES) == JSON
    assert json_list((), ()) == EMPTY_JSON
    json.loads(JSON)


def test_what_misleads_is_escaped_in_json_and_stays_what_it_is() -> None:
    name = "a \u202eb\u2066 \U000e0041\x9b"
    text = json_list([], [Entry("x", "x", "x86_64", 512, name=name, aliases=(name,))])
    assert text.isascii()
    (template,) = json.loads(text)["templates"]
    assert (template["full-name"], template["aliases"]) == (name, [name])


def test_passwords_are_not_listed() -> None:
    source = Source("x", "https://me:secret@h/index", ("A" * 40,))
    assert "Source URI: https://h/index\nFingerprint: " + "A" * 40 in long_list([source], ())
    assert "secret" not in json_list([source], ())


@pytest.mark.parametrize(
    ("notes", "languages", "expected"),
    [
        ((), ("",), None),
        ((Note("de", "x"),), ("",), None),
        ((Note("C", "c"),), ("",), "c"),
        ((Note("", "plain"), Note("de", "deutsch")), ("de_DE", "de", ""), "deutsch"),
        ((Note("", "plain"), Note("de", "d"), Note("de_AT", "a")), ("de_AT", "de", ""), "a"),
        ((Note("", "plain"), Note("de", "d")), ("fr_FR", "fr", ""), "plain"),
        ((Note("", ""),), ("",), ""),
    ],
)
def test_notes_text(notes: tuple[Note, ...], languages: tuple[str, ...], expected: str | None) -> None:
    assert notes_text(Entry("x", "f", "x86_64", 512, notes=notes), languages) == expected


@pytest.mark.parametrize(
    ("locale", "expected"),
    [
        ("", ("",)),
        ("C", ("",)),
        ("C.UTF-8", ("",)),
        ("POSIX", ("",)),
        ("de_AT.UTF-8@euro", ("de_AT", "de", "")),
        ("de", ("de", "")),
        ("../../x", ("",)),
    ],
)
def test_preferred_languages(locale: str, expected: tuple[str, ...]) -> None:
    assert preferred_languages(locale) == expected
