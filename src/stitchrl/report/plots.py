"""Plots from run directories: learning curves, final scores with intervals, performance profiles, training metrics."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import interquartile_mean, performance_profile, scores_of
from stitchrl.report.records_reader import Array, Curve, Run, read_run
from stitchrl.report.summary import (
    Measure,
    best_evaluation,
    common_ground,
    episodes_of,
    last_episodes,
    measure_of,
    method_labels,
    score,
    task_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito: tells apart under the common forms of colour blindness; yellow last, it is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Kind = Literal["curves", "scores", "profiles", "metrics"]
KINDS: tuple[Kind, ...] = ("curves", "scores", "profiles", "metrics")
_POINTS = 300  # drawn in a metric's line; more would only make the file large
_STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "stitchrl",
    "svg.fonttype": "path",
}
_OVER_GRID: Any = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
_NAMES = {"normalized": "normalised score", "return": "return"}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element to set into HTML; equal figures give equal text."""
    out = io.StringIO()
    with _style():
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL).strip()


def labels_of(runs: Sequence[Run]) -> list[str]:
    """One short label a run: how it learned, and where that is not enough on its task, also the run's name."""
    methods = method_labels(list(runs))
    keys = [(method, task_of(run)) for method, run in zip(methods, runs, strict=True)]
    return [key[0] if keys.count(key) == 1 else f"{key[0]} · {run.name}" for key, run in zip(keys, runs, strict=True)]


def _panels(titles: Sequence[str], width: float = 4.6, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    columns = min(len(titles), 3)
    rows = math.ceil(len(titles) / columns)
    if columns == 1:
        width, height = 7.4, 3.8
    figure = _figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(titles) :]:
        spare.set_visible(False)
    for one, title in zip(axes, titles, strict=False):
        one.set_title(title)
    return figure, axes[: len(titles)]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the lines' right ends, moved apart where they would overlap; a legend where there are too many."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.075
    if len(ends) > 8:
        axes.legend(fontsize=8)
        return
    left, right = axes.get_xlim()
    placed = -math.inf
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        placed = max(y, placed + gap)
        axes.text(x + 0.02 * (right - left), placed, text + " ", color=_readable(colour), va="center", fontsize=9, bbox=_OVER_GRID)


def _readable(colour: str) -> str:
    return "#8a7d00" if colour == "#F0E442" else colour


