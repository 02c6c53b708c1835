"""SELECTION.md: how well each selector ranks the candidates of the selection benchmark."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stitchrl.evaluation.selection_metrics import rank_correlation, regret_at, sharpe_ratio_at

_SUBSET, _SUBSETS = 10, 1000
_CHANCE = "at random"  # equal scores: ties count as the mean over all ways to break them
_HEAD = """# Selectors against the truth

Policies of the foundation's algorithms × settings × 3 seeds, trained on one half of a log's episodes, judged by the other half alone.
Truth: ICU-Sepsis solved exactly (discount 0.99; trained with 1); pendulum by 200 rollouts of each policy (discount 0.97).
Estimators are not held back by any gate here.
Made by `python -m benchmarks.trust.selection --table` from raw/selection.jsonl, which holds settings, versions and dates.

- Spearman: over the candidates with a score, [95 % interval] by drawing whole settings again (3 seeds of a setting are much alike).
- regret@k: best true value minus the best among the k highest scores; ties by their mean. "%": of the range of the true values.
- of 10: mean normalised regret@1 and @3 over 1,000 random sets of 10 of the candidates: less a matter of one lucky first place.
- SharpeRatio@3: with the logged behaviour as a candidate of its measured value (only selectors on the scale of values).
- RMSE: of the estimates themselves against the truth. A selector may rank by what is wrong with it: on ICU-Sepsis every return lies in
  0 … 1, and `drl` and `marginalized` give values up to 9 there; where they rank well it is not because they are right.
- "at random": all scores equal, the mean over all orders: what a selector that knows nothing loses.
- scored: candidates that the selector could score. Without a value of its own: behaviour cloning for `believed` and `td_error`;
  a deterministic policy of continuous actions for the importance-weighted ones, which are therefore absent for pendulum.
"""


def table_text(lines: list[dict[str, Any]]) -> str:
    """Returns the whole file."""
    lines = [line | {"scores": line["scores"] | {_CHANCE: 0.0}} for line in lines]
    parts = [_HEAD]
    for case in dict.fromkeys(line["case"] for line in lines):
        own = [line for line in lines if line["case"] == case]
        parts.append(_case_text(case, own))
    parts.insert(1, _summary(lines))
    return "\n".join(parts)


def _summary(lines: list[dict[str, Any]]) -> str:
    """One row a selector: normalised regrets of 10 and Spearman in each case, and their means over the cases that it could score."""
    cases = list(dict.fromkeys(line["case"] for line in lines))
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for case in cases:
        own = [line for line in lines if line["case"] == case]
        truth = np.array([line["truth"] for line in own])
        for name in own[0]["scores"]:
            scores = np.array([math.nan if line["scores"][name] is None else line["scores"][name] for line in own])
            if np.isfinite(scores).any():
                values = (_of_subsets(scores, truth, 1), _of_subsets(scores, truth, 3), rank_correlation(scores, truth).spearman)
                found.setdefault(name, {})[case] = values
    rows = []
    for name, by_case in found.items():
        mean = np.mean(list(by_case.values()), 0)
        cells = [f"{100 * by_case[c][0]:.0f} % / {_number(by_case[c][2])}" if c in by_case else "–" for c in cases]
        rows.append((-len(by_case), mean[0], [f"`{name}`", *cells, f"{100 * mean[0]:.0f} %", f"{100 * mean[1]:.0f} %", _number(mean[2])]))
    rows.sort(key=lambda row: row[:2])
    titles = ["selector", *cases, "mean @1", "mean @3", "mean Spearman"]
    head = "| " + " | ".join(titles) + " |\n|---|" + "---:|" * (len(cases) + 3) + "\n"
    lead = "\n## All cases\n\nNormalised regret@1 of 10 / Spearman; those that can score in most cases first.\n\n"
    return lead + head + "\n".join("| " + " | ".join(cells) + " |" for _, _, cells in rows) + "\n"


def _case_text(case: str, lines: list[dict[str, Any]]) -> str:
    truth = np.array([line["truth"] for line in lines])
    settings = np.array([line["candidate"] for line in lines])
    logged = float(np.mean([line["logged"] for line in lines]))
    names = [n for n in lines[0]["scores"] if any(line["scores"][n] is not None for line in lines)]
    rows = []
    for name in names:
        scores = np.array([math.nan if line["scores"][name] is None else line["scores"][name] for line in lines])
        rows.append((_sort_key(scores, truth), _row(name, scores, truth, settings, logged)))
    rows.sort(key=lambda row: row[0])
    by_chance = 100 * (truth.max() - truth.mean()) / np.ptp(truth)
    first = (
        f"\n## {case}\n\n{len(lines)} candidates, true values {truth.min():.4g} to {truth.max():.4g} (mean {truth.mean():.4g}), "
        f"the log {logged:.4g}. One picked at random: normalised regret {by_chance:.0f} %.\n\n"
    )
    titles = ["selector", "scored", "Spearman", "Kendall", "regret@1", "regret@3", "of 10: @1", "of 10: @3", "SharpeRatio@3", "RMSE"]
    head = "| " + " | ".join(titles) + " |\n|---|---:|---|" + "---:|" * 7 + "\n"
    return first + head + "\n".join(row for _, row in rows) + "\n"


def _sort_key(scores: np.ndarray, truth: np.ndarray) -> tuple[bool, float]:
    return bool(np.isfinite(scores).mean() < 1), _of_subsets(scores, truth, 1)


def _row(name: str, scores: np.ndarray, truth: np.ndarray, settings: np.ndarray, logged: float) -> str:
    found = rank_correlation(scores, truth)
    low, high = _interval(scores, truth, settings)
    on_scale = name not in ("likeness", "td_error", _CHANCE)
    sharpe = sharpe_ratio_at(3, [*scores, logged], [*truth, logged], len(truth)) if on_scale else math.nan
    cells = [
        f"`{name}`", f"{found.used}/{len(scores)}", f"{_number(found.spearman)} [{_number(low)}, {_number(high)}]", _number(found.kendall),
        *(f"{regret_at(k, scores, truth):.3g} ({100 * regret_at(k, scores, truth, normalised=True):.0f} %)" for k in (1, 3)),
        *(f"{100 * _of_subsets(scores, truth, k):.0f} %" for k in (1, 3)), _number(sharpe),
        f"{math.sqrt(np.nanmean((scores - truth) ** 2)):.3g}" if on_scale and not name.startswith("lower:") else "–",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _of_subsets(scores: np.ndarray, truth: np.ndarray, k: int) -> float:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(_SUBSETS):
        rows = generator.permutation(len(truth))[:_SUBSET]
        if np.isfinite(scores[rows]).any():
            found.append(regret_at(k, scores[rows], truth[rows], normalised=True))
    return float(np.mean(found))


def _interval(scores: np.ndarray, truth: np.ndarray, settings: np.ndarray) -> tuple[float, float]:
    generator, names = np.random.default_rng(0), np.unique(settings)
    drawn = []
    for _ in range(1000):
        rows = np.concatenate([np.flatnonzero(settings == name) for name in generator.choice(names, len(names))])
        drawn.append(rank_correlation(scores[rows], truth[rows]).spearman)
    kept = np.array(drawn)[np.isfinite(drawn)]
    return (float(np.quantile(kept, 0.025)), float(np.quantile(kept, 0.975))) if len(kept) > 500 else (math.nan, math.nan)


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "–"
