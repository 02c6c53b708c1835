"""Selectors compared on the same candidates: the expected regret of ten against all subsets, and tables of raw lines made by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from benchmarks.trust import selection_paired as paired


def test_the_regret_of_ten_is_the_mean_over_all_sets_of_ten() -> None:
    random = np.random.default_rng(0)
    scores, truth = random.normal(size=13), random.normal(size=13)
    literal = [truth[list(s)].max() - truth[s[int(np.argmax(scores[list(s)]))]] for s in itertools.combinations(range(13), 10)]
    assert paired.regret_of_ten(scores, truth) == pytest.approx(np.mean(literal))
    assert paired.regret_of_ten(truth, truth) == pytest.approx(0, abs=1e-12)


def lines(td_error: float | None = None) -> list[dict[str, Any]]:
    """15 candidates whose `fqe` is their truth and whose critics believe the reverse; the last one's td_error is given."""
    made = []
    for i in range(15):
        scores = {"fqe": float(i), "lower:fqe": i - 1.0, "td_error": float((7 * i) % 15), "likeness": float(-i % 4), "believed": -float(i)}
        made.append(
            {
                "case": "icu-sepsis",
                "candidate": ["bc", "q", "cql-1", "iql-mild", "iql-sharp"][i // 3],
                "seed": i % 3,
                "truth": float(i),
                "scores": scores,
            }
        )
    made[-1]["scores"]["td_error"] = td_error
    return made


def test_selectors_meet_on_the_candidates_that_all_can_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "_REDRAWN", 20)
    monkeypatch.setattr(paired, "_SIMULATED", 20)
    text = paired._case("icu-sepsis", lines(), 0.25)
    assert "14 of 15 candidates, 5 settings; true values over 13" in text
    rows = {row.split(" | ")[0].strip("| `"): row.split(" | ")[1:] for row in text.splitlines() if row.startswith("| ")}
    assert rows["fqe"][0] == "1.00" and rows["fqe"][2] == "0 %" and rows["fqe"][5].rstrip(" |") == "100 %"
    assert (
        rows["believed"][0] == "-1.00"
        and rows["believed"][1].startswith("-2.00 [-2.00, -2.00]")
        and rows["believed"][5].rstrip(" |") == "0 %"
    )
    sets = list(itertools.combinations(range(14), 10))  # it takes the worst of each
    assert rows["believed"][2] == f"{100 * np.mean([max(s) - min(s) for s in sets]) / 13:.0f} %"
    assert rows["the truth with the log's error"][0] == "1.00"
