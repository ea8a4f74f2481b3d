"""Makes the page of each template: what the index says, and what its entry adds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from imgindex.fields import deprecation, deprecation_notice
from imgindex.model import Entry
from imgindex.trust import VerifiedText
from imgrepo.catalogue import memory, text
from imgrepo.catalogue.entries import Found, Parts
from imgrepo.catalogue.model import Copied, Downloads, Page, Sources
from imgrepo.catalogue.revisions import Past, clean
from imgrepo.catalogue.snippets import command, snippets
from imgrepo.catalogue.systems import family
from imgrepo.library.description import Description
from imgrepo.stats import Statistics, bar_chart


class Maker:
    """Makes pages one by one, and collects the files that they need."""

    def __init__(
        self,
        base_url: str,
        signed: VerifiedText,
        statistics: Statistics | None,
        before: memory.Memory | None,
        past: Past,
    ) -> None:
        self._base_url, self._signed, self._past = base_url, signed, past
        self._statistics = statistics
        self._counts = {one.name: one for one in statistics.counts if one.is_known} if statistics else {}
        self._before: Mapping[tuple[str, str], memory.Shown] = before.shown if before else {}
        self.pages: list[Page] = []
        self.files: dict[str, Copied] = {}
        self.shown: dict[tuple[str, str], memory.Shown] = {}

    def add(self, entry: Entry, found: Found, parts: Parts) -> None:
        """Make the page of a template."""
        key = (entry.os_version, entry.arch)
        contents = parts.contents
        versions = None if contents is None else memory.versions_of(contents.packages)
        shown = memory.next_shown(
            self._before.get(key), entry.revision, entry.sha512 or "", self._signed.signed_at, versions
        )
        self.shown[key] = shown
        self.files |= {name: Copied(path) for name, path in parts.files.items()}
        end = deprecation(entry)
        page = Page(
            name=entry.os_version,
            arch=text.line(entry.arch, 40),
            path=f"{page_base(entry)}.html",
            title=text.line(entry.name) or text.line(entry.os_version),
            size=entry.size,
            compressed_size=entry.compressed_size,
            sha512=entry.sha512,
            revision=entry.revision,
            file=entry.file,
            published=shown.published,
            command=command(entry),
            snippets=snippets(entry, self._base_url, self._signed.primary_fingerprint),
            notes=tuple((text.line(note.language, 20), text.paragraphs(note.text)) for note in entry.notes),
            aliases=tuple(text.line(alias, 80) for alias in entry.aliases),
            notice=text.line(deprecation_notice(entry)),
            replaced_by=(end.replaced_by or "") if end else "",
            changes=clean(shown.changes),
            former=self._past.of(entry, shown.former),
            downloads=self._downloads(entry),
            picture=parts.picture,
            thumbnail=parts.thumbnail or parts.picture,
            system=text.line(contents.system if contents else entry.osinfo, 80),
            family=family(contents.distribution if contents else "", entry.osinfo),
            packages=None if contents is None else contents.packages,
            boot=parts.boot,
            sources=self._sources(parts),
            review=found.review,
        )
        self.pages.append(page if found.described is None else _described(page, found.described))

    def _sources(self, parts: Parts) -> Sources | None:
        if parts.sources is None:
            return None
        record, path = parts.sources, parts.archive
        name = ""
        if path is not None:
            name = f"sources/{record.sha512[:16]}-{text.segment(record.archive)}"
            self.files[name] = Copied(path, record.sha512)
        return Sources(name, record.size, record.sha512, len(record.covered), record.gaps)

    def _downloads(self, entry: Entry) -> Downloads | None:
        found = self._statistics
        if found is None or found.first is None or found.last is None:
            return None
        label = f"{entry.os_version} ({entry.arch})"
        count = self._counts.get(label)
        if count is None:
            return Downloads(0, 0, found.first, found.last, "")
        chart = bar_chart(f"Downloads of {text.line(label)}", count.days, found.first, found.last)
        return Downloads(count.downloads, count.clients, found.first, found.last, chart)


def page_base(entry: Entry) -> str:
    """Return the path of a template's page without its ending."""
    return f"templates/{text.segment(entry.os_version)}/{text.segment(entry.arch)}"


def _described(page: Page, described: Description) -> Page:
    """Add what the description of an entry says."""
    notes = page.notes
    if described.description or described.hints:  # publish makes the default notes from these two
        notes = tuple(note for note in notes if note[0])
    return dataclasses.replace(
        page,
        title=text.line(described.title) or page.title,
        notes=notes,
        description=text.paragraphs(described.description),
        hints=text.paragraphs(described.hints),
        licence=text.line(described.licence),
        contributor=text.line(described.contributor),
        homepage=text.link(described.homepage),
        offer=text.line(described.source_offer),
        tags=tuple(dict.fromkeys(text.line(tag, 40) for tag in described.tags if text.line(tag))),
        day=described.not_before.date() if described.not_before else None,
    )
