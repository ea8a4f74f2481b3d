"""CycloneDX and SPDX, judged by the validators of those who define them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgrepo.contents.documents import as_cyclonedx, as_spdx
from imgrepo.contents.licences import of_expression
from imgrepo.images.facts import display_name
from imgrepo.library.records import CONTENTS_FILE, ContentsRecord, Package
from tests.fakes.appliance import FakeAppliances
from tests.unit.imgrepo.contents.guests import CONTENTS, MARK, PACKAGES, WHEN, debian_guest, disk_of, sbom
from tests.unit.imgrepo.repository import Repository, image

if TYPE_CHECKING:
    from spdx_tools.spdx.model.document import Document


def valid_spdx(path: Path) -> Document:
    # Imported late: it takes half a second, in each worker of the tests.
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    document: Document = parse_file(str(path))
    assert [message.validation_message for message in validate_full_spdx_document(document)] == []
    return document


def test_cyclonedx_is_valid_and_says_it_all() -> None:
    text = as_cyclonedx(CONTENTS, "demo", WHEN)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    data = json.loads(text)
    assert data["metadata"]["component"]["hashes"] == [{"alg": "SHA-512", "content": MARK.sha512}]
    found = {one["bom-ref"]: one for one in data["components"]}
    bash = found["pkg:deb/debian/bash@5.2.15-2%2Bb7?arch=amd64&distro=debian-12&upstream=bash%405.2.15-2"]
    assert bash["purl"] == bash["bom-ref"]
    assert bash["licenses"] == [{"license": {"name": "GPL 3"}}, {"license": {"name": "GPL-3"}}]
    assert bash["properties"][0]["value"] == "bash 5.2.15-2"
    assert len(found) == len(PACKAGES)
    assert len([ref for ref in found if "/libc6@" in ref]) == 2
    assert {"license": {"id": "MIT"}} in next(one for ref, one in found.items() if "/bison@" in ref)[
        "licenses"
    ]


def test_spdx_is_valid_and_says_it_all(tmp_path: Path) -> None:
    path = tmp_path / "x.spdx.json"
    path.write_text(as_spdx(CONTENTS, "demo", WHEN))
    document = valid_spdx(path)
    declared = {one.name: str(one.license_declared) for one in document.packages}
    assert sorted(declared["bash"].split(" AND ")) == ["LicenseRef-GPL-3", "LicenseRef-GPL-3-2"]
    assert declared["bison"] == "GPL-3.0-or-later WITH Bison-exception-2.2 AND MIT"
    assert declared["libstdc++6"] == "NOASSERTION"
    assert len(document.packages) == len(PACKAGES) + 1
    assert {one.license_id for one in document.extracted_licensing_info} == {
        "LicenseRef-GPL-3",
        "LicenseRef-GPL-3-2",
    }
    assert document.creation_info.created == WHEN.replace(tzinfo=None)


def test_rpm_and_apk_names() -> None:
    rpm = Package(
        "bash", "1:5.2-1.fc40", "x86_64", "bash", "1:5.2-1.fc40", ("GPL-3.0-or-later",), copyleft=True
    )
    fedora = ContentsRecord(MARK, "Fedora", "fedora", "40", "rpm", (rpm,))
    assert '"pkg:rpm/fedora/bash@5.2-1.fc40?arch=x86_64&distro=fedora-40&epoch=1"' in as_cyclonedx(
        fedora, "f", WHEN
    )
    apk = Package("libssl3", "3.1-r0", "x86_64", "openssl", "3.1-r0")
    alpine = ContentsRecord(MARK, "Alpine", "alpine", "3.19", "apk", (apk,))
    assert '"pkg:apk/alpine/libssl3@3.1-r0?arch=x86_64&distro=alpine-3.19&upstream=openssl"' in as_spdx(
        alpine, "a", WHEN
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(
                [
                    "NONE", "NOASSERTION", "GPL-2.0-only", "GPL-2.0+", "Bison-exception-2.2", "WITH",
                    "GPL-2+ with Bison-exception-2.2", "MIT WITH Bison-exception-2.2", "LicenseRef-x",
                    "DocumentRef-a:LicenseRef-b",
                ]
            ),
        ),
        max_size=4,
    ),
    st.text(max_size=20),
)  # fmt: skip
def test_whatever_a_guest_calls_its_licences(
    tmp_path_factory: pytest.TempPathFactory, words: list[str], system: str
) -> None:
    found = of_expression(" and ".join(words))
    package = Package("bash", "1~2+3", "amd64", "bash", "1~2", found.names, found.copyleft)
    name = display_name(system) or ""  # as it is in a record
    contents = ContentsRecord(MARK, name, "debian", "12", "dpkg", (package,))
    text = as_cyclonedx(contents, "demo", WHEN)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    path = tmp_path_factory.mktemp("spdx") / "x.spdx.json"
    path.write_text(as_spdx(contents, "demo", WHEN))
    valid_spdx(path)


def with_guest(repository: Repository) -> Path:
    path = image(repository.images / "demo.img")
    repository.appliances = FakeAppliances({"demo.img": disk_of(debian_guest())})
    return path


def test_the_same_image_gives_the_same_bytes(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = with_guest(repository)
    files = {}
    for number, epoch in enumerate(("1700000000", "1700000000", None)):
        if epoch is None:
            monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
        else:
            monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        assert sbom(repository, "make", path, "--output", tmp_path / str(number)) == 0
        folder = tmp_path / str(number) / "demo/contents"
        files[number] = {one.name: one.read_text() for one in folder.iterdir()}
        assert sorted(files[number]) == ["contents.cdx.json", "contents.json", "contents.spdx.json"]
    assert files[0] == files[1]
    assert "2023-11-14T22:13:20" in files[0]["contents.cdx.json"]
    time = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\+00:00|Z)")
    for name, text in files[0].items():
        assert time.sub("", text) == time.sub("", files[2][name]), name
        assert len(time.findall(text)) == (0 if name == "contents.json" else 1)


def test_an_entry_gets_them_into_its_own_folder(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    with_guest(repository)
    folder = repository.images / "demo"
    folder.mkdir()
    (repository.images / "demo.img").rename(folder / "demo.img")
    (folder / "entry.toml").write_text('title = "Demo"\n')
    assert sbom(repository, folder, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["images"][0] | {"sha512": "", "folder": ""} == {
        "name": "demo", "folder": "", "system": "Debian GNU/Linux 12 (bookworm)", "manager": "dpkg",
        "sha512": "", "packages": 4, "copyleft": 2, "licence-unknown": 1,
    }  # fmt: skip
    record = CONTENTS_FILE.read(folder / "contents")
    assert record is not None
    assert len(record.packages) == 4


def test_one_format_alone(repository: Repository) -> None:
    path = with_guest(repository)
    assert sbom(repository, path) == 0
    assert sbom(repository, path, "--format", "spdx") == 0
    left = sorted(one.name for one in (repository.images / "demo.contents").iterdir())
    assert left == ["contents.json", "contents.spdx.json"]


def test_one_bad_image_does_not_keep_the_others(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    """T24."""
    path = with_guest(repository)
    bad = image(repository.images / "bad.img")
    assert sbom(repository, bad, path) == 1
    assert "bad.img" in capsys.readouterr().err
    assert (repository.images / "demo.contents/contents.json").is_file()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nothing.img"], 2, "the image nothing.img does not exist"),
        (["."], 2, "no entry"),
        (["--format", "xml", "a.img"], 2, "xml"),
        ([], 2, "ENTRY|IMAGE"),
    ],
)
def test_wrong_words(
    repository: Repository,
    words: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(repository.images)
    assert sbom(repository, "make", *words) == code
    assert said in capsys.readouterr().err


def test_a_wrong_epoch(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert sbom(repository, with_guest(repository)) == 2
    assert "SOURCE_DATE_EPOCH" in capsys.readouterr().err
