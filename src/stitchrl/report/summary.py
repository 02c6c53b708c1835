"""The scores of one run, or of several as one: last and best checkpoint side by side, with intervals (arXiv:2108.13264)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from stitchrl.core.intervals import Interval, interquartile_mean, interval, mean, scores_of
from stitchrl.report.records_reader import Array, Evaluation, Run

Measure = Literal["normalized", "return"]
FEW_SEEDS = 5
# what a nominal 95 % bootstrap interval over so few seeds covers at worst, in percent, where seeds differ much: measured and tested
COVERAGE = {2: 50, 3: 73, 4: 87}


@final
@dataclass(frozen=True)
class Score:
    """One evaluation in numbers. A seed's score is its mean over episodes; the IQM is over seeds."""

    step: int
    seeds: int
    episodes: int
    iqm: Interval
    mean: float  # over seeds
    deviation: float  # standard deviation between seeds (n - 1); NaN with one seed
    mean_return: float
    success: Interval | None  # share of episodes
    normalized: float | None  # mean over seeds
    exact_value: float | None
    believed_value: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, null for what is unknown or not finite."""
        plain = {k: v for k, v in self.__dict__.items() if not isinstance(v, Interval)}
        cleaned = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}
        return {**cleaned, "iqm": self.iqm.to_json(), "success": None if self.success is None else self.success.to_json()}


def episodes_of(evaluation: Evaluation, measure: Measure) -> Array:
    """[S, episodes] of the measure; raises KeyError where normalised scores are asked for and unknown."""
    if measure == "return":
        return evaluation.returns
    if evaluation.normalized is None:
        raise KeyError("normalized")
    return evaluation.normalized


def measure_of(runs: list[Run]) -> Measure:
    """Normalised where every evaluation of every run has it, else the plain return."""
    evaluations = [e for run in runs for e in run.evaluations]
    return "normalized" if evaluations and all(e.normalized is not None for e in evaluations) else "return"


def score(evaluation: Evaluation, measure: Measure, level: float = 0.95, seed: int = 0) -> Score:
    """The numbers of one evaluation; equal evaluations get equal intervals, whatever stands beside them."""
    generator = np.random.default_rng(seed)
    episodes = episodes_of(evaluation, measure)
    seeds = scores_of(episodes)
    success = None if evaluation.successes is None else interval([evaluation.successes], mean, generator=generator, level=level)
    return Score(
        step=evaluation.step,
        seeds=episodes.shape[0],
        episodes=episodes.shape[1],
        iqm=interval([episodes], generator=generator, level=level),
        mean=float(seeds.mean()),
        deviation=float(seeds.std(ddof=1)) if len(seeds) > 1 else math.nan,
        mean_return=float(evaluation.returns.mean()),
        success=success,
        normalized=None if evaluation.normalized is None else float(evaluation.normalized.mean()),
        exact_value=_mean(evaluation.exact_value),
        believed_value=_mean(evaluation.believed_value),
    )


def by_task(evaluation: Evaluation) -> str:
    """Returns the share of each task's episodes that succeed, mean over seeds, in words; empty where there is one task, or none is told."""
    found = evaluation.success_by_task
    return "" if found is None else ", ".join(f"{k}: {100 * share:.0f} %" for k, share in enumerate(found.mean(0).tolist(), 1))


def _mean(values: Array | None) -> float | None:
    return None if values is None or not np.isfinite(values).all() else float(values.mean())


def best_evaluation(run: Run, measure: Measure) -> Evaluation | None:
    """The evaluation with the highest IQM over seeds (one step for all seeds; the earlier of equals). Chosen by looking: optimistic."""
    if not run.evaluations:
        return None
    return max(run.evaluations, key=lambda e: float(interquartile_mean(scores_of(episodes_of(e, measure)))))


def online_episodes(run: Run) -> int:
    """Episodes in the environment that the run has used, over all seeds: its evaluations', those it learned from, and those of the run before it."""
    gathered = run.metrics["online/episodes"].values[-1].sum() if "online/episodes" in run.metrics else 0
    before = int((run.config.get("parent") or {}).get("online_episodes", 0))
    return sum(e.returns.size for e in run.evaluations) + int(gathered) + before


def short_number(value: float | None, digits: int | None = None) -> str:
    """A short number: thousands separated, about four figures; a dash where unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 3
    text = f"{value:,.{digits}f}".replace("-", "−")
    return text.removeprefix("−") if float(text.replace(",", "").replace("−", "-")) == 0 else text


def common_digits(*values: float) -> int:
    """Digits after the point that suit all these numbers alike."""
    size = max((abs(x) for x in values if math.isfinite(x)), default=0.0)
    return 0 if size >= 1000 else 1 if size >= 10 else 2


def interval_text(value: Interval | None) -> str:
    """`61.2 [55.0, 68.1]`; the estimate alone where there is no interval."""
    if value is None:
        return "–"
    digits = common_digits(value.estimate, value.low, value.high)
    if not math.isfinite(value.low):
        return short_number(value.estimate, digits)
    return "{} [{}, {}]".format(*(short_number(x, digits) for x in (value.estimate, value.low, value.high)))


def spread_text(mean_value: float, deviation: float) -> str:
    """`69.7 ± 3.4`; the mean alone where there is one seed."""
    digits = common_digits(mean_value, deviation)
    return (
        f"{short_number(mean_value, digits)} ± {short_number(deviation, digits)}"
        if math.isfinite(deviation)
        else short_number(mean_value, digits)
    )


def unbroken(text: str) -> str:
    """The text with spaces that no line breaks at, for a cell of a page."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def alarm_lines(run: Run) -> list[str]:
    """What the run doctor told during training, a sentence each; empty where nothing was wrong or nobody looked."""
    return [f"Alarm in training: {alarm.sentence}." for alarm in run.alarms or []]


