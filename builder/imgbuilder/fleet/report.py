"""The report of a fleet as a page: one file, which needs no server and no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from imgbuilder.fleet.state import Record, Standing
from imgbuilder.fleet.survey import Surveyed
from imgbuilder.host.text import printable

_STYLE = """\
body { font: 16px/1.4 sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em }
body { color: #222; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #bbb; padding: .3em .6em; text-align: left; vertical-align: top }
td.bad { color: #a00000; font-weight: bold }
td.number { text-align: right }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #181818 } td.bad { color: #ff8a80 } th, td { border-color: #555 }
}
"""


def html_report(title: str, rows: Sequence[tuple[Surveyed, Record | None, Standing]]) -> str:
    """Return a page about hosts: of each its survey, its last record and its state now."""
    counts = {state: sum(row[2] is state for row in rows) for state in Standing}
    summary = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
    body = "\n".join(_row(*row) for row in rows)
    heads = "".join(
        f"<th>{head}</th>" for head in ("Host", "State", "Seconds", "Finished", "Image", "Message")
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        f"<style>\n{_STYLE}</style></head><body>\n<h1>{_text(title)}</h1>\n<p>{_text(summary)}</p>\n"
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table>\n</body></html>\n"
    )


def _row(surveyed: Surveyed, record: Record | None, standing: Standing) -> str:
    good = "" if standing is Standing.BUILT else ' class="bad"'
    seconds, finished, message = "", "", ""
    if record is not None:
        seconds, finished = f"{record.seconds:.1f}", record.finished
        message = f"{record.message} ({record.hint})" if record.hint else record.message
    cells = (
        f"<td>{_text(surveyed.host.name)}</td><td{good}>{_text(standing.value)}</td>"
        f'<td class="number">{seconds}</td><td>{_text(finished)}</td>'
        f"<td>{_text(surveyed.host.goes_to)}</td><td>{_text(message)}</td>"
    )
    return f"<tr>{cells}</tr>"


def _text(text: str) -> str:
    return escape(printable(text))
