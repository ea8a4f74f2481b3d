"""The reason for each refusal: each row of the threat model by the error of its own rule."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imgindex.accept import Accepted, AcceptPolicy, accept
from imgindex.errors import (
    BadSignatureError,
    ConflictingIndexError,
    FutureIndexError,
    IndexSyntaxError,
    NotSignedError,
    PybuilderError,
    RolledBackError,
    WrongKeyError,
)
from imgindex.gpg import GpgVerifier
from imgindex.parse import parse_index
from imgindex.trust import TrustedKeys
from tests.fakes.attacks import World, attacks, good_variants
from tests.fakes.keys import KeyMaker

ROOT = Path(__file__).parents[2]

WHERE = "https://example.org/index.asc"
NO_FRAME = (NotSignedError, BadSignatureError)
"""Files that are not clear-signed at all, or only nearly."""

EXPECTED: dict[str, tuple[type[Exception], ...]] = {
    "S3": (WrongKeyError,),
    "S4": (WrongKeyError,),
    "S5": (WrongKeyError,),
    "S10": (WrongKeyError,),
    "S15": (WrongKeyError,),
    "S18": NO_FRAME,
    "S20": (BadSignatureError,),
    "S24": NO_FRAME,
    "S21": NO_FRAME,
    "S26": (NotSignedError,),
    "S27": (WrongKeyError, NotSignedError),
    "S28": (WrongKeyError,),
    "S30": (WrongKeyError, BadSignatureError, NotSignedError),
    "S32": (BadSignatureError, WrongKeyError),
    "S33": (RolledBackError,),
    "S34": (ConflictingIndexError,),
    "S35": (FutureIndexError,),
    "S40": (NotSignedError, BadSignatureError),
    "S17": (BadSignatureError, WrongKeyError),
    "S2": (BadSignatureError, WrongKeyError),
    "P15": (BadSignatureError,),
    "P16": (BadSignatureError, IndexSyntaxError),
}
"""Errors of the rows; other S rows are BadSignatureError, other P rows IndexSyntaxError."""


def judge(data: bytes, pin: TrustedKeys, last: Accepted | None) -> Accepted:
    rule = AcceptPolicy(pin, last, None, WHERE, "repair")
    return accept(data, rule, parse_index, verifier=GpgVerifier(), now=datetime.now(UTC)).record


@pytest.mark.row("S18", "S19", "S20", "S23", "S39", "V1", "V2", "V4", "V5", "V7", "V8")
def test_each_row_is_refused_by_its_own_rule(keys: KeyMaker) -> None:
    """V1, V2, V4, V5, V7 and V8: each refuses with an error of its own."""
    world = World(keys)
    wrong = []
    for case in attacks(world):
        last = None if case.before is None else judge(case.before, case.pin, None)
        default = BadSignatureError if case.row.startswith("S") else IndexSyntaxError
        try:
            judge(case.data, case.pin, last)
        except PybuilderError as error:
            if type(error) not in EXPECTED.get(case.row, (default,)) or WHERE not in error.message:
                wrong.append((case.row, case.name, type(error).__name__, error.message))
        else:
            wrong.append((case.row, case.name, "accepted", ""))
    assert wrong == []
    for case in good_variants(world):
        judge(case.data, case.pin, None)


def test_no_other_module_judges() -> None:
    """First fetch, refresh, mirror, kept copy and local file: there is one way in, for all of them."""
    callers: dict[str, set[str]] = {"judge_freshness": set(), "accept": set()}
    for root in (ROOT / "index", ROOT / "builder", ROOT / "repo-tools"):
        for path in root.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in callers:
                    callers[node.func.id].add(str(path.relative_to(root)))
    assert callers["judge_freshness"] == {"imgindex/accept.py"}
    assert callers["accept"] == {
        "imgbuilder/catalog/loader.py",
        "imgrepo/sharing/mirror.py",
        "imgrepo/webroot/validate.py",
    }
