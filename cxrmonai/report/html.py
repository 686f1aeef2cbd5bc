"""A report as one HTML file that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Integral, Real
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cxrmonai._version import __version__
from cxrmonai.errors import CxrError
from cxrmonai.files import write_text
from cxrmonai.report.figures import png_bytes

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_ABSENT = "\N{EN DASH}"

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f4f6f8; --sheet: #ffffff; --ink: #1d2a35; --soft: #5a6a78; --line: #dde3e8; --stripe: #f7f9fb;
  --accent: #0072b2; --caution-edge: #d55e00; --caution: #fdf1e8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f151a; --sheet: #182129; --ink: #e6ebef; --soft: #a3b1bd; --line: #32404c; --stripe: #1d2831;
    --accent: #56b4e9; --caution-edge: #e69f00; --caution: #2e2617;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", Arial, sans-serif;
}
main {
  max-width: 64rem; margin: 2rem auto; padding: 2.5rem 3rem; background: var(--sheet);
  border: 1px solid var(--line); border-top: 4px solid var(--accent); border-radius: 6px;
}
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; overflow-wrap: anywhere; }
.subtitle { margin: 0.4rem 0 0; color: var(--soft); font-size: 1.05rem; overflow-wrap: anywhere; }
h2 { margin: 2.75rem 0 0.75rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); font-size: 1.3rem; }
p { max-width: 46rem; margin: 0.75rem 0; overflow-wrap: anywhere; }
.note {
  max-width: none; margin: 1.5rem 0; padding: 0.9rem 1.1rem; background: var(--caution);
  border: 1px solid var(--caution-edge); border-left-width: 6px; border-radius: 4px;
}
.box {
  margin: 1.75rem 0 0; padding: 1.1rem 1.4rem 0.6rem; border: 1px solid var(--line);
  border-left: 6px solid var(--accent); border-radius: 4px; background: var(--stripe);
}
.box.caution { margin-top: 1rem; border-color: var(--caution-edge); background: var(--caution); }
.box h2 { margin: 0 0 0.5rem; padding: 0; border: 0; font-size: 1.1rem; }
.box p { max-width: none; margin: 0 0 0.6rem; }
.box ul { margin: 0 0 0.6rem; padding-left: 1.2rem; }
.box li { margin: 0 0 0.35rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); gap: 1rem; margin: 1.75rem 0 0; }
.tiles div { padding: 0.9rem 1.1rem; border: 1px solid var(--line); border-radius: 6px; background: var(--stripe); }
.tiles dt { color: var(--soft); font-size: 0.9rem; }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.75rem; font-weight: 650; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tiles .detail { color: var(--soft); font-size: 0.9rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: 1rem 0 1.5rem; }
table { width: 100%; border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums; }
caption { padding: 0 0 0.6rem; color: var(--soft); text-align: left; }
th, td { padding: 0.42rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border-bottom: 2px solid var(--ink); font-size: 0.88rem; vertical-align: bottom; }
tbody th { font-weight: 500; }
tbody tr:nth-child(even) { background: var(--stripe); }
tfoot th, tfoot td { border-top: 2px solid var(--ink); border-bottom: 0; font-weight: 650; }
.number { text-align: right; white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.number:has(.interval) { white-space: normal; }
.interval { display: inline-block; color: var(--soft); font-size: 0.88em; font-weight: 400; white-space: nowrap; }
figure { margin: 1.5rem 0 2rem; }
figure img {
  display: block; max-width: 100%; height: auto; margin: 0 auto; padding: 0.5rem; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px;
}
figcaption { width: fit-content; max-width: 46rem; margin: 0.7rem auto 0; color: var(--soft); font-size: 0.92rem; }
footer { margin-top: 3rem; padding-top: 0.8rem; border-top: 1px solid var(--line); }
footer { color: var(--soft); font-size: 0.85rem; }
@media (max-width: 48rem) {
  main { margin: 0; padding: 1.25rem; border-width: 4px 0 0; border-radius: 0; }
  h1 { font-size: 1.5rem; }
}
@media print {
  :root {
    --page: #ffffff; --sheet: #ffffff; --ink: #000000; --soft: #444444; --line: #cccccc; --stripe: #ffffff;
    --accent: #0072b2; --caution: #ffffff;
  }
  @page { margin: 16mm; }
  body { font-size: 10pt; }
  main { max-width: none; margin: 0; padding: 0; border: 0; }
  .scroll { overflow: visible; }
  h2 { break-after: avoid; }
  figure, tr, .note, .tiles, .box { break-inside: avoid; }
  figure img { max-height: 235mm; width: auto; border: 0; padding: 0; }
}
"""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, shown in one table cell; None or NaN is a number that is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Report:
    """Collects text, tables and figures in order, and saves them as one self-contained HTML file.

    The file holds its style and its images, runs no script and requests nothing. All text given is shown as text:
    markup in it is escaped.

    Args:
        title: the heading, and the title of the browser window.
        subtitle: a line under it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._parts = [f"<header>\n<h1>{escape(title)}</h1>"]
        if subtitle:
            self._parts.append(f'<p class="subtitle">{escape(subtitle)}</p>')
        self._parts.append("</header>")

    def section(self, heading: str) -> None:
        """Starts a part of the report."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")

    def text(self, paragraph: str) -> None:
        """Adds a paragraph."""
        self._parts.append(f"<p>{escape(paragraph)}</p>")

    def note(self, text: str) -> None:
        """Adds a caution in a box."""
        self._parts.append(f'<p class="note" role="note">{escape(text)}</p>')

    def box(self, heading: str, paragraphs: Sequence[str], points: Sequence[str] = (), caution: bool = False) -> None:
        """Adds a box with a heading, paragraphs and a list of points, in the colour of cautions where `caution`."""
        self._parts.append(f'<section class="box{" caution" if caution else ""}">\n<h2>{escape(heading)}</h2>')
        self._parts += [f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs]
        if points:
            self._parts.append("<ul>" + "".join(f"<li>{escape(point)}</li>" for point in points) + "</ul>")
        self._parts.append("</section>")

    def tiles(self, items: Iterable[tuple[str, Any, str]]) -> None:
        """Adds large figures side by side, each of a label, a value and a detail in small print (may be empty)."""
        self._parts.append('<dl class="tiles">')
        for label, value, detail in items:
            parts = f'<dt>{escape(label)}</dt><dd class="value">{_cell(value)}</dd>'
            if detail:
                parts += f'<dd class="detail">{escape(detail)}</dd>'
            self._parts.append(f"<div>{parts}</div>")
        self._parts.append("</dl>")

    def table(
        self,
        headers: Sequence[str],
        rows: Iterable[Sequence[Any]],
        caption: str = "",
        footer: Sequence[Any] | None = None,
    ) -> None:
        """Adds a table whose first column names the rows.

        Numbers stand at the right, floats with three decimals; None and NaN are shown as a dash.

        Args:
            headers: one text for each column.
            rows: each of as many cells: text, number, `Estimate` or None.
            caption: a line above the table.
            footer: a last row that is set apart, such as a mean.

        Raises:
            CxrError: a row with another number of cells.
        """
        rows = [list(row) for row in rows]
        for row in [*rows, *([footer] if footer is not None else [])]:
            if len(row) != len(headers):
                raise CxrError(f"a table row has {len(row)} cells for {len(headers)} headers; give one for each")
        numeric = [_is_numeric(column) for column in zip(*rows, strict=True)] or [False] * len(headers)
        self._parts.append('<div class="scroll" tabindex="0">\n<table>')
        if caption:
            self._parts.append(f"<caption>{escape(caption)}</caption>")
        head = "".join(_tag("th", escape(text), number, "col") for text, number in zip(headers, numeric, strict=True))
        self._parts.append(f"<thead><tr>{head}</tr></thead>\n<tbody>")
        self._parts += [_row(row, numeric) for row in rows]
        self._parts.append("</tbody>")
        if footer is not None:
            self._parts.append(f"<tfoot>{_row(footer, numeric)}</tfoot>")
        self._parts.append("</table>\n</div>")

    def figure(self, figure: Figure | bytes, caption: str, alt: str) -> None:
        """Adds a figure.

        Args:
            figure: a figure, or what `png_bytes` made of it; drawn at 150 dots per inch and shown at half its size,
                sharp on dense screens and on paper.
            caption: a line under it.
            alt: what it shows, for readers who cannot see it.
        """
        png = figure if isinstance(figure, bytes) else png_bytes(figure)
        width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
        data = base64.b64encode(png).decode("ascii")
        self._parts.append(
            f'<figure>\n<img alt="{escape(alt)}" width="{width // 2}" height="{height // 2}" '
            f'src="data:image/png;base64,{data}">\n<figcaption>{escape(caption)}</figcaption>\n</figure>'
        )

    def html(self) -> str:
        """Returns the whole document."""
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self._title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
            f"<footer>Made by cxrmonai {escape(__version__)}. For research; not a medical device.</footer>\n"
            "</main>\n</body>\n</html>\n"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the document to `path` atomically.

        Raises:
            CxrError: the folder cannot be written to.
        """
        write_text(path, self.html())


def _row(cells: Sequence[Any], numeric: Sequence[bool]) -> str:
    first = _tag("th", _cell(cells[0]), numeric[0], "row") if cells else ""
    rest = "".join(_tag("td", _cell(cell), number) for cell, number in zip(cells[1:], numeric[1:], strict=True))
    return f"<tr>{first}{rest}</tr>"


def _tag(tag: str, content: str, number: bool, scope: str = "") -> str:
    kind = ' class="number"' if number else ""
    scope = f' scope="{scope}"' if scope else ""
    return f"<{tag}{kind}{scope}>{content}</{tag}>"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, (Real, Estimate)) and not _is_bool(cell)


def _is_bool(cell: Any) -> bool:
    return isinstance(cell, (bool, np.bool_))


def _is_numeric(column: Sequence[Any]) -> bool:
    present = [cell for cell in column if cell is not None]
    return bool(present) and all(_is_number(cell) for cell in present)


def _cell(cell: Any) -> str:
    if isinstance(cell, Estimate):
        interval = f"[{_text(_nan(cell.low))}, {_text(_nan(cell.high))}]"
        undefined = math.isnan(_nan(cell.low)) or math.isnan(_nan(cell.high))
        small = "" if undefined else f' <span class="interval">{interval}</span>'
        return f"{_text(_nan(cell.value))}{small}"
    if isinstance(cell, (list, tuple)):
        return escape(", ".join(_text(item) for item in cell)) or _ABSENT
    return escape(_text(cell))


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    if _is_bool(value):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return _float_text(float(value))
    return str(value)


def _float_text(value: float) -> str:
    if math.isnan(value):
        return _ABSENT
    return f"{value:.3g}" if 0 < abs(value) < 0.0005 else f"{value + 0.0:.3f}"
