"""A selection of policies as one HTML page and as words, from its JSON alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from stitchrl.report.page import INK, Section, box, drawing, figure, page, paragraph, plain, table, tiles
from stitchrl.report.summary import short_number, unbroken

INFORMATION = ("td_error", "likeness")  # told of candidates that are not ranked
_CURVE = (1, 2, 3, 5, 10, 20, 50, 100)


def ranking_rows(selection: dict[str, Any]) -> list[list[str]]:
    """Returns a row for each candidate with a score: place, name, score, estimate with interval, difference, how often first."""
    rows = []
    for place, c in enumerate((c for c in selection["candidates"] if c["score"] is not None), 1):
        share = c["best_share"]
        rows.append(
            [
                str(place),
                plain(c["name"]),
                short_number(c["score"]),
                "not estimable" if c["not_estimable"] else _interval_text(c["interval"]),
                _interval_text(c["difference_to_logged"]),
                "–" if share is None else f"{100 * share:.0f} %",
            ]
        )
    return rows


def refused_rows(selection: dict[str, Any]) -> list[list[str]]:
    """Returns a row for each candidate without a score, in the order given: name, what INFORMATION names, and why it is not ranked."""
    return [
        [plain(c["name"]), *(short_number(c["scores"].get(name)) for name in INFORMATION), _why(c, selection)]
        for c in selection["candidates"]
        if c["score"] is None
    ]


def _why(candidate: dict[str, Any], selection: dict[str, Any]) -> str:
    reason = candidate["not_estimable"]
    return f"not estimable: {plain(reason)}" if reason else f"the selector '{plain(selection['selector'])}' gives it no score"


def curve_rows(selection: dict[str, Any]) -> list[tuple[int, str, str]]:
    """Returns (k, at random, in this order) for a few numbers of online trials."""
    curve = selection["expected_online_performance"]
    pairs = list(zip(curve["at_random"], curve["in_this_order"], strict=True))
    return [
        (k, short_number(pairs[k - 1][0]), short_number(pairs[k - 1][1]))
        for k in sorted({*(k for k in _CURVE if k < len(pairs)), len(pairs)} - {0})
    ]


def verdict_words(selection: dict[str, Any]) -> list[str]:
    """Returns sentences: what is chosen, what it is worth once the choice is accounted for, how much better another may be."""
    if selection["chosen"] is None:
        return [f"Nothing can be chosen: no candidate has a score by '{selection['selector']}'."]
    words = [f"Chosen by {selection['selector']}: {plain(selection['chosen'])}."]
    if sum(c["score"] is not None for c in selection["candidates"]) == 1:
        words = [f"Only {plain(selection['chosen'])} can be judged from these data; nothing can be said for or against the others."]
    curse = selection["winners_curse"]
    if curse is not None:
        words.append(
            f"The highest estimate is {short_number(curse['naive'])}; chosen on one half of the episodes and estimated on the other it is "
            f"{_interval_text(curse['honest'])}: trust the second."
        )
    for k, bound in selection["regret_bounds"].items():
        what = "the first candidate" if k == "1" else f"the best of the first {k} candidates"
        words.append(
            f"Regret@{k}: {what} may be up to {short_number(bound['high'])} worse than the best of all (plug-in {short_number(bound['estimate'])}; "
            f"{100 * bound['level']:g} % for all differences at once)."
        )
    refused = [c for c in selection["candidates"] if c["score"] is None]
    if refused:
        words.append(
            f"{len(refused)} of {len(selection['candidates'])} candidates are not ranked: nothing here says that they are worse, or better."
        )
    agreement = {name: value for name, value in selection["agreement_with_truth"].items() if value is not None}
    if agreement:
        words.append("Against the recorded values: " + ", ".join(f"{name} {value:.3g}" for name, value in agreement.items()) + ".")
    return words


def provenance_words(selection: dict[str, Any]) -> str:
    """Returns how many online evaluations these candidates have behind them; 0 only where the runs' files say so."""
    runs = {p["run"]: p for c in selection["candidates"] if (p := c["provenance"]) is not None}
    counts = [p["online_episodes"] for p in runs.values()]
    unknown = sum(count is None for count in counts)
    known = sum(count for count in counts if count is not None) - _counted_twice(list(runs.values()))
    used = sum(p["evaluations"] for p in runs.values())
    learning = " and in learning online" if any(p.get("parent") for p in runs.values()) else ""
    if not counts or unknown == len(counts):
        text = "Provenance: the files do not tell whether these policies were evaluated online before; do not call this an offline choice."
    elif unknown:
        text = f"Provenance: {known:,} online episodes are recorded, and for {unknown} of {len(counts)} runs the files do not tell."
    elif known:
        text = (
            f"Provenance: {known:,} online episodes in {used} evaluations{learning} stand behind these {len(counts)} runs. This ranking did not read "
            "them; if anyone looked at them when settings or runs were picked, the choice is not offline."
        )
    else:
        text = f"Provenance: 0 online episodes were used by these {len(counts)} runs and by this ranking."
    if any(p["same_data"] for p in runs.values()):
        text += " Some runs were trained on the very log that judges them here: their estimates lean upwards; judge by episodes held back."
    return text


