"""Runs side by side: last and best checkpoint, intervals, chances of improvement, and warnings where they are not alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval, interval, probability_of_improvement
from stitchrl.report.page import plain
from stitchrl.report.plots import labels_of
from stitchrl.report.records_reader import Run, read_run
from stitchrl.report.summary import (
    COVERAGE,
    FEW_SEEDS,
    Grouped,
    Measure,
    Score,
    best_evaluation,
    common_ground,
    interval_text,
    last_episodes,
    measure_of,
    method_labels,
    online_episodes,
    score,
    short_number,
    spread_text,
    task_labels,
)


@final
@dataclass(frozen=True)
class Row:
    """One run. `last` and `best` are None where it was never evaluated."""

    run: Run
    label: str
    method: str
    task: str
    last: Score | None
    best: Score | None


@final
@dataclass(frozen=True)
class Aggregate:
    """One method over all the tasks that every method was evaluated on, at the last checkpoints."""

    method: str
    tasks: int
    scores: int
    iqm: Interval


@final
@dataclass(frozen=True)
class Improvement:
    """The chance that a run of `method` beats a run of `other` on the same task."""

    method: str
    other: str
    tasks: int
    probability: Interval


@final
@dataclass(frozen=True)
class Comparison:
    """The rows best first, what methods come to over tasks, and what a reader must know before believing it."""

    measure: Measure
    level: float
    rows: list[Row]
    aggregates: list[Aggregate] = field(default_factory=list)
    improvements: list[Improvement] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        return "normalised score" if self.measure == "normalized" else "return"

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task for row in self.rows))

    def table(self, task: str | None = None) -> tuple[list[str], list[list[str]]]:
        """Headings and cells, of one task if told; a column appears where at least one run has something for it."""
        rows = [row for row in self.rows if task in (None, row.task)]
        several = len({row.task for row in rows}) > 1
        columns: list[tuple[str, Callable[[Row], str]]] = [
            ("run", lambda r: r.label),
            *([("task", lambda r: r.task)] if several else []),
            ("seeds × episodes", lambda r: _last(r, lambda s: f"{s.seeds} × {s.episodes}")),
            ("last: step", lambda r: _last(r, lambda s: f"{s.step:,}")),
            (f"last: IQM [{100 * self.level:g} %]", lambda r: _last(r, lambda s: interval_text(s.iqm))),
            ("last: mean ± std", lambda r: _last(r, lambda s: spread_text(s.mean, s.deviation))),
            ("best: step", lambda r: "–" if r.best is None else f"{r.best.step:,}"),
            (f"best: IQM [{100 * self.level:g} %]", lambda r: "–" if r.best is None else interval_text(r.best.iqm)),
            ("last: return", lambda r: _last(r, lambda s: short_number(s.mean_return))),
            ("last: success", lambda r: _last(r, lambda s: interval_text(s.success))),
            ("exact value", lambda r: _last(r, lambda s: short_number(s.exact_value))),
            ("believed value", lambda r: _last(r, lambda s: short_number(s.believed_value))),
        ]
        shown = [c for c in columns if not (self.measure == "return" and c[0] == "last: return")]
        cells = [[cell(row) for _, cell in shown] for row in rows]
        kept = [j for j in range(len(shown)) if j < 2 or any(line[j] != "–" for line in cells)]
        return [shown[j][0] for j in kept], [[line[j] for j in kept] for line in cells]

    def text(self) -> str:
        """The comparison for a terminal."""
        headings, cells = self.table()
        parts = [f"{self.unit}; a seed's score is its mean over episodes, IQM and interval are over seeds", "", *_aligned(headings, cells)]
        if self.aggregates:
            lines = [[a.method, str(a.tasks), str(a.scores), interval_text(a.iqm)] for a in self.aggregates]
            parts += ["", "over tasks", *_aligned(["method", "tasks", "scores", "IQM"], lines)]
        if self.improvements:
            lines = [[f"{i.method} > {i.other}", str(i.tasks), interval_text(i.probability)] for i in self.improvements]
            parts += ["", "chance that a run of one beats a run of the other", *_aligned(["", "tasks", "P"], lines)]
        if self.warnings:
            parts += ["", *(f"! {warning}" for warning in self.warnings)]
        return "".join(f"{plain(line)}\n" for line in parts)  # names come from files: shown, not obeyed

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        rows = [
            {
                "run": str(row.run.path),
                "label": row.label,
                "method": row.method,
                "task": row.task,
                "fingerprint": row.run.data.get("fingerprint"),
                "online_episodes": online_episodes(row.run),
                "last": None if row.last is None else row.last.to_json(),
                "best": None if row.best is None else row.best.to_json(),
            }
            for row in self.rows
        ]
        return {
            "format": 1,
            "measure": self.measure,
            "level": self.level,
            "rows": rows,
            "aggregates": [{**a.__dict__, "iqm": a.iqm.to_json()} for a in self.aggregates],
            "improvements": [{**i.__dict__, "probability": i.probability.to_json()} for i in self.improvements],
            "warnings": self.warnings,
        }

    def json(self) -> str:
        return json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def runs(self) -> list[Run]:
        return [row.run for row in self.rows]


def _last(row: Row, text: Callable[[Score], str]) -> str:
    return "–" if row.last is None else text(row.last)


def _aligned(headings: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(line[j]) for line in [headings, *rows]) for j in range(len(headings))]
    lines = [headings, ["─" * width for width in widths], *rows]
    left = [heading in ("", "run", "task", "method") for heading in headings]
    return [
        "  ".join(cell.ljust(w) if at_left else cell.rjust(w) for cell, w, at_left in zip(line, widths, left, strict=True)).rstrip()
        for line in lines
    ]


def compare(runs: Sequence[Path | str | Run], level: float = 0.95, seed: int = 0) -> Comparison:
    """The comparison of run directories, best last checkpoint first. Equal files and seed give equal numbers."""
    read = [run if isinstance(run, Run) else read_run(run) for run in runs]
    if not read:
        raise DataError("no runs to compare; give at least one run directory")
    measure = measure_of(read)
    rows = []
    for run, label, method, task in zip(read, labels_of(read), method_labels(read), task_labels(read), strict=True):
        best = best_evaluation(run, measure)
        rows.append(
            Row(
                run,
                label,
                method,
                task,
                last=score(run.evaluations[-1], measure, level, seed) if run.evaluations else None,
                best=score(best, measure, level, seed) if best is not None else None,
            )
        )
    tasks = list(dict.fromkeys(row.task for row in rows))
    rows.sort(key=lambda row: (tasks.index(row.task), -row.last.iqm.estimate if row.last else np.inf))
    grouped = last_episodes(read, measure)
    aggregates = _aggregates(grouped, measure, level, seed)
    warnings = _warnings(rows, level)
    left_out = [method for method in grouped if aggregates and method not in {a.method for a in aggregates}]
    if left_out:
        warnings.append(f"{', '.join(left_out)}: not run on every task, so left out of the numbers over tasks")
    return Comparison(measure, level, rows, aggregates, _improvements(grouped, level, seed), warnings)


def _aggregates(grouped: Grouped, measure: Measure, level: float, seed: int) -> list[Aggregate]:
    """Over several tasks only, and only of normalised scores: returns of different tasks have no common unit."""
    methods, tasks = common_ground(grouped)
    if len(tasks) < 2 or measure != "normalized":
        return []
    found = []
    for method, by_task in methods.items():
        arrays = list(by_task.values())
        iqm = interval(arrays, generator=np.random.default_rng(seed), level=level)
        found.append(Aggregate(method, len(arrays), sum(len(a) for a in arrays), iqm))
    return sorted(found, key=lambda a: -a.iqm.estimate)


def _improvements(by_method: Grouped, level: float, seed: int) -> list[Improvement]:
    """Each pair of methods that share a task, the likelier winner first."""
    found = []
    for a, b in combinations(by_method, 2):
        shared = sorted(set(by_method[a]) & set(by_method[b]))
        if not shared:
            continue
        x, y = [by_method[a][t] for t in shared], [by_method[b][t] for t in shared]
        p = probability_of_improvement(x, y, generator=np.random.default_rng(seed), level=level)
        if p.estimate >= 0.5:
            found.append(Improvement(a, b, len(shared), p))
        else:
            turned = Interval(1 - p.estimate, 1 - p.high, 1 - p.low, level)
            found.append(Improvement(b, a, len(shared), turned))
    return found


def _warnings(rows: list[Row], level: float) -> list[str]:
    """What makes these numbers less comparable, or less certain, than they look."""
    warnings = []
    evaluated = [row for row in rows if row.last is not None]
    for name in sorted({row.run.data_name for row in rows}):
        prints = {row.run.data.get("fingerprint") for row in rows if row.run.data_name == name}
        if len(prints) > 1:
            warnings.append(
                f"{name}: the data differ between runs ({', '.join(str(p)[:12] for p in sorted(map(str, prints)))}) under one name"
            )
    for task in dict.fromkeys(row.task for row in rows):
        here = [row for row in evaluated if row.task == task]
        if len({row.last.step for row in here if row.last}) > 1:
            steps = ", ".join(f"{row.label} {row.last.step:,}" for row in here if row.last)
            warnings.append(f"{task}: last checkpoints are at different steps ({steps})")
        if len({row.last.episodes for row in here if row.last}) > 1:
            warnings.append(f"{task}: runs were evaluated on different numbers of episodes")
        acting = {row.label: _acting(row.run) for row in here}
        if len(set(acting.values())) > 1:
            warnings.append(f"{task}: policies act in different ways ({', '.join(f'{label}: {how}' for label, how in acting.items())})")
        warnings += _copies(here)
    for environment in sorted({str(row.run.environment) for row in evaluated}):
        names = {row.run.data_name for row in evaluated if row.run.environment == environment}
        if len(names) > 1:
            warnings.append(f"{environment}: trained on different data ({', '.join(sorted(names))}), so these are different tasks")
    for row in rows:
        warnings += _warnings_of(row)
    few = [row for row in evaluated if row.last and row.last.seeds < FEW_SEEDS]
    if few:
        fewest = min(row.last.seeds for row in few if row.last)
        covers = (
            f", their 95 % interval covers only about {COVERAGE.get(fewest)} %" if level == 0.95 else " intervals cover less than they say"
        )
        several = f"as few as {fewest} seeds: where seeds differ much{covers}"
        warnings.append(f"{'one seed: its interval covers episodes, not training' if fewest == 1 else several}; use five or more")
    if any(row.best and row.last and row.best.step != row.last.step for row in rows):
        warnings.append("best checkpoints were chosen by looking at the environment, which offline work cannot do: judge by the last")
    versions = {str(row.run.config["version"]) for row in rows if "version" in row.run.config}
    if len(versions) > 1:
        warnings.append(f"made by different versions of StitchRL ({', '.join(sorted(versions))})")
    return warnings


def _acting(run: Run) -> str:
    """How a run's policies act where they are judged."""
    told = run.config.get("evaluation") or {}
    share = f", {told['epsilon']:g} of the actions random" if told.get("epsilon") else ""
    return ("sampled" if told.get("sampled") else "by mode or mean") + share


def _copies(rows: list[Row]) -> list[str]:
    """Runs of one task that share method, data and seeds with one before them: the same numbers, pooled as though of other seeds."""
    found: list[str] = []
    known: dict[tuple[str, str, int], str] = {}
    for row in rows:
        keys = [(row.method, str(row.run.data.get("fingerprint")), int(seed)) for seed in row.run.config.get("seeds") or ()]
        if first := next((known[key] for key in keys if key in known), None):
            found.append(
                f"{row.label} has seeds of {first}, whose method and data it has too: they are pooled, and a copy counts as more seeds"
            )
        known |= {key: row.label for key in keys if key not in known}
    return found


def _warnings_of(row: Row) -> list[str]:
    found = [f"{row.label}: {note}" for note in row.run.notes]
    planned = row.run.training.get("steps")
    if row.last is None:
        found.append(f"{row.label}: was never evaluated: trained without an environment (--env); `stitchrl evaluate` prints what it earns")
    elif isinstance(planned, int) and row.last.step < planned:
        found.append(f"{row.label}: last evaluated at step {row.last.step:,} of {planned:,} planned")
    return found
