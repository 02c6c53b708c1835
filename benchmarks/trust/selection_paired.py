"""Selectors compared on the same candidates, with what the redrawing of whole settings leaves open, and what the gates keep of them.

Reads the raw lines alone: selection.jsonl (every score, no gate) and selection_gates.jsonl (the same policies as `stitchrl select` sees them).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.trust.selection_candidates import SETTINGS
from stitchrl.evaluation.selection_metrics import expected_online_performance, order, rank, rank_correlation, regret_at

Lines = list[dict[str, Any]]
FIRST, BOTH, CEILING = "fqe", "fqe + td_error", "the truth with the log's error"
COMPARED = (FIRST, "lower:fqe", "td_error", BOTH, "likeness", "believed", "drl", "marginalized", "model_based")
EVERYWHERE = (FIRST, "lower:fqe", "td_error", BOTH, "likeness", "believed")  # scored in every case
_OF, _REDRAWN, _SIMULATED = 10, 1000, 400

_HEAD = f"""
## The same candidates, paired

Above, selectors that score fewer candidates are compared on fewer. Here all of a case's selectors rank the candidates that all of them can score
(those with a critic). `fqe + td_error`: the mean of the two ranks. Differences are to `fqe` on the same candidates, [95 % interval] by drawing whole
settings again, the same draws for both. regret@1 of 10: what the first of 10 candidates loses to their best, the mean over all sets of 10, in % of
the range of the true values; "errors": the same in standard errors of the log's own mean return, which is what any estimate from this log is
unsure by at the least. "told apart": of the pairs whose true values differ by more than two such errors, the share ordered right.
"{CEILING}": a selector that knows the truth up to an independent error of that size; more is luck.
"""

_GATED_HEAD = """
## With the gates of `stitchrl select`

The scores above are not held back. `stitchrl select` ranks a candidate only where its estimate stands; these are the same policies with its gates
(raw/selection_gates.jsonl, by `python -m benchmarks.trust.selection_gates`).{partly}
RMSE: of ungated `fqe`. never ends: the chance that the policy, in the task that the log's steps make up, comes to states from which none of
its logged steps leads to an end; fitted values give such states one more step, the log's average one.

| case | estimable | RMSE: estimable | refused | never ends: estimable | refused | Spearman: all | estimable | \
best estimable loses | first of `fqe` loses | the log loses |
|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
"""

_LEFT_HEAD = """
## Choosing the selector from the other cases

The selector with the least regret@1 of 10 on the other cases (paired candidates; those of all cases), and what it loses on the one left out. The
three ICU-Sepsis cases share policies, so each is also left out together with the others: one task decides for the other.

| left out | chosen by the others | its regret@1 of 10 there | `fqe`'s there | the best in hindsight |
|---|---|---:|---:|---|
"""

_FAMILY_HEAD = """
## Within and between algorithms

The share of pairs ordered right, ties half: pairs of two settings of one algorithm, and pairs of two algorithms (the paired candidates). A
critic's own error compares losses of different algorithms; where it ranks algorithms and not settings, it knows the algorithm's name.

| case | `fqe`: within | between | `td_error`: within | between | pairs within, between |
|---|---:|---:|---:|---:|---|
"""

_SO = """
## The default

It stays `fqe`, with its gates. No other selector is better beyond what the redrawing of settings leaves open: every interval of a difference of
regret holds 0 but those of selectors that are worse. `td_error` and `fqe + td_error` lose less than `fqe` in two of the three cases of ICU-Sepsis
and more on pendulum; the three cases share their policies and critics and are one observation, not three, and what one task chooses is
wrong for the other (last line of the choice from other cases). `td_error` cannot score policies without a critic, and among settings of one
algorithm it orders ICU-Sepsis no better than a coin where `fqe` orders 51 to 78 % right: what it knows more is which algorithm made the critic.