def _counted_twice(runs: list[dict[str, Any]]) -> int:
    """Episodes of runs that others went on from, which count them as theirs: all but once of each."""
    own = {Path(p["run"]).resolve() for p in runs if p["online_episodes"] is not None}
    taken: dict[Path, list[int]] = {}
    for p in runs:
        if p.get("parent") is not None:
            taken.setdefault(Path(p["parent"]).resolve(), []).append(p["parent_episodes"])
    return sum(sum(counts) - (0 if parent in own else max(counts)) for parent, counts in taken.items())


def selection_page(selection: dict[str, Any]) -> str:
    """Returns the whole HTML page of a selection's JSON."""
    candidates = selection["candidates"]
    words = verdict_words(selection)
    kind = "good" if sum(c["score"] is not None for c in candidates) > 1 else "warning"
    heading = ["", "candidate", f"score by {selection['selector']}", "estimate", "difference to the log", "first in redrawn logs"]
    rows = [[cell if k in (1, 3) else unbroken(cell) for k, cell in enumerate(row)] for row in ranking_rows(selection)]
    about = f"Estimates by {selection['estimator']}, discount {selection['discount']:g}, {100 * selection['level']:g} % intervals."
    first = box(kind, words[0], *words[1:], "")
    first += tiles([("candidates", len(candidates)), ("estimable", sum(c["not_estimable"] is None for c in candidates))])
    sections = [
        Section("The choice", first + box("note", provenance_words(selection))),
        Section("Ranking", paragraph(about) + table(heading, rows, label="ranking")),
    ]
    if refused := refused_rows(selection):
        told = (
            "In the order given, with why. A critic's temporal-difference error (0 is best) and how much a policy acts as the log does are "
            "information: in our own comparison neither ranked policies in every task, so nothing is ranked by them here."
        )
        cells = [[unbroken(cell) if k < 3 else cell for k, cell in enumerate(row)] for row in refused]
        sections.append(Section("Not ranked", paragraph(told) + table(["candidate", *INFORMATION, "why"], cells, label="not ranked")))
    curve = selection["expected_online_performance"]
    if curve["at_random"]:
        source = "" if curve["from"] == "true values" else " From estimates, whose maximum leans upwards: read it as a hope, not a bound."
        caption = "Value of the best policy tried, by the number of online trials (arXiv:2110.04156)." + source
        drawn = figure(_curve(curve), caption, "Expected online performance by number of trials")
        lines: list[list[object]] = [[k, random, ordered] for k, random, ordered in curve_rows(selection)]
        sections.append(Section("If you can afford k online trials", drawn + table(["k", "picked at random", "in this order"], lines)))
    if selection["notes"]:
        sections.append(Section("Notes", "".join(paragraph(note) for note in selection["notes"])))
    named = sorted({name for c in candidates for name in c["scores"]})
    estimators = list(dict.fromkeys(e["estimator"] for c in candidates for e in c["estimates"]))
    cells = [
        [plain(c["name"]), *(_value(c, name) for name in estimators), *(short_number(c["scores"].get(name)) for name in named)]
        for c in candidates
    ]
    sections.append(Section("All scores", table(["candidate", *estimators, *named], cells, label="all scores")))
    return page("Which policy?", sections)


def _value(candidate: dict[str, Any], name: str) -> str:
    found = next((e for e in candidate["estimates"] if e["estimator"] == name), None)
    return "–" if found is None else "not estimable" if found["not_estimable"] else short_number(found["value"])


def _interval_text(value: dict[str, Any] | None) -> str:
    """`0.739 [0.722, 0.755]`: as many digits as small differences between candidates need."""
    if value is None:
        return "–"
    sizes = [abs(value[key]) for key in ("estimate", "low", "high") if value[key] is not None]
    digits = max(0, min(4, 3 - math.floor(math.log10(max(*sizes, 1e-9)))) - 1)
    estimate, low, high = (short_number(value[key], digits) for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _curve(curve: dict[str, Any]) -> str:
    with drawing() as drawn:
        axes = drawn.axes
        trials = range(1, len(curve["at_random"]) + 1)
        axes.plot(trials, curve["in_this_order"], color="#0072B2", marker="o", markersize=3, label="in this order")
        axes.plot(trials, curve["at_random"], color="#D55E00", linestyle="--", label="picked at random")
        axes.set_xlabel("online trials")
        axes.set_ylabel("value of the best tried")
        axes.grid(alpha=0.15, color=INK)
        axes.legend(frameon=False)
    return drawn.svg
