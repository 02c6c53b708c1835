"""The self-contained page that every report is: one HTML file, no script, no request, light or dark, wide or narrow, or printed."""

from __future__ import annotations

import hashlib
import html
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast, final

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by all readers; black and yellow are left out: neither shows on both a white and a black page
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
INK = "#010203"  # stands for the page's own text colour in a figure, see svg()

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #59636e; --paper: #ffffff; --card: #f5f6f8; --line: #d5d9de;
  --error: #b3261e; --warning: #8a5300; --note: #0b5c94; --good: #0a6b4b; --bar: #0072B2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #a3abb5; --paper: #14171b; --card: #1e2227; --line: #363c44;
  --error: #ff9c92; --warning: #f0b45c; --note: #7fc1f0; --good: #5fd0a6; --bar: #56B4E9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .88rem; }
nav { font-size: .9rem; margin: .8rem 0; } nav a { margin-right: .9rem; display: inline-block; }
a { color: var(--note); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } tbody th { color: var(--ink); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); } .good { color: var(--good); }
.tag { font-weight: 600; white-space: nowrap; }
.box { background: var(--card); border-left: .3rem solid var(--line); border-radius: .3rem; padding: .7rem 1rem; margin: .7rem 0; }
.box.error { border-color: var(--error); } .box.warning { border-color: var(--warning); } .box.note { border-color: var(--note); }
.box.good { border-color: var(--good); } .box > * { color: var(--ink); } .box p { margin: .2rem 0; } .box p.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; margin: .9rem 0; }
.tile { background: var(--card); border-radius: .4rem; padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.3rem; line-height: 1.3; }
.tile span { color: var(--soft); font-size: .85rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.2rem; margin: .8rem 0; }
.figures.small { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); } .small svg { max-width: 22rem; }
caption { text-align: left; padding-bottom: .2rem; }
td p:first-child { margin-top: 0; } td p:last-child { margin-bottom: .2rem; } .short { white-space: nowrap; }
figure { margin: 0; min-width: 0; } figure svg { width: 100%; height: auto; max-width: 34rem; display: block; }
.meter { display: inline-block; width: 6rem; height: .6rem; background: var(--line); border-radius: .3rem; overflow: hidden; }
.meter i { display: block; height: 100%; background: var(--bar); }
@media (max-width: 30rem) { body { padding: 1rem .8rem 2rem; } h1 { font-size: 1.35rem; }
  .wide, .wide tbody { display: block; } .wide thead { display: none; }
  .wide tr { display: block; padding: .5rem 0; border-bottom: 1px solid var(--line); }
  .wide th, .wide td { display: inline-block; border: 0; padding: 0 .6rem 0 0; } .wide .long { display: block; padding: .2rem 0; }
  .meter { width: 3.5rem; } th, td { padding-right: .6rem; } }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --paper: #fff; --card: #f3f3f3; --line: #bbb; --error: #b3261e;
  --warning: #8a5300; --note: #0b5c94; --good: #0a6b4b; --bar: #0072B2; } body { max-width: none; font-size: 10pt; } nav { display: none; }
  figure, .box, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; } }
"""


@final
@dataclass(frozen=True)
class Section:
    """A headed part of a page; `body` is HTML made by the functions of this module."""

    title: str
    body: str


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """Returns a whole HTML document. `title` and section titles are text; `lead` (before the contents) and bodies are HTML."""
    names = [f"part-{number}" for number in range(1, len(sections) + 1)]
    links = " ".join(f'<a href="#{name}">{escape(section.title)}</a>' for name, section in zip(names, sections))
    heads = [f'<h2 id="{name}-title">{escape(section.title)}</h2>' for name, section in zip(names, sections)]
    parts = [
        f'<section id="{name}" aria-labelledby="{name}-title">{head}\n{section.body}\n</section>'
        for name, head, section in zip(names, heads, sections)
    ]
    # nothing is fetched, nothing is run: the browser is told so too
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>\n{lead}\n"
        f'<nav aria-label="Contents">{links}</nav></header>\n<main>\n' + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def plain(text: object) -> str:
    """Returns text that a terminal shows and does not obey: control, direction and other format characters become \\x1b or \\u202e.

    Line ends and tabs become spaces.
    """

    def shown(character: str) -> str:
        if character in "\n\r\t":
            return " "
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            code = ord(character)
            return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
        return character

    return "".join(map(shown, str(text)))


def escape(text: object) -> str:
    """Returns text safe inside HTML and its quoted attributes."""
    return html.escape(plain(text), quote=True)


def csv_cell(value: object) -> str:
    """Returns one CSV cell. Text that a spreadsheet would take for a formula (= + - @ first) gains a leading apostrophe; numbers do not."""
    if isinstance(value, bool | int | float):
        return str(value)
    text = "" if value is None else plain(value)
    if text.lstrip()[:1] in ("=", "+", "-", "@", "|", "%", "＝", "＋", "－", "＠"):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",;\']', text) or text != text.strip() else text


def csv_table(headers: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Returns a CSV file's text, with line feeds."""
    return "".join(",".join(csv_cell(cell) for cell in row) + "\n" for row in [headers, *rows])


def paragraph(text: object, style: str = "") -> str:
    """Returns a paragraph of escaped text; `style` is a class of STYLE."""
    return f'<p class="{escape(style)}">{escape(text)}</p>' if style else f"<p>{escape(text)}</p>"


