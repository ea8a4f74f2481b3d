"""The catalogue as people meet it: in a real browser, by mouse, by keyboard, without scripts."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from imgrepo.catalogue.model import Picture
from imgrepo.catalogue.render import ROWS_PER_PAGE, render
from imgrepo.sharing.serve import PublishedFolderServer
from tests.conformance.browser import PICTURES, Browser, open_browser
from tests.fakes.catalogues import downloads, make_example, make_library, make_site, png
from tests.fakes.keys import KeyMaker
from tests.unit.imgrepo.catalogue.test_render import HOSTILE, hostile_page, site_of
from tests.unit.imgrepo.repository import Repository

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

pytestmark = pytest.mark.timeout(180)

ALL = ["Snake in the terminal", "A web server of Debian 12", "Debian GNU/Linux 12 (bookworm)"]
WEB = "templates/debian-web/x86_64.html"
PAGES = ("index.html", WEB, "templates/plain/x86_64.html", "calendar/index.html", "calendar/2099.html")


_LATER = "const now = Date.now; Date.now = () => now() + 20.5 * 86400000; Object.freeze(Date)"


class Site:
    """A served catalogue."""

    def __init__(self, base: Path, keys: KeyMaker) -> None:
        key = keys.make("Publisher <publisher@example.org>")
        repository = Repository(base, keys.home, keys.pin(key), key)
        self.key, self.asked = key, list[str]()
        make_library(repository)
        self.server = PublishedFolderServer(repository.web, ("127.0.0.1", 0), self.asked.append)
        self.origin = f"http://127.0.0.1:{self.server.server_port}/"
        self.url = f"{self.origin}catalogue/"
        make_site(
            repository, base_url=self.origin, calendar=True, title="Winter images",
            statistics=downloads(repository, {3: 2, 4: 5, 20: 7}),
        )  # fmt: skip
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with KeyMaker() as keys:
        made = Site(tmp_path_factory.mktemp("site"), keys)
        yield made
        made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def browser(shared: Browser, site: Site) -> Iterator[Browser]:
    """Return the browser; after each test, it must not have complained, nor asked another host."""
    shared.screen(1200)
    shared.driver.get("about:blank")
    shared.requests()
    shared.complaints()
    yield shared
    assert shared.complaints() == []
    strange = [url for url in shared.requests() if not url.startswith((site.url, "about:", "data:,"))]
    assert strange == []


def shown(browser: Browser) -> list[str]:
    """Return the titles that the list shows."""
    cards = browser.driver.find_elements(By.CSS_SELECTOR, "#list > li")
    return [card.find_element(By.TAG_NAME, "h2").text for card in cards if card.is_displayed()]


def wait_for(browser: Browser, titles: list[str]) -> None:
    """Wait until the list shows these; Chromium reports a choice to the page some time after it was made."""
    with contextlib.suppress(TimeoutException):
        WebDriverWait(browser.driver, 20).until(lambda _driver: shown(browser) == titles)
    assert shown(browser) == titles


def count(browser: Browser) -> str:
    return browser.driver.find_element(By.ID, "count").text


def test_search_and_filters_narrow_the_list(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(site.url)
    wait_for(
        browser,
        [
            "Snake in the terminal",
            "A web server of Debian 12",
            "Debian GNU/Linux 12 (bookworm)",
        ],
    )
    assert count(browser) == "3 images"
    search = driver.find_element(By.ID, "filter-text")
    search.send_keys("NGINX hello")
    wait_for(browser, ["A web server of Debian 12"])
    assert count(browser) == "1 of 3 images"
    assert driver.find_element(By.ID, "count").get_attribute("aria-live") == "polite"
    search.send_keys(" nothing of the kind", Keys.ENTER)
    wait_for(browser, [])
    driver.find_element(By.ID, "reset").click()
    wait_for(browser, ALL)
    Select(driver.find_element(By.ID, "filter-tag")).select_by_visible_text("games")
    wait_for(browser, ["Snake in the terminal"])
    Select(driver.find_element(By.ID, "filter-licence")).select_by_visible_text("GPL-2.0-or-later")
    wait_for(browser, [])
    # An address that was kept or passed on shows the same.
    driver.get("about:blank")
    driver.get(f"{site.url}index.html#licence=GPL-2.0-or-later")
    wait_for(browser, ["A web server of Debian 12"])
    Select(driver.find_element(By.ID, "filter-licence")).select_by_index(0)
    Select(driver.find_element(By.ID, "filter-state")).select_by_visible_text("booted")
    wait_for(browser, ["A web server of Debian 12"])
    driver.get("about:blank")
    driver.get(f"{site.url}index.html#state=new")
    wait_for(browser, ALL)
    assert [one.text for one in driver.find_elements(By.CSS_SELECTOR, ".badges li")].count("new") == 3
    # The browser says how old they are, by its own clock: neither the new nor the old ones are new for ever.
    later = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _LATER})
    driver.get("about:blank")
    driver.get(f"{site.url}index.html#state=new")
    wait_for(browser, [])
    driver.find_element(By.ID, "reset").click()
    ages = [one.text for one in driver.find_elements(By.CSS_SELECTOR, "time.age")]
    assert ages == ["published 20 days ago"] * 3
    assert "new" not in [one.text for one in driver.find_elements(By.CSS_SELECTOR, ".badges li")]
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", later)
    driver.get("about:blank")
    driver.get(f"{site.url}index.html#tag=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&q=snake")
    wait_for(browser, ["Snake in the terminal"])  # a tag that does not exist filters nothing


def test_packages_are_searched_and_the_list_is_sorted(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(site.url)
    search = driver.find_element(By.ID, "filter-text")
    search.send_keys("libc6 2.36")
    wait_for(browser, ["A web server of Debian 12"])
    search.send_keys("-none")
    wait_for(browser, [])
    driver.find_element(By.ID, "reset").click()
    sort = Select(driver.find_element(By.ID, "sort"))
    sort.select_by_visible_text("name")
    wait_for(browser, sorted(ALL))
    sort.select_by_visible_text("downloads")
    wait_for(browser, ["A web server of Debian 12", *(one for one in ALL if "web" not in one)])
    sort.select_by_index(0)
    wait_for(browser, ALL)
    listed = driver.find_element(By.ID, "list")
    for view in ("rows", "cards"):
        Select(driver.find_element(By.ID, "view")).select_by_visible_text(view)
        assert listed.get_attribute("class") == view
        for width in (360, 1440):
            browser.screen(width)
            browser.picture(f"{view}-{width}")
            assert browser.barriers() == []
            assert browser.wide_by() <= 0
        browser.screen(1200)


def test_a_long_list_comes_in_parts_and_is_searched_as_a_whole(site: Site) -> None:
    """By itself, as a folder without a server, and without scripts."""
    folder, total = site.server.folder / "long", ROWS_PER_PAGE * 2 + 5
    picture = Picture("x.png", 3, 4)
    pages = [
        dataclasses.replace(
            hostile_page(HOSTILE[at % 5]), name=f"n{at}", path=f"templates/n{at}.html", title=f"Number {at}",
            picture=picture, thumbnail=picture, notice="",
        )
        for at in range(total)
    ]  # fmt: skip
    files = render(site_of(*pages)) | {"x.png": png(3, 4)}
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        with open_browser() as browser:
            driver = browser.driver
            driver.get(f"{site.origin}long/index.html")
            counted = driver.find_element(By.ID, "count")
            WebDriverWait(driver, 20).until(lambda _driver: counted.text == f"{total} images")
            assert len(driver.find_elements(By.CSS_SELECTOR, "#list > li")) == ROWS_PER_PAGE
            assert not driver.find_element(By.ID, "pages").is_displayed()
            more = driver.find_element(By.CSS_SELECTOR, "#more button")
            more.send_keys(Keys.ENTER)
            assert driver.switch_to.active_element.text == f"Number {ROWS_PER_PAGE}"
            more.send_keys(Keys.ENTER)
            assert len(driver.find_elements(By.CSS_SELECTOR, "#list > li")) == total
            assert not more.is_displayed()
            assert browser.barriers() == []
            search = driver.find_element(By.ID, "filter-text")
            search.send_keys(f"number {total - 1}")
            wait_for(browser, [f"Number {total - 1}"])
            assert browser.complaints() == []
            driver.get((folder / "index.html").as_uri())
            search = driver.find_element(By.ID, "filter-text")
            search.send_keys("number 99")
            wait_for(browser, ["Number 99"])
            assert driver.find_element(By.ID, "pages").is_displayed()
            browser.without_scripts()
            driver.get(f"{site.origin}long/index.html")
            driver.find_element(By.LINK_TEXT, "3").click()
            assert shown(browser) == [f"Number {at}" for at in range(ROWS_PER_PAGE * 2, total)]
            browser.picture("long-list-without-javascript")
    finally:
        shutil.rmtree(folder)


def test_a_package_is_found_in_a_version(browser: Browser, site: Site) -> None:
    driver = browser.driver
    for words, found in (("bash 5.2", True), ("bash 1.2", False), ("zlib1g 1.2", True), ("2.36", True)):
        driver.get("about:blank")
        driver.get(f"{site.url}index.html#q={words}")
        WebDriverWait(driver, 20).until(
            lambda _driver: any(url.endswith("packages.json") for url in browser.requests())
        )
        wait_for(browser, ["A web server of Debian 12"] if found else [])


def test_the_copy_button_copies_the_command(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(f"{site.url}{WEB}")
    driver.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": site.origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    button = driver.find_element(By.CSS_SELECTOR, ".copy")
    assert button.accessible_name == "Copy the command that builds"
    button.send_keys(Keys.ENTER)
    printed = driver.find_element(By.CSS_SELECTOR, ".copied")
    WebDriverWait(driver, 20).until(lambda _driver: printed.text == "Copied")
    copied = driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == "pybuilder debian-web"


def test_without_a_clipboard_the_command_is_selected(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(f"{site.url}{WEB}")
    driver.execute_script(
        "Object.defineProperty(navigator, 'clipboard', {value: undefined});"
        "document.execCommand = () => false;"
    )
    driver.find_element(By.CSS_SELECTOR, ".copy").click()
    printed = driver.find_element(By.CSS_SELECTOR, ".copied")
    WebDriverWait(driver, 20).until(lambda _driver: "Ctrl+C" in printed.text)
    assert driver.execute_script("return getSelection().toString()").startswith("pybuilder debian-web")


def test_a_day_of_the_calendar_opens_by_keyboard(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(f"{site.url}calendar/index.html")
    first = driver.find_element(By.CSS_SELECTOR, "details.door summary")
    for _ in range(20):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        if driver.switch_to.active_element == first:
            break
    assert driver.switch_to.active_element == first
    assert "2 November" in first.text or first.accessible_name
    outline = first.value_of_css_property("outline-style")
    assert outline != "none", "where the focus is can be seen"
    door = driver.find_element(By.CSS_SELECTOR, "details.door")
    title = door.find_element(By.TAG_NAME, "h3")
    assert not title.is_displayed()
    first.send_keys(Keys.SPACE)
    assert title.is_displayed()
    assert title.text == "Snake in the terminal"
    first.send_keys(Keys.TAB)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(driver, 20).until(lambda _driver: driver.current_url.endswith("ascii-snake/x86_64.html"))
    driver.get(f"{site.url}calendar/2099.html")
    closed = driver.find_element(By.CSS_SELECTOR, ".door.closed")
    assert "24 December, closed" in (closed.get_attribute("textContent") or "")
    assert not driver.find_elements(By.CSS_SELECTOR, "details")


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser: Browser, site: Site) -> None:
    driver = browser.driver
    driver.get(f"{site.url}{WEB}")
    driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    skip = driver.switch_to.active_element
    assert skip.text == "Skip to the content"
    assert skip.rect["y"] >= 0, "it is seen when it has the focus"
    skip.send_keys(Keys.ENTER)
    assert driver.switch_to.active_element.get_attribute("id") == "content"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_pages_are_accessible(browser: Browser, site: Site, width: int, dark: bool) -> None:
    browser.screen(width, dark=dark)
    for path in PAGES:
        browser.driver.get(f"{site.url}{path}")
        browser.driver.execute_script(
            "for (const one of document.querySelectorAll('details')) one.open = true"
        )
        name = path.removesuffix(".html").replace("/", "-")
        browser.picture(f"{name}-{width}-{'dark' if dark else 'light'}")
        assert browser.barriers() == [], path
        assert browser.wide_by() <= 0, f"{path} scrolls sideways"
        colour = browser.driver.find_element(By.TAG_NAME, "html").value_of_css_property("background-color")
        assert (sum(int(part) for part in colour.strip("rgba()").split(",")[:3]) < 200) is dark
    print(f"pictures of the pages: {PICTURES}")


def test_all_can_be_read_without_javascript(site: Site) -> None:
    with open_browser() as browser:
        driver = browser.driver
        browser.screen(1200)
        browser.without_scripts()
        driver.get(site.url)
        assert len(shown(browser)) == 3
        assert not driver.find_element(By.ID, "filter").is_displayed()
        browser.picture("index-without-javascript")
        driver.find_element(By.LINK_TEXT, "A web server of Debian 12").click()
        assert driver.current_url == f"{site.url}{WEB}"
        code = driver.find_element(By.CSS_SELECTOR, ".command code")
        assert code.text == "pybuilder debian-web"
        assert code.find_element(By.XPATH, "..").value_of_css_property("user-select") == "all"
        assert not driver.find_element(By.CSS_SELECTOR, ".copy").is_displayed()
        packages = driver.find_element(By.XPATH, "//summary[text()='4 packages']")
        packages.click()
        assert driver.find_element(By.XPATH, "//th[text()='libc6']").is_displayed()
        driver.get(f"{site.url}calendar/index.html")
        driver.find_element(By.CSS_SELECTOR, "details.door summary").click()
        assert driver.find_element(By.CSS_SELECTOR, "details.door h3").is_displayed()
        assert [url for url in browser.requests() if not url.startswith((site.url, "about:", "data:,"))] == []


def test_from_a_folder_without_a_server(site: Site, tmp_path: Path) -> None:
    with open_browser() as browser:
        start = site.server.folder / "catalogue" / "index.html"
        browser.driver.get(start.as_uri())
        assert len(shown(browser)) == 3
        colour = browser.driver.find_element(By.CSS_SELECTOR, ".card").value_of_css_property(
            "border-top-style"
        )
        assert colour == "solid", "the style is loaded"


def test_the_policy_stops_what_would_slip_through(browser: Browser, site: Site, tmp_path: Path) -> None:
    """The second wall: even if markup of a stranger got onto a page, it could neither run nor load."""
    page = site.server.folder / "catalogue" / "broken.html"
    whole = (site.server.folder / "catalogue" / "index.html").read_text()
    page.write_text(
        whole.replace(
            "</main>",
            "<script>document.title = 'run'</script><img src='x' onerror=\"document.title = 'run'\">"
            "<img src='https://evil.example/x.png'><style>body { display: none }</style></main>",
        )
    )
    try:
        browser.driver.get(f"{site.url}broken.html")
        assert browser.driver.title == "Winter images"
        assert browser.driver.find_element(By.TAG_NAME, "body").is_displayed()
        complaints = browser.complaints()
        assert sum("Content Security Policy" in line for line in complaints) >= 4
        assert not [url for url in browser.requests() if "evil" in url]
    finally:
        page.unlink()


def test_words_of_strangers_do_nothing(browser: Browser, site: Site) -> None:
    """The first wall: nothing of theirs is markup, so there is nothing that the policy would have to stop."""
    folder = site.server.folder / "strangers"
    picture = Picture("x.png", 3, 4)
    named = [
        dataclasses.replace(
            hostile_page(words),
            name=f"n{at}",
            path=f"templates/n{at}.html",
            picture=picture,
            thumbnail=picture,
        )
        for at, words in enumerate(HOSTILE)
    ]
    files = render(site_of(*named)) | {"x.png": png(3, 4)}
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        for name in files:
            if name.endswith(".html"):
                browser.driver.get(f"{site.origin}strangers/{name}")
                assert browser.complaints() == [], name
                assert browser.driver.find_element(By.TAG_NAME, "h1").is_displayed()
                asked = [url for url in browser.requests() if not url.startswith("data:,")]
                assert all(url.startswith(f"{site.origin}strangers/") for url in asked)
        browser.driver.get(f"{site.origin}strangers/index.html")
        search = browser.driver.find_element(By.ID, "filter-text")
        search.send_keys("<script>alert(1)")
        wait_for(browser, [HOSTILE[0], HOSTILE[5]])
        assert all(url.startswith(f"{site.origin}strangers/") for url in browser.requests())
    finally:
        shutil.rmtree(folder)


def test_the_example_of_a_calendar(browser: Browser, tmp_path: Path) -> None:
    """From ``entry new`` to a page; only the appliance and the boot are stood in for."""
    with KeyMaker() as keys:
        key = keys.make("Publisher <publisher@example.org>")
        repository = Repository(tmp_path, keys.home, keys.pin(key), key)
        make_example(repository, Path(__file__).parents[2] / "examples" / "calendar")
    driver, start = browser.driver, repository.web / "catalogue" / "calendar"
    driver.get((start / "2099.html").as_uri())
    assert driver.find_elements(By.CSS_SELECTOR, ".door.closed")
    driver.get((start / "index.html").as_uri())
    assert len(driver.find_elements(By.CSS_SELECTOR, "details.door")) == 2
    driver.find_element(By.CSS_SELECTOR, "details.door summary").send_keys(Keys.ENTER)
    browser.picture("example-calendar")
    driver.find_element(By.LINK_TEXT, "Guess my number").send_keys(Keys.ENTER)
    assert driver.find_element(By.TAG_NAME, "h1").text == "Guess my number"
    words = driver.find_element(By.TAG_NAME, "main").text
    assert "No login is needed" in words
    assert key in words
    browser.picture("example-guess")
    assert all(url.startswith(start.parent.as_uri()) for url in browser.requests())