Why ungated `fqe` ranks ICU-Sepsis poorly: its errors (RMSE 0.02) are as large as the spread of the true values (0.04 from the worst to the best).
What the greedy policies of Q-learning, weak CQL and sharp IQL do was logged once or twice, and where these steps close into loops their values
are assumed. (Until these loops were loosened they counted as worth 0, and the error was six times as large; the order was as poor.) A log of
5,000 episodes could tell the policies apart (the last row of each case), these estimates of it cannot. The gates refuse nearly all of these
candidates, so that `stitchrl select` says that the log cannot tell, where every selector here would have named a first.
"""


def paired_text(lines: Lines, gates: Lines) -> str:
    """Returns the sections of SELECTION.md that compare selectors on the same candidates."""
    cases = {case: [line for line in lines if line["case"] == case] for case in dict.fromkeys(line["case"] for line in lines)}
    errors = {line["case"]: line["logged_error"] for line in gates if line["candidate"] is None}
    parts = [_HEAD, *(_case(case, own, errors.get(case, math.nan)) for case, own in cases.items())]
    parts += [
        _LEFT_HEAD + "\n".join(_left_out(cases)) + "\n",
        _FAMILY_HEAD + "\n".join(_families(case, own) for case, own in cases.items()) + "\n",
    ]
    return "\n".join([*parts, _gated_text(cases, [line for line in gates if line["candidate"] is not None])])


def _scores(lines: Lines, name: str) -> np.ndarray:
    if name == BOTH:
        return -sum(rank(_scores(lines, part)) for part in (FIRST, "td_error"))  # type: ignore[return-value]
    return np.array([math.nan if line["scores"].get(name) is None else line["scores"][name] for line in lines])


def _same(lines: Lines) -> Lines:
    """The candidates that every compared selector can score."""
    return [line for line in lines if all(line["scores"].get(name) is not None for name in EVERYWHERE if name != BOTH)]


def _truth(lines: Lines) -> np.ndarray:
    return np.array([line["truth"] for line in lines])


def regret_of_ten(scores: np.ndarray, truth: np.ndarray) -> float:
    """Returns the mean over all sets of 10 candidates of what the one with the highest score loses to their best; ties in the given order."""
    count = len(truth)
    first = np.array([math.comb(count - 1 - place, _OF - 1) / math.comb(count, _OF) for place in range(count)])
    return float(expected_online_performance(truth)[_OF - 1] - first @ truth[order(scores)])


def _redrawn(lines: Lines, of: Callable[[np.ndarray, np.ndarray], float], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """name -> `[R]` of a number in redrawn settings, the same draws for every selector; ranks of two selectors are made within the draw."""
    generator, settings = np.random.default_rng(0), np.array([line["candidate"] for line in lines])
    kinds = np.unique(settings)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(_REDRAWN):
        rows = [lines[i] for name in generator.choice(kinds, len(kinds)) for i in np.flatnonzero(settings == name)]
        for name in names:
            found[name].append(of(_scores(rows, name), _truth(rows)))
    return {name: np.array(values) for name, values in found.items()}


def _case(case: str, lines: Lines, error: float) -> str:
    own = _same(lines)
    truth = _truth(own)
    spread, apart = float(np.ptp(truth)), _apart(truth, 2 * error)
    names = tuple(name for name in COMPARED if all(np.isfinite(_scores(own, name))))
    correlations = _redrawn(own, lambda s, t: rank_correlation(s, t).spearman, names)
    regrets = _redrawn(own, lambda s, t: 100 * regret_of_ten(s, t) / spread, names)
    rows = []
    for name in names:
        scores, lost = _scores(own, name), regret_of_ten(_scores(own, name), truth)
        spearman = rank_correlation(scores, truth).spearman
        against = ["", ""] if name == FIRST else [
            _difference(spearman - rank_correlation(_scores(own, FIRST), truth).spearman, correlations[name] - correlations[FIRST], 2),
            _difference(100 * (lost - regret_of_ten(_scores(own, FIRST), truth)) / spread, regrets[name] - regrets[FIRST], 0),
        ]  # fmt: skip
        rows.append(
            [
                f"`{name}`",
                f"{spearman:.2f}",
                against[0],
                f"{100 * lost / spread:.0f} %",
                against[1],
                f"{lost / error:.1f}",
                _right(scores, truth, apart),
            ]
        )
    rows.append(["at random", "0", "", f"{100 * _by_chance(truth) / spread:.0f} %", "", f"{_by_chance(truth) / error:.1f}", "50 %"])
    rows.append(_ceiling(truth, error, apart, spread))
    few = f"{len(own)} of {len(lines)} candidates, {len({line['candidate'] for line in own})} settings; true values over {spread:.3g}"
    noise = f"standard error of the log's mean {error:.2g}; {100 * apart.mean():.0f} % of the pairs are more than two apart"
    about = f"\n### {case}\n\n{few}, {noise}.\n\n"
    head = "| selector | Spearman | minus `fqe`'s | regret@1 of 10 | minus `fqe`'s | errors | told apart |\n|---|---:|---|---:|---|---:|---:|\n"
    return about + head + "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"


def _apart(truth: np.ndarray, gap: float) -> np.ndarray:
    """bool `[pairs]`, of all pairs i < j"""
    i, j = np.triu_indices(len(truth), 1)
    return np.abs(truth[i] - truth[j]) > gap


def _signs(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """`[pairs]`: 1 where a pair is ordered right, 1/2 where the scores are equal, 0 else"""
    i, j = np.triu_indices(len(truth), 1)
    return (np.sign(scores[i] - scores[j]) * np.sign(truth[i] - truth[j]) + 1) / 2


def _right(scores: np.ndarray, truth: np.ndarray, pairs: np.ndarray) -> str:
    return f"{100 * _signs(scores, truth)[pairs].mean():.0f} %" if pairs.any() else "–"


def _difference(value: float, drawn: np.ndarray, digits: int) -> str:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def _by_chance(truth: np.ndarray) -> float:
    return float(expected_online_performance(truth)[_OF - 1] - truth.mean())


def _ceiling(truth: np.ndarray, error: float, apart: np.ndarray, spread: float) -> list[str]:
    drawn = truth + error * np.random.default_rng(0).standard_normal((_SIMULATED, len(truth)))
    spearman = np.mean([rank_correlation(scores, truth).spearman for scores in drawn])
    lost = float(np.mean([regret_of_ten(scores, truth) for scores in drawn]))
    right = np.mean([_signs(scores, truth)[apart].mean() for scores in drawn]) if apart.any() else math.nan
    return [CEILING, f"{spearman:.2f}", "", f"{100 * lost / spread:.0f} %", "", f"{lost / error:.1f}", f"{100 * right:.0f} %"]


def _left_out(cases: dict[str, Lines]) -> list[str]:
    lost = {}
    for case, lines in cases.items():
        own = _same(lines)
        lost[case] = {name: 100 * regret_of_ten(_scores(own, name), _truth(own)) / float(np.ptp(_truth(own))) for name in EVERYWHERE}
    icu = [case for case in cases if case.startswith("icu")]
    rows = []
    for out in [*([case] for case in cases), icu]:
        others = [case for case in cases if case not in out]

        def mean(name: str, those: list[str]) -> float:
            return float(np.mean([lost[case][name] for case in those]))

        chosen = min(EVERYWHERE, key=lambda name: mean(name, others))
        best = min(EVERYWHERE, key=lambda name: mean(name, out))
        what = out[0] if len(out) == 1 else "all of icu-sepsis"
        rows.append(f"| {what} | `{chosen}` | {mean(chosen, out):.0f} % | {mean(FIRST, out):.0f} % | `{best}`, {mean(best, out):.0f} % |")
    return rows


def _families(case: str, lines: Lines) -> str:
    own = _same(lines)
    task = case.split(",")[0]
    algorithm, setting = (
        np.array([of(line) for line in own]) for of in (lambda x: SETTINGS[task][x["candidate"]][0], lambda x: x["candidate"])
    )
    i, j = np.triu_indices(len(own), 1)
    within, between = (algorithm[i] == algorithm[j]) & (setting[i] != setting[j]), algorithm[i] != algorithm[j]
    cells = [_right(_scores(own, name), _truth(own), pairs) for name in (FIRST, "td_error") for pairs in (within, between)]
    return f"| {case} | " + " | ".join(cells) + f" | {within.sum()}, {between.sum()} |"


def _gated_text(cases: dict[str, Lines], gates: Lines) -> str:
    rows, partly = [], ""
    for case, lines in cases.items():
        by_name = {(g["candidate"], g["seed"]): g for g in gates if g["case"] == case}
        if len(by_name) == len(lines):
            rows.append(_gated_row(case, lines, [by_name[line["candidate"], line["seed"]] for line in lines]))
        elif by_name:
            kept = sum(g["scores"][FIRST] is not None for g in by_name.values())
            partly += f" {case}: only {len(by_name)} candidates were run, with quick estimates; {kept} of them are estimable."
    return _GATED_HEAD.replace("{partly}", partly) + "\n".join(rows) + "\n" + _SO


def _gated_row(case: str, lines: Lines, gates: Lines) -> str:
    truth, plain = _truth(lines), _scores(lines, FIRST)
    gated = np.array([math.nan if g["scores"][FIRST] is None else g["scores"][FIRST] for g in gates])
    never = np.array([g["never_ends"] for g in gates])
    kept, spread = np.isfinite(gated), float(np.ptp(truth))

    def error(rows: np.ndarray) -> str:
        return f"{math.sqrt(np.mean((plain[rows] - truth[rows]) ** 2)):.2g}" if rows.any() else "–"

    def mean(rows: np.ndarray) -> str:
        return f"{100 * never[rows].mean():.1f} %" if rows.any() else "–"

    names = list(dict.fromkeys(line["candidate"] for line, k in zip(lines, kept, strict=True) if k))
    within = rank_correlation(gated, truth).spearman
    cells = [
        f"{kept.sum()}/{len(kept)}" + (f": {', '.join(names)}" if names else ""), error(kept), error(~kept), mean(kept), mean(~kept),
        f"{rank_correlation(plain, truth).spearman:.2f}", f"{within:.2f}" if math.isfinite(within) else "–",
        f"{100 * (truth.max() - truth[kept].max()) / spread:.0f} %" if kept.any() else "–",
        f"{100 * regret_at(1, gated, truth, normalised=True):.0f} %" if kept.any() else "–",
        f"{100 * (truth.max() - lines[0]['logged']) / spread:.0f} %",
    ]  # fmt: skip
    return f"| {case} | " + " | ".join(cells) + " |"
