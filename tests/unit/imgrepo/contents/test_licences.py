"""Licences in licence fields and copyright files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrepo.contents.licences import UNKNOWN, _by_spdx, is_spdx, of_copyright, of_expression
from tests.unit.imgrepo.contents.guests import APACHE, DEP5, FREE_TEXT


def test_machine_readable_names_become_spdx_identifiers() -> None:
    found = of_copyright(DEP5, where="x")
    assert found.names == ("BSD-3-Clause", "GPL-2.0-only", "MIT")
    assert found.copyleft is True


@pytest.mark.parametrize(
    ("text", "names", "copyleft"),
    [
        ("GPL-2+", ("GPL-2.0-or-later",), True),
        ("GPL-3", ("GPL-3.0-only",), True),
        ("LGPL-2.1+", ("LGPL-2.1-or-later",), True),
        ("LGPL-2+ or MPL-1.1", ("LGPL-2.0-or-later", "MPL-1.1"), True),
        ("GFDL-1.3+", ("GFDL-1.3-or-later",), True),
        ("AGPL-3+", ("AGPL-3.0-or-later",), True),
        ("GPLv2+", ("GPL-2.0-or-later",), True),
        ("GPL", ("GPL",), True),
        ("Expat", ("MIT",), False),
        ("expat, zlib", ("MIT", "Zlib"), False),
        ("BSD-2-clause and public-domain", ("BSD-2-Clause", "public-domain"), False),
        ("Apache-2", ("Apache-2.0",), False),
        ("(MIT OR Apache-2.0) AND ISC", ("Apache-2.0", "ISC", "MIT"), False),
        ("GPL-2.0-or-later WITH Bison-exception-2.2", ("GPL-2.0-or-later WITH Bison-exception-2.2",), True),
        ("GPL-3+ with Autoconf exception", ("GPL-3+ with Autoconf exception",), True),
        ("their-own-licence", ("their-own-licence",), None),
        ("MIT and their-own-licence", ("MIT", "their-own-licence"), None),
        ("GPL-2 and their-own-licence", ("GPL-2.0-only", "their-own-licence"), True),
        ("SSPL-1.0", ("SSPL-1.0",), None),
        ("", (), None),
    ],
)
def test_names(text: str, names: tuple[str, ...], copyleft: bool | None) -> None:
    found = of_expression(text)
    assert (found.names, found.copyleft) == (names, copyleft)


def test_words_of_free_text_do_not_pretend_to_know_the_version() -> None:
    assert of_copyright(FREE_TEXT, where="x").names == ("GPL-3",)
    assert not is_spdx("GPL-3")
    assert of_copyright(FREE_TEXT, where="x").copyleft is True
    assert of_copyright(APACHE, where="x").names == ("Apache-2.0",)
    assert of_copyright(APACHE, where="x").copyleft is False


def test_what_says_nothing_stays_unknown() -> None:
    assert of_copyright("Written by an author.\n", where="x") == UNKNOWN


def test_a_file_that_only_speaks_of_the_format_is_read_by_its_words() -> None:
    text = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nThe GPL applies.\n"
    assert of_copyright(text, where="x").copyleft is True


def test_spdx_identifiers() -> None:
    assert is_spdx("GPL-2.0-or-later")
    assert is_spdx("GPL-2.0-or-later WITH Bison-exception-2.2")
    assert not is_spdx("gpl-2.0-or-later")
    assert not is_spdx("GPL-2.0-or-later WITH nothing")


@given(st.one_of(st.text(), st.binary().map(lambda data: data.decode("utf-8", "replace"))))
def test_any_copyright_file_has_an_answer(text: str) -> None:
    for whole in (text, f"Format: copyright-format\n\nLicense: {text}", f"{DEP5}\n{text}"):
        found = of_copyright(whole, where="x")
        assert all(name.isascii() and name.isprintable() and 0 < len(name) <= 80 for name in found.names)
    of_expression(text)


@pytest.mark.parametrize("rest", ["GPL-2.0-only", "a name that no list has"])
def test_a_name_after_many_others_is_not_taken_for_free(rest: str) -> None:
    exceptions = (known for known in _by_spdx().values() if known.category == "Permissive")
    free = list(dict.fromkeys(known.identifier for known in exceptions if not known.is_exception))
    assert len(free) > 300
    assert of_expression(" AND ".join(free[:100])).copyleft is False
    assert of_expression(" AND ".join([*free[:300], rest])).copyleft is not False
    stanzas = "".join(f"\nFiles: {name}\nLicense: {name}\n" for name in [*free[:300], rest])
    text = f"Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n{stanzas}"
    assert of_copyright(text, where="x").copyleft is not False
