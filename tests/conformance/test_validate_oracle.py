"""``pybuilder-repo validate`` compared with the real virt-index-validate, over good and bad files."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from imgindex.model import Index
from imgindex.write import write_index
from imgrepo.cli.main import run
from imgrepo.services import Services
from tests.fakes.keys import KeyMaker
from tests.unit.imgindex.test_write import ENTRY, INDEXES

pytestmark = pytest.mark.skipif(
    shutil.which("virt-index-validate") is None,
    reason="virt-index-validate is missing (package guestfs-tools)",
)

OPTIONS = ((), ("--compat-1.24.1",), ("--compat-1.24.0",), ("--compat-1.24.0", "--compat-1.24.1"))

HEADERS = ("[a]", "[a_b]", "[a.b-c]", "[a]\t ", "[a b]", "[]", "[a]x", "[\u00e4]", "a]", "")
FIELDS = (
    "x=1",
    "sig=a.sig",
    "sig[x]=a",
    "x[y]=1",
    "x[y.z,a]=1",
    "k.x=1",
    "x=",
    "x= a # b ",
    "x=1\n 2\n\t3",
    "x=1\n ",
    "x=\u00e4\u20ac",
    "# c",
    "x=1\n# c\n 2",
    "x-y=1",
    "x[]=1",
    "x[a-b]=1",
    "x =1",
    "=1",
    "x",
    "-x=1",
    " x=1",
)


def corpus() -> list[str]:
    """Return some hundred texts: each header with a few fields, each field after a header, and pairs."""
    texts = ["", "# c\n", "\n", "# c\n\n", "x=1\n", " x\n", "[a]", "[a]\nx=1", "[a]\nx=1\n\n# end\n"]
    texts += [f"{header}\n{field}\n\n" for header in HEADERS for field in FIELDS[:8]]
    texts += [f"[a]\nsig=s\n{field}\n\n" for field in FIELDS]
    texts += [f"[a]\n{one}\n{two}\n" for one, two in itertools.product(FIELDS[:6], FIELDS)]
    texts += [f"# c\n[a]\nsig=s\n\n[b]\n{field}\n\n" for field in FIELDS]
    return list(dict.fromkeys(texts))


def ours(path: Path, options: tuple[str, ...]) -> int:
    return run(["validate", *options, str(path)], Services())


def theirs(path: Path, options: tuple[str, ...]) -> int:
    """The oracle's verdict; most of its compatibility failures end in a crash, which is also a no."""
    command = ["virt-index-validate", *options, str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    return min(abs(done.returncode), 1)


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_same_verdict_over_the_corpus(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "index"
    verdicts = {0: 0, 1: 0}
    for text in corpus():
        path.write_text(text)
        verdict = theirs(path, options)
        assert ours(path, options) == verdict, text
        shown = capsys.readouterr()
        assert (shown.out == f"{path} validated OK\n") == (verdict == 0)
        assert "Traceback" not in shown.err
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 15, verdicts


def test_signed_files(tmp_path: Path, keys: KeyMaker) -> None:
    path = tmp_path / "index.asc"
    key = keys.make("validator")
    for text, verdict in ((write_index(Index((ENTRY,))), 0), ("[a]\nfoo\n", 1), ("# c\n[a]\nsig=x\n", 0)):
        path.write_bytes(keys.sign(text, key))
        assert (theirs(path, ()), ours(path, ())) == (verdict, verdict)
    assert (theirs(path, ("--compat-1.24.1",)), ours(path, ("--compat-1.24.1",))) == (1, 1)


UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(INDEXES)
def test_whatever_we_write(tmp_path: Path, index: Index) -> None:
    path = tmp_path / "index"
    path.write_text(write_index(index))
    for options in OPTIONS[:3]:
        assert ours(path, options) == theirs(path, options)
    assert ours(path, ()) == 0


LINES = st.lists(st.sampled_from([*HEADERS[:6], *FIELDS, "", "  ", "\tx"]), max_size=8)


def has_blank_line_trouble(text: str) -> bool:
    """Tell whether empty lines matter to 1.48; later versions read such a text as we do."""
    lines = text.split("\n")[:-1]
    after_blank = True
    for line in lines:
        if not line:
            after_blank = True
        elif not line.startswith("#"):
            if line.startswith("[") != after_blank:
                return True
            after_blank = False
    return False


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(LINES)
def test_any_lines(tmp_path: Path, lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assume(not has_blank_line_trouble(text))
    path = tmp_path / "index"
    path.write_text(text)
    for options in OPTIONS[:3]:
        assert ours(path, options) == theirs(path, options), text


FRAMED = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n[a]\nx=1\n\n-----BEGIN PGP SIGNATURE-----\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[a]\nx=1\r\n", "a carriage return would become part of the value"),
        (b"[a]\nx=\xff\n", "not UTF-8, which a JSON list could not show"),
        (b"[a]\nx=\x1b[2J\n", "a control character, which could make a terminal do things"),
        (b"[a]\nx=a\x00b\n", "a NUL, behind which virt-builder sees nothing"),
        (FRAMED, "the frame is cut short"),
        (b"# c\n" + FRAMED, "there is text before the frame"),
    ],
)
def test_reasoned_differences(tmp_path: Path, data: bytes, why: str) -> None:
    """No client of ours would accept these, so that to call them valid would be a lie."""
    path = tmp_path / "index"
    path.write_bytes(data)
    assert (theirs(path, ()), ours(path, ())) == (0, 1), why