@final
@dataclass(frozen=True)
class Markup:
    """A table cell that is HTML of this module already."""

    html: str


def table(headers: Sequence[object], rows: Sequence[Sequence[object]], caption: str = "", label: str = "") -> str:
    """Returns a table of escaped text that scrolls sideways when narrow. int and float cells stand right; a row's first cell heads it.

    `caption` is shown; `label` is for those who cannot see the heading above.
    """

    def cell(value: object, tag: str = "td", attributes: str = "") -> str:
        style, text = "", value.html if isinstance(value, Markup) else escape(number(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            style = ' class="number"'
        elif (isinstance(value, Markup) and "<p" in value.html) or (not isinstance(value, Markup) and len(text) > 40):
            style = ' class="long"'
        elif not isinstance(value, Markup) and len(text) <= 14:
            style = ' class="short"'
        return f"<{tag}{attributes}{style}>{text}</{tag}>"

    # a column of numbers has its heading on the same side
    right = {k for k in range(len(headers)) if rows and all(type(row[k]) in (int, float) for row in rows)}
    head = "".join(f'<th scope="col"{" class=number" if k in right else ""}>{escape(name)}</th>' for k, name in enumerate(headers))
    lines = [cell(row[0], "th", ' scope="row"') + "".join(cell(value) for value in row[1:]) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    wide = ' class="wide"' if 'class="long"' in body else ""  # a narrow screen shows such rows one below the other
    title = f'<caption class="soft">{escape(caption)}</caption>' if caption else ""
    header = f"<thead><tr>{head}</tr></thead>" if any(str(name) for name in headers) else ""
    name = escape(label or caption or "table")
    frame = f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
    return f"{frame}<table{wide}>{title}{header}<tbody>\n{body}\n</tbody></table></div>"


def tiles(values: Sequence[tuple[str, object]]) -> str:
    """Returns a row of (what, value) tiles, the value large."""
    inner = "".join(f'<div class="tile"><b>{escape(number(value))}</b><span>{escape(name)}</span></div>' for name, value in values)
    return f'<div class="tiles">{inner}</div>'


def box(kind: str, title: object, *lines: object) -> str:
    """Returns a box marked error, warning, note or good; the last of several lines is set soft."""
    body = "".join(paragraph(line, "soft" if k and k == len(lines) - 1 else "") for k, line in enumerate(lines) if str(line))
    return f'<div class="box {escape(kind)}"><p><b>{escape(title)}</b></p>{body}</div>'


def meter(value: float, most: float, label: str) -> Markup:
    """Returns a small bar of value / most, held to 0 … 1."""
    share = 100 * min(1.0, max(0.0, value / most))
    return Markup(f'<span class="meter" role="img" aria-label="{escape(label)}"><i style="width:{share:.1f}%"></i></span>')


def number(value: object) -> str:
    """Returns a number as people read it: 12,345; 0.0123; 1.2e+09; "not known" for None; text as it is."""
    if value is None:
        return "not known"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}".replace("-", "\N{MINUS SIGN}")
    size = abs(value)
    text = f"{value:.3g}" if size >= 1e7 or 0 < size < 1e-3 else f"{value:,.0f}" if size >= 1e4 else f"{value:,.4g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if text.startswith("-") else text


def figure(svg_text: str, caption: str, alt: str) -> str:
    """Returns a figure of an SVG from `svg`; `alt` says in words what the picture shows."""
    labelled = svg_text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return f"<figure>{labelled}<figcaption>{escape(caption)}</figcaption></figure>"


def figures(items: Sequence[str], small: bool = False) -> str:
    """Returns figures side by side where there is room."""
    return f'<div class="figures{" small" if small else ""}">{"".join(items)}</div>'


@final
class Drawing:
    """Axes to draw on, and after the block its `svg`."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def drawing(width: float = 4.4, height: float = 2.7) -> Iterator[Drawing]:
    """Yields a Drawing of `width` × `height` inches in the page's style; the same calls give the same bytes.

    INK is replaced by the page's text colour, so that a figure is readable light and dark.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[str, Any] = {
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"), INK),
        "svg.fonttype": "none",
        "svg.hashsalt": "stitchrl",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.7,
        "axes.formatter.useoffset": False,
        "axes.unicode_minus": True,
        "text.parse_math": False,  # a "$" in a name is a "$"
    }
    with rc_context(cast(Any, settings)):
        canvas = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(canvas)
        canvas.patch.set_alpha(0)
        drawn = Drawing(canvas.add_subplot())
        drawn.axes.patch.set_alpha(0)
        yield drawn
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn.svg = inline_svg(text.getvalue())


def inline_svg(text: str) -> str:
    """Returns matplotlib's SVG made fit for a page: no prologue, no metadata, ids of its own, INK as the text colour."""
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:width|height)="[0-9.]+pt"', "", text, count=2)
    # two figures on a page must not share names: the prefix depends on nothing but the figure
    name = "f" + hashlib.sha256(text.encode()).hexdigest()[:8] + "-"
    text = re.sub(r'(?<= id=")', name, text)
    text = re.sub(r'(?<=href="#)', name, text)
    text = re.sub(r"(?<=url\(#)", name, text)
    text = re.sub(r"'DejaVu Sans'(?:, [^;\"]*)?", "system-ui, 'DejaVu Sans', sans-serif", text)
    return text.replace(INK, "currentColor").strip()
