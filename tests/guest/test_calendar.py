"""The example of a calendar, from recipes to a page in a browser: the way of a publisher of entries."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgrepo.library.folder import EntryFolder
from imgrepo.library.records import BOOT_FILE, CONTENTS_FILE, Verdict
from imgrepo.sharing.serve import PublishedFolderServer
from tests.conformance.browser import open_browser
from tests.guest.conftest import Publisher, long
from tests.guest.person import Person

pytestmark = [pytest.mark.guest, pytest.mark.timeout(1800), long]

EXAMPLE = Path(__file__).parents[2] / "examples" / "calendar"


@pytest.fixture(scope="module")
def calendar(configured: Person, publisher: Publisher) -> Iterator[tuple[Path, Path]]:
    """The library and the served folder that the example makes; its last day is one that will never come."""
    example, library, web = (
        configured.home / name for name in ("calendar", "calendar-library", "calendar-web")
    )
    shutil.copytree(EXAMPLE, example)
    last = example / "carol" / "entry.toml"
    last.write_text(last.read_text().replace("not-before = 2025-12-24", "not-before = 2099-12-24"))
    done = configured.run(
        example / "make", library, web, publisher.fingerprint, timeout=1700,
        env={"GNUPGHOME": str(publisher.gnupg), "XZ_PRESET": "0", "BOOT": "guess",
             "REVIEWER": publisher.fingerprint},
    )  # fmt: skip
    print(done.stdout, done.stderr)
    yield library, web
    for folder in (example, library, web):
        shutil.rmtree(folder)


@pytest.fixture
def served(calendar: tuple[Path, Path]) -> Iterator[str]:
    server = PublishedFolderServer(calendar[1], ("127.0.0.1", 0), lambda _line: None)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_was_found_of_each_entry(calendar: tuple[Path, Path]) -> None:
    library, _web = calendar
    for name in ("guess", "life", "carol"):
        folder = EntryFolder(library / name)
        contents = CONTENTS_FILE.read(folder.contents)
        assert contents is not None
        assert (contents.distribution, contents.release, contents.manager) == ("debian", "12", "dpkg")
        assert {"bash", "libc6", "systemd"} <= {package.name for package in contents.packages}
        assert folder.run_script.stat().st_mode & 0o111
    boot = BOOT_FILE.read(EntryFolder(library / "guess").boot)
    assert boot is not None
    assert boot.verdict is Verdict.BOOTED, boot.reason


def test_what_the_entries_lack_and_how_far_they_came(configured: Person, calendar: tuple[Path, Path]) -> None:
    library, web = calendar
    done = configured.run(
        "pybuilder-repo", "entry", "check", "--library", library, "--quick", "--json", check=False
    )
    assert done.returncode == 1
    printed = {entry["name"]: entry for entry in json.loads(done.stdout)["entries"]}
    wrong = {
        name: [item["key"] for item in entry["items"] if item["state"] != "ok"]
        for name, entry in printed.items()
    }
    # The sources were not collected, and only one was booted, of which there is a picture.
    assert wrong == {
        "guess": ["sources"],
        "life": ["screenshot", "sources"],
        "carol": ["screenshot", "sources"],
    }
    words: list[str | Path] = ["--library", library, "--webroot", web]
    words += ["--reviewers", library / ".reviewers.asc"]
    done = configured.run("pybuilder-repo", "entry", "list", *words, "--json")
    states = {entry["name"]: entry["state"] for entry in json.loads(done.stdout)["entries"]}
    assert states == {"guess": "live", "life": "live", "carol": "signed"}


def test_the_calendar_in_a_browser(
    configured: Person, publisher: Publisher, calendar: tuple[Path, Path], served: str
) -> None:
    library, web = calendar
    everything = b"".join(path.read_bytes() for path in (web / "catalogue").rglob("*.html"))
    assert b"bleak" not in everything, "what is held back is not shown"
    env = {"GNUPGHOME": str(publisher.gnupg)}
    configured.run(
        "pybuilder-repo", "catalogue", library, web, "--title", "Winter calendar", "--calendar",
        "--base-url", served, "--reviewers", library / ".reviewers.asc", env=env,
    )  # fmt: skip
    with open_browser() as browser:
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        driver = browser.driver
        browser.screen(1200)
        driver.get(f"{served}catalogue/calendar/2099.html")
        assert driver.find_elements(By.CSS_SELECTOR, ".door.closed")
        driver.get(f"{served}catalogue/calendar/index.html")
        door = driver.find_element(By.CSS_SELECTOR, "details.door summary")
        door.send_keys(Keys.ENTER)
        browser.picture("example-calendar")
        link = driver.find_element(By.LINK_TEXT, "Guess my number")
        assert link.is_displayed()
        link.send_keys(Keys.ENTER)
        assert driver.find_element(By.TAG_NAME, "h1").text == "Guess my number"
        words = driver.find_element(By.TAG_NAME, "main").text
        assert publisher.fingerprint in words
        assert "No login is needed" in words
        assert "Booted in " in words
        assert f"Reviewed by {publisher.fingerprint}, on " in words
        picture = driver.find_element(By.CSS_SELECTOR, "figure img")
        assert picture.get_attribute("alt") == "Screenshot of Guess my number"
        assert int(picture.get_attribute("naturalWidth") or 0) >= 320
        packages = driver.find_element(By.XPATH, "//summary[contains(text(), ' packages')]")
        packages.click()
        assert driver.find_element(By.XPATH, "//th[text()='systemd']").is_displayed()
        browser.picture("example-guess")
        command = driver.find_element(By.CSS_SELECTOR, ".command code").text
        assert browser.complaints() == []
        assert [url for url in browser.requests() if not url.startswith((served, "data:,"))] == []
    # What the page says to type works.
    done = configured.run("sh", "-c", f"{command} --dry-run", env=env)
    assert "guess" in done.stdout
