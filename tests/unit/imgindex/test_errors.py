from __future__ import annotations

from imgindex.errors import IndexSyntaxError, PybuilderError


def test_an_error_in_one_line_has_its_hint_if_there_is_one() -> None:
    assert PybuilderError("it failed", hint="try again").in_one_line == "it failed (try again)"
    assert PybuilderError("it failed").in_one_line == "it failed"
    assert IndexSyntaxError("f", 3, "bad", hint="mind").in_one_line == "f: line 3: bad (mind)"
