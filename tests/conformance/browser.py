"""A real Chromium without a screen, and what it saw: requests, console, accessibility, pictures."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver

PICTURES = Path(os.environ.get("PYBUILDER_PICTURES") or Path(tempfile.gettempdir()) / "pybuilder-pictures")
"""Folder for pictures of the pages, for people to look at."""
_DARK = [{"name": "prefers-color-scheme", "value": "dark"}]


class Browser:
    """A running Chromium.

    Attributes:
        driver: What drives it.
    """

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def screen(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """Have a screen of that size, in light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": _DARK if dark else []})

    def without_scripts(self) -> None:
        """Run no script of the pages any more."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})

    def requests(self) -> list[str]:
        """Return what was asked for since the last time, by the browser's own log of the network."""
        printed = [json.loads(line["message"])["message"] for line in self._log("performance")]
        # What the policy of the page stops is also in the log, but is never sent.
        stopped = {
            one["params"]["requestId"]
            for one in printed
            if one["method"] == "Network.loadingFailed" and one["params"].get("blockedReason") == "csp"
        }
        return [
            str(one["params"]["request"]["url"])
            for one in printed
            if one["method"] == "Network.requestWillBeSent" and one["params"]["requestId"] not in stopped
        ]

    def complaints(self) -> list[str]:
        """Return what the console said since the last time."""
        return [str(line["message"]) for line in self._log("browser")]

    def _log(self, kind: str) -> list[dict[str, Any]]:
        read: Any = self.driver.get_log  # selenium gives it no types
        return list(read(kind))

    def picture(self, name: str) -> Path:
        """Keep a picture of the whole page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        taken = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True}
        )
        path = PICTURES / f"{name}.png"
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def barriers(self) -> list[str]:
        """Return what axe finds that keeps people out (WCAG 2 A and AA, and best practices)."""
        axe = resources.files("axe_selenium_python") / "node_modules" / "axe-core" / "axe.min.js"
        # Through the debugger, which the policy of the page does not bind.
        self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe.read_text()})
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document).then(done, (error) => done({violations: ["
            "{id: String(error), nodes: []}]}));"
        )
        return [f"{one['id']}: {[node['html'] for node in one['nodes']][:3]}" for one in found["violations"]]

    def wide_by(self) -> int:
        """Return by how many pixels the page is wider than the screen."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth - innerWidth"))


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start a browser; skip the test where there is none."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("Debian's packages chromium and chromium-driver are not installed")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options: Any = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars",
        # Whatever a page asks of another host would fail, and be seen in the log.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server",
    ):  # fmt: skip
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    try:
        started.set_page_load_timeout(60)
        started.set_script_timeout(60)
        yield Browser(started)
    finally:
        started.quit()
