"""The figures of the trust report: intervals in rows, curves, action frequencies. Each is "" where there is nothing to draw."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from stitchrl.report.page import COLOURS, INK, Drawing, drawing, figure, number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREY = "#888888"
_WIDE = 8.0  # times the narrowest interval of a figure; what is wider is cut at the figure's edge, with an arrow
_BARS = 30  # actions drawn as pairs of bars; more become two rows of a map


@final
@dataclass(frozen=True)
class Row:
    """One line of a figure of intervals: {estimate, low, high, level}, or the words why there is none."""

    label: str
    interval: Mapping[str, Any] | None
    words: str = ""
    measured: bool = False


def interval_text(interval: Mapping[str, Any] | None, words: str = "not estimable") -> str:
    """Returns `0.812 [0.790, 0.834]`, with as many digits as its width bears; `words` where there is none."""
    if interval is None or interval["estimate"] is None:
        return words
    middle, low, high = interval["estimate"], interval["low"], interval["high"]
    if low is None or high is None:
        ends = "from " + number(low) if low is not None else "up to " + number(high) if high is not None else "no interval"
        return f"{number(middle)} ({ends})"
    size = max(abs(middle), abs(low), abs(high))
    if size >= 1e6 or 0 < size < 1e-4:
        return f"{number(middle)} [{number(low)}, {number(high)}]"
    width = high - low
    digits = min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 3
    told = (f"{value:,.{digits}f}" for value in (middle, low, high))
    return "{} [{}, {}]".format(*("0" if float(t.replace(",", "")) == 0 else t.replace("-", "\N{MINUS SIGN}") for t in told))


def _ends(interval: Mapping[str, Any]) -> tuple[float, float, float]:
    middle = float(interval["estimate"])
    low = middle if interval["low"] is None else float(interval["low"])
    high = middle if interval["high"] is None else float(interval["high"])
    return low, middle, high


def _range(rows: Sequence[Row], line: float | None) -> tuple[float, float]:
    """Returns the ends of the axis: all intervals but those many times wider than the narrowest."""
    known = [_ends(row.interval) for row in rows if row.interval is not None and row.interval["estimate"] is not None]
    widths = [high - low for low, _, high in known if high > low]
    most = _WIDE * min(widths, default=0.0)
    shown = [ends for ends in known if ends[2] - ends[0] <= most] or known
    points = [x for ends in shown for x in ends] + ([] if line is None else [line])
    if not points:
        return 0.0, 1.0
    low, high = min(points), max(points)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def interval_rows(rows: Sequence[Row], label: str, caption: str, line: float | None = None, line_label: str = "") -> str:
    """Returns a figure of one interval a row, the first on top; a row without one is grey with its words. `line`: a value to compare with."""
    if not rows:
        return ""
    left, right = _range(rows, line)
    names = [textwrap.shorten(plain(row.label), 26, placeholder=" …") or plain(row.label)[:26] for row in rows]
    with drawing(width=4.8, height=0.75 + 0.36 * len(rows)) as drawn:
        axes = drawn.axes
        if line is not None:  # not through the words of a refused row
            at = [k for k, row in enumerate(rows) if row.interval is not None]
            axes.vlines(
                [line] * len(at), [k - 0.5 for k in at], [k + 0.5 for k in at], colors=COLOURS[1], linestyles="--", label=line_label
            )
            if line_label and at:
                _legend(drawn)
        for k, row in enumerate(rows):
            if row.interval is None or row.interval["estimate"] is None:
                words = textwrap.wrap(plain(row.words or "not estimable"), 46, max_lines=2, placeholder=" …")
                axes.text(left, k, "\n".join(words), va="center", ha="left", fontsize=8, color=GREY)
            else:
                _draw_interval(axes, row, k, left, right)
        axes.set_xlim(left, right)
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=9)
        axes.spines["left"].set_visible(False)
        for tick, row in zip(axes.get_yticklabels(), rows):
            tick.set_color(GREY if row.interval is None else INK)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel(label)
    alt = "; ".join(f"{row.label}: {interval_text(row.interval, row.words or 'not estimable')}" for row in rows)
    return figure(drawn.svg, caption, alt)


def _draw_interval(axes: Axes, row: Row, k: int, left: float, right: float) -> None:
    assert row.interval is not None
    low, middle, high = _ends(row.interval)
    colour = COLOURS[2] if row.measured else COLOURS[0]
    axes.plot([max(low, left), min(high, right)], [k, k], color=colour, linewidth=2.2, solid_capstyle="butt")
    for beyond, at, marker in ((low < left, left, "<"), (high > right, right, ">")):
        if beyond:
            axes.plot([at], [k], marker=marker, color=colour, markersize=7, clip_on=False)
    if left <= middle <= right:
        axes.plot([middle], [k], marker="s" if row.measured else "o", color=colour, markersize=6)


def _legend(drawn: Drawing) -> None:
    drawn.axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)


def effective_sizes(sizes: Sequence[Sequence[float]], limit: float | None) -> str:
    """Returns the curve of effective episodes by time, with the gate's limit."""
    if len(sizes) < 2:
        return ""
    with drawing() as drawn:
        axes = drawn.axes
        axes.plot([t for t, _ in sizes], [n for _, n in sizes], color=COLOURS[0], linewidth=1.8)
        axes.set_ylim(bottom=0)
        if limit is not None:
            axes.axhline(limit, color=COLOURS[1], linestyle="--", linewidth=1.4, label="least for an estimate")
            _legend(drawn)
        axes.set_xlabel("time in the episode")
        axes.set_ylabel("effective episodes")
        axes.locator_params(axis="x", nbins=6, integer=True)
    return figure(
        drawn.svg,
        "How many episodes the weights leave, by time (Kish).",
        f"Curve from {number(float(sizes[0][1]))} effective episodes at time {sizes[0][0]:g} to {number(float(sizes[-1][1]))} at {sizes[-1][0]:g}",
    )


