"""Plots from run directories: learning curves, final scores with intervals, performance profiles, training metrics."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.intervals import interquartile_mean, performance_profile, scores_of
from stitchrl.report.page import COLOURS, INK, inline_svg, plain
from stitchrl.report.records_reader import Array, Curve, Evaluation, Run, read_run
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

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
Kind = Literal["curves", "scores", "profiles", "metrics"]
KINDS: tuple[Kind, ...] = ("curves", "scores", "profiles", "metrics")
_POINTS = 300  # drawn in a metric's line; more would only make the file large
_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "axes.titlecolor"), INK),
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#888888",
    "grid.alpha": 0.25,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "svg.hashsalt": "stitchrl",
    "svg.fonttype": "none",
}
_NAMES = {"normalized": "normalised score", "return": "return"}


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)  # a page has other fonts; a picture shows a box
        yield


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element for a page, light or dark; equal figures give equal text."""
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    out = io.StringIO()
    with _style():
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline_svg(out.getvalue())


def labels_of(runs: Sequence[Run]) -> list[str]:
    """One short label a run: how it learned, and where that is not enough on its task, also the run's name."""
    methods = [plain(method) for method in method_labels(list(runs))]
    keys = [(method, task_of(run)) for method, run in zip(methods, runs, strict=True)]
    return [key[0] if keys.count(key) == 1 else f"{key[0]} · {plain(run.name)}" for key, run in zip(keys, runs, strict=True)]


@final
@dataclass(frozen=True)
class Look:
    """How one run appears in every figure beside the others."""

    label: str
    colour: str
    marker: str


def looks_of(runs: Sequence[Run]) -> dict[Path, Look]:
    """{run's path: Look}; equal labels on different tasks look alike."""
    labels = labels_of(runs)
    known = {label: Look(label, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, label in enumerate(dict.fromkeys(labels))}
    return {run.path: known[label] for run, label in zip(runs, labels, strict=True)}


def _panels(titles: Sequence[str], width: float = 4.6, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    columns = min(len(titles), 3)
    rows = math.ceil(len(titles) / columns)
    if columns == 1:
        width, height = max(width, 6.0), max(height, 3.6)
    figure = _figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.flat)
    for spare in axes[len(titles) :]:
        spare.set_visible(False)
    for one, title in zip(axes, titles, strict=False):
        one.set_title(plain(title))
    return figure, axes[: len(titles)]


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str]]) -> None:
    """Names at the lines' right ends, moved apart where they would overlap; a legend where there are too many."""
    if len(ends) > 8:
        axes.legend(fontsize=8)
        return
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    placed = -math.inf
    for x, y, text in sorted(ends, key=lambda end: end[1]):
        placed = max(y, placed + (high - low) * 0.075)
        axes.text(x + 0.02 * (right - left), placed, text + " ", va="center", fontsize=9)


def _steps_axis(axes: Axes) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("gradient steps")


def learning_curves(runs: Sequence[Run], measure: Measure | None = None, looks: Mapping[Path, Look] | None = None) -> Figure:
    """Score against gradient steps, a panel for each task: the mean over seeds, and a band from the lowest seed to the highest.

    An online phase begins at 0 and counts steps in the environment; what its run was worth offline is to the left.
    """
    shown = _evaluated(runs)
    measure, looks = measure or measure_of(shown), looks or looks_of(shown)
    tasks = list(dict.fromkeys(task_of(run) for run in shown))
    with _style():
        figure, panels = _panels(tasks)
        for task, axes in zip(tasks, panels, strict=True):
            ends = []
            here = [run for run in shown if task_of(run) == task]
            for run in here:
                steps, evaluations = _both_phases(run, measure)
                seeds = np.array([scores_of(episodes_of(e, measure)) for e in evaluations])  # [n, S]
                ends.append(_line_with_band(axes, steps, seeds, looks[run.path]))
            axes.set_ylabel(_NAMES[measure])
            _steps_axis(axes)
            if any("parent" in run.config for run in here):
                axes.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
                axes.set_xlabel("gradient steps offline | 0 | steps in the environment")
            _label_ends(axes, ends)
    return figure


def _both_phases(run: Run, measure: Measure) -> tuple[list[int], list[Evaluation]]:
    """A run's steps and evaluations; of an online phase those of its offline run before it, at steps below 0, if they are of the same kind."""
    last = int((run.config.get("parent") or {}).get("step", 0))
    fits = [
        e for e in run.offline if e.step < last and e.environment == run.environment and len(e.returns) == len(run.evaluations[0].returns)
    ]
    before = [e for e in fits if measure == "return" or e.normalized is not None]
    return [e.step - last for e in before] + [e.step for e in run.evaluations], before + run.evaluations


def _evaluated(runs: Sequence[Run]) -> list[Run]:
    shown = [run for run in runs if run.evaluations]
    if not shown:
        raise DataError(f"no evaluations in {', '.join(run.name for run in runs) or 'no runs'}; nothing to draw")
    return shown


