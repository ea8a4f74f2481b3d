"""Reading pages as strictly as no browser does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import PurePosixPath
from urllib.parse import unquote, urljoin, urlsplit

_VOID = {"meta", "link", "br", "img", "input"}
_ADDRESSES = ("href", "src", "action", "srcset", "data", "poster", "xlink:href")


@dataclass
class Read(HTMLParser):
    """A page that was read: its tags with their attributes, its text, and what is wrong with it."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    words: str = ""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if len(values) != len(attrs):
            self.problems.append(f"{tag} has an attribute twice")
        if bad := {name for name in values if name.startswith("on") or name == "style"}:
            self.problems.append(f"{tag} has {bad}")
        self.tags.append((tag, values))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} with {self._open[-3:]} open")
        else:
            self._open.pop()
        if tag in {"td", "th", "summary", "p", "h1", "h2", "h3"}:
            self.words += " "

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def ids(self) -> list[str]:
        return [values["id"] for _tag, values in self.tags if "id" in values]

    def addresses(self) -> list[tuple[str, str]]:
        """Return tags with the addresses that they name."""
        return [(tag, values[name]) for tag, values in self.tags for name in _ADDRESSES if name in values]


def read_page(data: bytes) -> Read:
    """Read a page; what is wrong with it is in ``problems``."""
    page = Read()
    text = data.decode()
    if not text.startswith("<!doctype html>\n"):
        page.problems.append("it has no doctype")
    page.feed(text)
    page.close()
    if page._open:
        page.problems.append(f"{page._open} stay open")
    if len(set(page.ids)) != len(page.ids):
        page.problems.append(f"an id is there twice: {page.ids}")
    return page


def inside(path: str, address: str) -> str | None:
    """Return the file of the site that an address in the page ``path`` means; None for another host."""
    parts = urlsplit(urljoin(f"http://site/a/b/{path}", address))
    if parts.netloc != "site" or parts.scheme != "http":
        return None
    return (
        str(PurePosixPath(unquote(parts.path)).relative_to("/a/b"))
        if parts.path.startswith("/a/b/")
        else ".."
    )


def pages_of(files: Mapping[str, bytes]) -> dict[str, Read]:
    """Read all pages of a site."""
    return {path: read_page(data) for path, data in files.items() if path.endswith(".html")}