def calibration(bins: Sequence[Mapping[str, Any]]) -> str:
    """Returns observed against predicted probability of logged actions, a dot a bin, larger where it holds more."""
    if not bins:
        return ""
    most = max(part["count"] for part in bins) or 1
    with drawing(width=3.6, height=3.0) as drawn:
        axes = drawn.axes
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle="--")
        axes.plot([part["predicted"] for part in bins], [part["observed"] for part in bins], color=COLOURS[0], linewidth=1.2)
        axes.scatter(
            [part["predicted"] for part in bins], [part["observed"] for part in bins],
            s=[12 + 60 * part["count"] / most for part in bins], color=COLOURS[0],
        )  # fmt: skip
        axes.set_xlabel("predicted probability of an action")
        axes.set_ylabel("how often it was taken")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
    alt = "; ".join(f"predicted {part['predicted']:.2f}, observed {part['observed']:.2f}" for part in bins)
    return figure(drawn.svg, "Calibration of the logged policy's probabilities; on the dashed line they are right.", alt)


def sensitivity(curve: Sequence[Sequence[float]], flips: float | None) -> str:
    """Returns the bounds of the difference by the strength of hidden confounding that they allow."""
    if len(curve) < 2:
        return ""
    gammas, low, high = zip(*curve)
    with drawing() as drawn:
        axes = drawn.axes
        axes.fill_between(gammas, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
        axes.plot(gammas, low, color=COLOURS[0], linewidth=1.6)
        axes.plot(gammas, high, color=COLOURS[0], linewidth=1.6)
        axes.axhline(0, color=GREY, linewidth=1.0)
        if flips is not None:
            axes.axvline(flips, color=COLOURS[1], linestyle="--", linewidth=1.4, label=f"the conclusion turns at {flips:.3g}")
            _legend(drawn)
        axes.set_xlabel("Γ: factor by which the weights may be wrong")
        axes.set_ylabel("difference to logged")
        axes.locator_params(nbins=6)
    return figure(
        drawn.svg,
        "What the difference to the logged policy can be when a hidden cause makes the weights wrong by at most a factor Γ.",
        f"Bounds from [{number(low[0])}, {number(high[0])}] at Γ = {gammas[0]:g} to [{number(low[-1])}, {number(high[-1])}] at {gammas[-1]:g}",
    )


def action_frequencies(logged: Sequence[float | None], policy: Sequence[float | None]) -> str:
    """Returns how often each action is taken in the log and by the policy: bars, or for many actions two rows of a map."""
    if not logged:
        return ""
    values = [[100 * (x or 0.0) for x in row] for row in (logged, policy)]
    many = len(logged) > _BARS
    with drawing(width=4.8, height=1.5 if many else 2.6) as drawn:
        if many:
            _action_map(drawn.axes, values)
        else:
            at = range(len(logged))
            drawn.axes.bar([k - 0.2 for k in at], values[0], width=0.4, color=COLOURS[2], label="log")
            drawn.axes.bar([k + 0.2 for k in at], values[1], width=0.4, color=COLOURS[0], label="policy")
            drawn.axes.set_ylabel("% of steps")
            if len(logged) <= 12:
                drawn.axes.set_xticks(list(at))
            _legend(drawn)
        drawn.axes.set_xlabel("action")
    return figure(drawn.svg, "How often each action is taken at the logged observations.", "Frequencies of actions, log against policy")


def _action_map(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    _shades(axes, values, None, "% of steps")
    axes.set_yticks([0, 1], ["log", "policy"])


def _shades(axes: Axes, values: Sequence[Sequence[float]], most: float | None, label: str) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    # from nothing to full in one hue: it reads on white and on black
    colours = LinearSegmentedColormap.from_list("shares", [(0.0, 0.45, 0.70, 0.0), (0.0, 0.45, 0.70, 1.0)])
    image = axes.imshow(values, aspect="auto", cmap=colours, interpolation="nearest", vmin=0, vmax=most)
    bar = axes.figure.colorbar(image, ax=axes, label=label)
    bar.outline.set_visible(False)
    bar.ax.patch.set_alpha(0)


def actions_together(shares: Sequence[Sequence[float]] | None) -> str:
    """Returns a map of what the policy does (columns) where each action was logged (rows); each row sums to 100 % of its steps.

    shares: `[n, n]` of all steps, by logged action and the policy's. A row of an action never logged is empty.
    """
    if not shares:
        return ""
    totals = [sum(row) for row in shares]
    values = [[100 * x / total if total > 0 else 0.0 for x in row] for row, total in zip(shares, totals)]
    with drawing(width=4.4, height=2.7 if len(shares) <= 12 else 3.6) as drawn:
        _shades(drawn.axes, values, 100.0, "% of the row's steps")
        if len(shares) <= 12:
            drawn.axes.set_xticks(range(len(shares)))
            drawn.axes.set_yticks(range(len(shares)))
        drawn.axes.set_xlabel("the policy's action")
        drawn.axes.set_ylabel("logged action")
    alike = sum(row[k] for k, row in enumerate(shares))
    words = f"The policy does what was logged on {100 * alike:.3g} % of the steps"
    return figure(drawn.svg, f"What the policy does where each action was logged. On the diagonal they agree: {100 * alike:.3g} %.", words)