def _steps_axis(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("gradient steps")


def learning_curves(runs: Sequence[Run], measure: Measure | None = None) -> Figure:
    """Score against gradient steps, a panel for each task: the mean over seeds, and a band from the lowest seed to the highest."""
    shown = [run for run in runs if run.evaluations]
    if not shown:
        raise DataError(f"no evaluations in {', '.join(run.name for run in runs) or 'no runs'}; nothing to draw")
    measure = measure or measure_of(shown)
    tasks = list(dict.fromkeys(task_of(run) for run in shown))
    colour_of = _colours(labels_of(shown))
    with _style():
        figure, panels = _panels(tasks)
        for task, axes in zip(tasks, panels, strict=True):
            ends = []
            for run, label in zip(shown, labels_of(shown), strict=True):
                if task_of(run) == task:
                    seeds = np.array([scores_of(episodes_of(e, measure)) for e in run.evaluations])  # [n, S]
                    steps, colour, marker = [e.step for e in run.evaluations], *colour_of[label]
                    axes.fill_between(steps, seeds.min(1), seeds.max(1), color=colour, alpha=0.15, linewidth=0)
                    every = max(1, len(steps) // 10)
                    axes.plot(steps, seeds.mean(1), color=colour, marker=marker, markevery=every)
                    ends.append((float(steps[-1]), float(seeds.mean(1)[-1]), label, colour))
            axes.set_ylabel(_NAMES[measure])
            _steps_axis(axes)
            _label_ends(axes, ends)
    return figure


def _colours(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {label: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(dict.fromkeys(labels))}


def final_scores(runs: Sequence[Run], measure: Measure | None = None, level: float = 0.95, seed: int = 0) -> Figure:
    """Last checkpoint of each run: IQM over seeds with its interval, every seed as a faint dot, the best checkpoint hollow."""
    shown = [run for run in runs if run.evaluations]
    if not shown:
        raise DataError("no evaluations in these runs; nothing to draw")
    measure = measure or measure_of(shown)
    colour_of = _colours(labels_of(shown))
    tasks: dict[str, list[tuple[Run, str]]] = {}
    for run, label in zip(shown, labels_of(shown), strict=True):
        tasks.setdefault(task_of(run), []).append((run, label))
    with _style():
        most = max(len(rows) for rows in tasks.values())
        figure, panels = _panels(list(tasks), height=1.3 + 0.36 * most)
        if len(tasks) == 1:
            figure.set_size_inches(7.4, 1.4 + 0.42 * most)
        for axes, rows in zip(panels, tasks.values(), strict=True):
            _score_rows(axes, rows, measure, level, seed, colour_of)
            axes.set_xlabel(_NAMES[measure])
        about = f"last checkpoint: IQM over seeds with {100 * level:g} % interval; faint dots: seeds; hollow: best checkpoint"
        figure.supxlabel(about, fontsize=8.5, color="#444444")
    return figure


def _score_rows(
    axes: Axes, rows: list[tuple[Run, str]], measure: Measure, level: float, seed: int, colour_of: Mapping[str, tuple[str, str]]
) -> None:
    rows = sorted(rows, key=lambda row: float(interquartile_mean(scores_of(episodes_of(row[0].evaluations[-1], measure)))))
    for y, (run, label) in enumerate(rows):
        colour, marker = colour_of[label]
        last, best = run.evaluations[-1], best_evaluation(run, measure)
        iqm, seeds = score(last, measure, level, seed).iqm, scores_of(episodes_of(last, measure))
        axes.scatter(seeds, np.full(len(seeds), y + 0.25), s=14, color=colour, alpha=0.4, linewidths=0)
        if math.isfinite(iqm.low):
            axes.plot([iqm.low, iqm.high], [y, y], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axes.plot(iqm.estimate, y, marker=marker, color=colour, markersize=8)
        if best is not None and best.step != last.step:
            at = float(interquartile_mean(scores_of(episodes_of(best, measure))))
            axes.plot(at, y, marker=marker, color=colour, markersize=8, fillstyle="none")
    axes.set_yticks(range(len(rows)), [label for _, label in rows])
    axes.set_ylim(-0.6, len(rows) - 0.3)
    axes.grid(axis="y", visible=False)


def profiles(scores: Mapping[str, Sequence[Array]], label: str = "score", seed: int = 0) -> Figure:
    """Performance profiles: for each method, the share of its runs that score at least tau, with a 95 % band.

    scores: {method: one array per task, `[S]` or `[S, episodes]`}.
    """
    flat = np.concatenate([scores_of(task) for tasks in scores.values() for task in tasks])
    count = max(len(tasks) for tasks in scores.values())
    margin = 0.05 * (flat.max() - flat.min()) or 1.0
    thresholds = np.linspace(flat.min() - margin, flat.max() + margin, 201)
    colour_of = _colours(list(scores))
    with _style():
        figure = _figure(7.4, 3.8)
        axes = figure.subplots()
        for i, (name, tasks) in enumerate(scores.items()):
            colour, marker = colour_of[name]
            share, low, high = performance_profile(tasks, thresholds, generator=np.random.default_rng(seed))
            axes.fill_between(thresholds, low, high, step="post", color=colour, alpha=0.13, linewidth=0)
            axes.step(thresholds, share, where="post", color=colour, marker=marker, markevery=(7 * i % 25, 25), label=name)
        axes.set_xlabel(f"{label} τ" + (f" ({count} tasks)" if count > 1 else ""))
        axes.set_ylabel("share of runs with score ≥ τ")
        axes.set_ylim(-0.02, 1.04)
        axes.legend(loc="lower left", fontsize=9)
    return figure


def shown_metrics(run: Run) -> dict[str, Curve]:
    """The run's metrics worth a panel: losses first, speed last, the clock not at all."""
    names = [name for name in run.metrics if name != "seconds"]
    rank = {name: 0 if name.startswith("loss/") else 2 if "per_second" in name else 1 for name in names}
    return {name: run.metrics[name] for name in sorted(names, key=lambda name: rank[name])}


def metric_curves(curves: Mapping[str, Curve]) -> Figure:
    """Each training metric against steps in a panel of its own: the mean over seeds, and each seed as a faint line."""
    if not curves:
        raise DataError("no training metrics; nothing to draw")
    with _style():
        figure, panels = _panels(list(curves), 3.7, 2.3)
        for axes, curve in zip(panels, curves.values(), strict=True):
            steps, values = _thinned(curve)
            if values.shape[1] > 1:
                axes.plot(steps, values, color=COLOURS[0], alpha=0.3, linewidth=0.8)
            known = np.isfinite(values)
            total = np.where(known, values, 0.0).sum(1)
            with np.errstate(invalid="ignore"):
                axes.plot(steps, total / np.where(known.any(1), known.sum(1), np.nan), color=COLOURS[0], linewidth=1.4)
            finite = values[known]
            if finite.size and finite.min() > 0 and finite.max() > 1000 * finite.min():
                axes.set_yscale("log")
            _steps_axis(axes)
    return figure


def _thinned(curve: Curve) -> tuple[Array, Array]:
    """At most `_POINTS` points, each the mean of its neighbours."""
    count = len(curve.steps)
    if count <= _POINTS:
        return curve.steps, curve.values
    starts = np.linspace(0, count, _POINTS + 1).astype(int)[:-1]
    sizes = np.diff(np.append(starts, count))
    return np.add.reduceat(curve.steps, starts) / sizes, np.add.reduceat(curve.values, starts, 0) / sizes[:, None]


def believed_and_true(run: Run) -> Figure:
    """What the run's critic believed the start to be worth, against what an episode earned (discounted), or the exact value."""
    known = [e for e in run.evaluations if e.believed_value is not None]
    if not known:
        raise DataError(f"{run.name}: no believed values in its evaluations; nothing to draw")
    lines: list[tuple[str, list[Any], str, str]] = [("believed", [e.believed_value for e in known], COLOURS[1], "s")]
    if all(e.exact_value is not None for e in known):
        lines.append(("exact", [e.exact_value for e in known], COLOURS[0], "o"))
    elif all(e.discounted_returns is not None for e in known):
        lines.append(("earned", [scores_of(e.discounted_returns) for e in known if e.discounted_returns is not None], COLOURS[0], "o"))
    with _style():
        figure = _figure(7.4, 3.4)
        axes = figure.subplots()
        steps = [e.step for e in known]
        ends = []
        for name, rows, colour, marker in lines:
            values = np.array(rows, np.float64)
            axes.fill_between(steps, values.min(1), values.max(1), color=colour, alpha=0.15, linewidth=0)
            axes.plot(steps, values.mean(1), color=colour, marker=marker, markevery=max(1, len(steps) // 10))
            ends.append((float(steps[-1]), float(values.mean(1)[-1]), name, colour))
        axes.set_ylabel("value of the start, discounted")
        _steps_axis(axes)
        _label_ends(axes, ends)
    return figure


def draw(runs: Sequence[Run], kind: Kind) -> Figure:
    """One of the four figures for these runs; raises DataError where they lack what it shows."""
    measure = measure_of(list(runs))
    if kind == "curves":
        return learning_curves(runs, measure)
    if kind == "scores":
        return final_scores(runs, measure)
    if kind == "profiles":
        methods, tasks = common_ground(last_episodes(list(runs), measure))
        if not methods:
            raise DataError("no task on which all these runs were evaluated; a profile needs one")
        if measure == "return" and len(tasks) > 1:
            raise DataError("returns of different tasks have no common unit; a profile over tasks needs normalised scores")
        return profiles({m: list(of.values()) for m, of in methods.items()}, _NAMES[measure])
    if kind == "metrics":
        merged = {f"{run.name}: {name}" if len(runs) > 1 else name: curve for run in runs for name, curve in shown_metrics(run).items()}
        return metric_curves(dict(list(merged.items())[:30]))
    raise ConfigError(f"plot kind {kind!r}; expected one of {', '.join(KINDS)}")


def plot(runs: Sequence[Path | str], output: Path | str, kind: Kind | None = None) -> list[Path]:
    """The files written. `output` is a .png, .svg or .pdf file for one kind (curves unless told), else a directory for all that apply."""
    read = [read_run(path) for path in runs]
    target = Path(output)
    if target.suffix.lower() in (".png", ".svg", ".pdf"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _save(draw(read, kind or "curves"), target)
        return [target]
    if target.suffix:
        raise ConfigError(f"{output}: a plot is written as .png, .svg or .pdf; found {target.suffix!r}")
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for one in [kind] if kind else KINDS:
        try:
            figure = draw(read, one)
        except DataError:
            if kind:
                raise
            continue  # of all kinds, only those that these runs have data for
        file = target / f"{one}.svg"
        _save(figure, file)
        written.append(file)
    if not written:
        raise DataError(f"{', '.join(str(p) for p in runs)}: neither evaluations nor metrics; nothing to draw")
    return written


def _save(figure: Figure, file: Path) -> None:
    with _style():
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
