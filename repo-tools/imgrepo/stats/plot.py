"""Draws downloads by day as an SVG bar chart that loads nothing and needs no script."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from xml.etree import ElementTree as ET

_WIDTH, _HEIGHT = 720, 200
_LEFT, _BOTTOM, _TOP = 48, 28, 24
_MOST_BARS = 120
"""More days than that share bars of several days each."""


def bar_chart(title: str, days: Mapping[date, int], first: date, last: date) -> str:
    """Draw downloads by day.

    Args:
        title: Shown above, and read by screen readers.
        days: Downloads by day; days without any may be left out.
        first: First day shown.
        last: Last day shown.
    """
    total = (last - first).days + 1
    step = -(-total // _MOST_BARS)
    groups = [
        (
            first + timedelta(days=at),
            sum(days.get(first + timedelta(days=at + more), 0) for more in range(step)),
        )
        for at in range(0, total, step)
    ]
    top = max([1, *(value for _day, value in groups)])
    svg = ET.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img",
        attrib={"aria-label": title},
    )  # fmt: skip
    ET.SubElement(svg, "title").text = title
    style = {"font-family": "sans-serif", "font-size": "12", "fill": "currentColor"}
    ET.SubElement(svg, "text", {"x": str(_LEFT), "y": "15", **style}).text = title
    room = _HEIGHT - _TOP - _BOTTOM
    width = (_WIDTH - _LEFT - 8) / len(groups)
    for number, (day, value) in enumerate(groups):
        height = room * value / top
        bar = ET.SubElement(
            svg, "rect", x=f"{_LEFT + number * width:.1f}", y=f"{_TOP + room - height:.1f}",
            width=f"{max(0.5, width - 1):.1f}", height=f"{height:.1f}", fill="#3b6ea5",
        )  # fmt: skip
        until = "" if step == 1 else f" and {step - 1} days more"
        ET.SubElement(bar, "title").text = f"{day}{until}: {value}"
    base = str(_TOP + room)
    ET.SubElement(svg, "line", x1=str(_LEFT), x2=str(_WIDTH - 8), y1=base, y2=base, stroke="currentColor")
    for text, x, y, anchor in (
        (str(top), _LEFT - 6, _TOP + 8, "end"),
        ("0", _LEFT - 6, _TOP + room, "end"),
        (str(first), _LEFT, _HEIGHT - 8, "start"),
        (str(last), _WIDTH - 8, _HEIGHT - 8, "end"),
    ):
        place = {"x": str(x), "y": str(y), "text-anchor": anchor}
        ET.SubElement(svg, "text", {**place, **style}).text = text
    ET.indent(svg)
    return ET.tostring(svg, encoding="unicode") + "\n"