def task_of(run: Run) -> str:
    """What a run was trained on and is evaluated in, in words."""
    environment = run.environment
    return run.data_name if environment is None or environment == run.data_name else f"{run.data_name} in {environment}"


# how and where a run was computed, not what it learned
_NOT_METHOD = {"compile", "compiled", "compile_reason", "device", "device_used", "threads", "log_every", "save_every", "keep_checkpoints"}


def method_labels(runs: list[Run]) -> list[str]:
    """One label a run for how it learned: the algorithm, and the settings in which runs of that algorithm differ."""
    flat = [_method(run) for run in runs]
    labels = []
    for run, settings in zip(runs, flat, strict=True):
        others = [f for other, f in zip(runs, flat, strict=True) if other.algorithm == run.algorithm]
        names = sorted({name for f in others for name in f if any(g.get(name) != f.get(name) for g in others if _comparable(name, g))})
        shown = [f"{name}={settings.get(name, 'unset')}" for name in names][:3]
        more = f", {len(names) - 3} more" if len(names) > 3 else ""
        labels.append(f"{run.algorithm} ({', '.join(shown)}{more})" if shown else run.algorithm)
    return labels


def _comparable(name: str, method: Mapping[str, Any]) -> bool:
    """Whether a setting tells a method from others: of an online phase, from those that went on online too."""
    return not name.startswith("online.") or bool(method["fine_tuned"])


def _method(run: Run) -> dict[str, Any]:
    training = {name: value for name, value in run.training.items() if name not in _NOT_METHOD}
    goals = run.config.get("goals") or {}
    online = {name: value for name, value in (run.config.get("online") or {}).items() if name != "rows_from_log"}
    of_run = {
        "goals": goals if goals.get("hindsight") else None,
        "fine_tuned": bool(run.config.get("parent")),
        "online": online,
    }
    return flatten([run.config.get("settings"), training, run.config.get("preprocessing"), of_run])


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """{dotted name: plain value} of nested settings, or of several one after another; what is null counts as unset."""
    if isinstance(value, list) and not name:
        return {k: v for part in value for k, v in flatten(part).items()}
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flatten(part, f"{name}.{key}".strip(".")).items()}
    return {} if value is None else {name: tuple(value) if isinstance(value, list) else value}


Grouped = dict[str, dict[str, Array]]  # {method: {task: [S, episodes] or [S]}}


def task_labels(runs: list[Run]) -> list[str]:
    """One label a run for its task: `task_of`, and the environment's options in which runs of that name differ."""
    options = [flatten((run.config.get("environment") or {}).get("options") or {}) for run in runs]
    labels = []
    for run, own in zip(runs, options, strict=True):
        others = [found for other, found in zip(runs, options, strict=True) if task_of(other) == task_of(run)]
        names = sorted({name for found in others for name in found if any(other.get(name) != found.get(name) for other in others)})
        shown = ", ".join(f"{name}={own.get(name, 'unset')}" for name in names)
        labels.append(f"{task_of(run)} ({shown})" if shown else task_of(run))
    return labels


def last_episodes(runs: list[Run], measure: Measure) -> Grouped:
    """{method: {task: last checkpoints}}; the seeds of several runs alike in both are pooled."""
    parts: dict[str, dict[str, list[Array]]] = {}
    for run, method, task in zip(runs, method_labels(runs), task_labels(runs), strict=True):
        if run.evaluations:
            parts.setdefault(method, {}).setdefault(task, []).append(episodes_of(run.evaluations[-1], measure))
    return {method: {task: _pooled(found) for task, found in tasks.items()} for method, tasks in parts.items()}


def _pooled(parts: list[Array]) -> Array:
    if len({part.shape[1] for part in parts}) == 1:
        return np.concatenate(parts)
    return np.concatenate([part.mean(1) for part in parts])  # numbers of episodes differ: only the seeds' scores can be drawn


def common_ground(grouped: Grouped) -> tuple[Grouped, list[str]]:
    """The methods to set against each other over tasks, and those tasks: all tasks where two methods have them all, else those shared."""
    every = list(dict.fromkeys(task for tasks in grouped.values() for task in tasks))
    complete = [method for method, tasks in grouped.items() if len(tasks) == len(every)]
    if len(complete) >= min(2, len(grouped)):
        return {m: {task: grouped[m][task] for task in every} for m in complete}, every
    shared = [task for task in every if all(task in tasks for tasks in grouped.values())]
    return ({m: {task: tasks[task] for task in shared} for m, tasks in grouped.items()}, shared) if shared else ({}, [])