def _line_with_band(axes: Axes, steps: Sequence[int], values: Array, look: Look) -> tuple[float, float, str]:
    """Draw values `[n, S]`; returns where the line ends, and its label."""
    if len(steps) > 1:
        axes.fill_between(steps, values.min(1), values.max(1), color=look.colour, alpha=0.15, linewidth=0)
    else:  # a band of no width would not be seen
        axes.vlines(steps, values.min(1), values.max(1), color=look.colour, alpha=0.3, linewidth=4)
    axes.plot(steps, values.mean(1), color=look.colour, marker=look.marker, markevery=max(1, len(steps) // 10), label=look.label)
    return float(steps[-1]), float(values.mean(1)[-1]), look.label


def final_scores(
    runs: Sequence[Run], measure: Measure | None = None, level: float = 0.95, looks: Mapping[Path, Look] | None = None, note: bool = True
) -> Figure:
    """Last checkpoint of each run: IQM over seeds with its interval, every seed as a faint dot, the best checkpoint hollow."""
    shown = _evaluated(runs)
    measure, looks = measure or measure_of(shown), looks or looks_of(shown)
    tasks: dict[str, list[Run]] = {}
    for run in shown:
        tasks.setdefault(task_of(run), []).append(run)
    with _style():
        most = max(len(rows) for rows in tasks.values())
        figure, panels = _panels(list(tasks), height=1.3 + 0.36 * most)
        if len(tasks) == 1:
            figure.set_size_inches(6.0, 1.5 + 0.42 * most)
        for axes, rows in zip(panels, tasks.values(), strict=True):
            _score_rows(axes, rows, measure, level, looks)
            axes.set_xlabel(_NAMES[measure])
        if note:
            about = f"last checkpoint: IQM over seeds with {100 * level:g} % interval; faint dots: seeds; hollow: best checkpoint"
            figure.supxlabel(about, fontsize=8)
    return figure


def _score_rows(axes: Axes, runs: list[Run], measure: Measure, level: float, looks: Mapping[Path, Look]) -> None:
    runs = sorted(runs, key=lambda run: float(interquartile_mean(scores_of(episodes_of(run.evaluations[-1], measure)))))
    for y, run in enumerate(runs):
        look = looks[run.path]
        last, best = run.evaluations[-1], best_evaluation(run, measure)
        iqm, seeds = score(last, measure, level).iqm, scores_of(episodes_of(last, measure))
        axes.scatter(seeds, np.full(len(seeds), y + 0.25), s=14, color=look.colour, alpha=0.6, linewidths=0)
        if math.isfinite(iqm.low):
            axes.plot([iqm.low, iqm.high], [y, y], color=look.colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        axes.plot(iqm.estimate, y, marker=look.marker, color=look.colour, markersize=8)
        if best is not None and best.step != last.step:
            at = float(interquartile_mean(scores_of(episodes_of(best, measure))))
            axes.plot(at, y, marker=look.marker, color=look.colour, markersize=8, fillstyle="none")
    axes.set_yticks(range(len(runs)), [looks[run.path].label for run in runs])
    axes.set_ylim(-0.6, len(runs) - 0.3)
    axes.grid(axis="y", visible=False)


def profiles(scores: Mapping[str, Sequence[Array]], label: str = "score", looks: Mapping[str, Look] | None = None, seed: int = 0) -> Figure:
    """Performance profiles: for each method, the share of its runs that score at least tau, with a 95 % band.

    scores: {method: one array per task, `[S]` or `[S, episodes]`}. looks: {method: Look}, to match other figures.
    """
    flat = np.concatenate([scores_of(task) for tasks in scores.values() for task in tasks])
    count = max(len(tasks) for tasks in scores.values())
    margin = 0.05 * (flat.max() - flat.min()) or 1.0
    thresholds = np.linspace(flat.min() - margin, flat.max() + margin, 201)
    with _style():
        figure = _figure(6.0, 3.6)
        axes = figure.subplots()
        for i, (name, tasks) in enumerate(scores.items()):
            look = (looks or {}).get(name) or Look(name, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
            share, low, high = performance_profile(tasks, thresholds, generator=np.random.default_rng(seed))
            axes.fill_between(thresholds, low, high, step="post", color=look.colour, alpha=0.13, linewidth=0)
            axes.step(thresholds, share, where="post", color=look.colour, marker=look.marker, markevery=(7 * i % 25, 25), label=name)
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


def metric_curves(curves: Mapping[str, Curve], titles: bool = True) -> Figure:
    """Each training metric against steps in a panel of its own: the mean over seeds, and each seed as a faint line."""
    if not curves:
        raise DataError("no training metrics; nothing to draw")
    with _style():
        figure, panels = _panels(list(curves) if titles else [""] * len(curves), *((3.7, 2.3) if len(curves) > 1 else (0, 0)))
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
    lines: list[tuple[Look, list[Any]]] = [(Look("believed", COLOURS[1], MARKERS[1]), [e.believed_value for e in known])]
    if all(e.exact_value is not None for e in known):
        lines.append((Look("exact", COLOURS[0], MARKERS[0]), [e.exact_value for e in known]))
    elif all(e.discounted_returns is not None for e in known):
        earned = [scores_of(e.discounted_returns) for e in known if e.discounted_returns is not None]
        lines.append((Look("earned", COLOURS[0], MARKERS[0]), earned))
    with _style():
        figure = _figure(6.0, 3.4)
        axes = figure.subplots()
        ends = [_line_with_band(axes, [e.step for e in known], np.array(rows, np.float64), look) for look, rows in lines]
        axes.set_ylabel("value of the start, discounted")
        _steps_axis(axes)
        _label_ends(axes, [end for end in ends if math.isfinite(end[1])])
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
        looks = looks_of(runs)
        by_method = {method: looks[run.path] for method, run in zip(method_labels(list(runs)), runs, strict=True)}
        return profiles({m: list(of.values()) for m, of in methods.items()}, _NAMES[measure], by_method)
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
    import matplotlib

    with _style(), matplotlib.rc_context({"svg.fonttype": "path"}):  # a file may be shown where the font is not
        figure.savefig(file, dpi=180, metadata={"Date": None} if file.suffix.lower() == ".svg" else None)
