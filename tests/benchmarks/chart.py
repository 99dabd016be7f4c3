"""A bar chart of the benchmark as SVG: a panel for each scenario, a bar for each server."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

_WIDTH = 340  # of a panel, in px
_COLUMNS = 2
_BAR = 14
_NAMES = 160  # for the servers' names
_VALUES = 50
_OURS, _THEIRS, _LIMIT = "#2563eb", "#9ca3af", "#d6bc8a"

_STYLE = "text{font:11px sans-serif;fill:#6b7280}.title{font-weight:bold;font-size:13px}"


def bar_chart(panels: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """The chart.

    Args:
        panels: for each title the bars: a name and its value.
        unit: of the values; it is named once, below.
    """
    parts = []
    heights = [0.0] * _COLUMNS
    for number, (title, bars) in enumerate(panels.items()):
        column = number % _COLUMNS
        parts.append(_panel(title, bars, column * _WIDTH, heights[column]))
        heights[column] += 40 + len(bars) * _BAR
    height = max(heights) + 20
    note = f'<text x="4" y="{height - 6:g}">{escape(unit)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH * _COLUMNS} {height:g}" '
        f'role="img" aria-label="{escape(unit)}">'
        f"<style>{_STYLE}</style>\n" + "\n".join([*parts, note]) + "\n</svg>\n"
    )


def _panel(title: str, bars: Mapping[str, float], x: float, y: float) -> str:
    lines = [f'<text class="title" x="{x + 4:g}" y="{y + 22:g}">{escape(title)}</text>']
    largest = max(bars.values())
    room = _WIDTH - _NAMES - _VALUES
    for number, (name, value) in enumerate(bars.items()):
        top = y + 30 + number * _BAR
        width = max(value / largest * room, 1)
        color = _OURS if name.startswith("creche") else _THEIRS
        if name.startswith("TCP echo"):
            color = _LIMIT
        lines.append(
            f'<text x="{x + _NAMES - 6:g}" y="{top + 10:g}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{x + _NAMES:g}" y="{top + 2:g}" width="{width:.1f}" height="{_BAR - 4}" '
            f'fill="{color}"/>'
            f'<text x="{x + _NAMES + width + 4:.1f}" y="{top + 10:g}">{value:.3g}</text>'
        )
    return "\n".join(lines)
