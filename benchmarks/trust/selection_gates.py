"""What the gates of `stitchrl select` leave of the selection benchmark's ICU-Sepsis candidates, and what fitted values get wrong there.

`OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.trust.selection_gates --cache ../selection` appends to raw/selection_gates.jsonl (a minute
or two a case on one core; pendulum, whose values are networks: the first seed of each setting, quick estimates, half a minute each).
"""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import splu

from benchmarks.trust.selection import CASES, GATES, JUDGED_BY
from benchmarks.trust.selection_candidates import SEEDS, SETTINGS, halves
from stitchrl import __version__, api
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.counted_task import count_task, leads_to
from stitchrl.evaluation.crossfit import folds_of, parts, read_steps
from stitchrl.evaluation.estimates import How, judge
from stitchrl.evaluation.evidence import AgentTarget


def trapped(dataset: Dataset, target: AgentTarget, discount: float) -> dict[str, float]:
    """Returns, of the counted task of two folds as in `cross_fitted`: `never_ends`, the chance to come to states from which no logged step of the
    policy leads to an end."""
    log = read_steps(dataset, discount, "continues")
    policy = target.probabilities(np.arange(dataset.spec.observation.n))  # type: ignore[union-attr]
    observations, fold = np.asarray(dataset.observations), folds_of(dataset, 2, 0)
    never = []
    for fit, judged in parts(fold, dataset.lengths):
        weights = fit.astype(np.float64)
        task = count_task(dataset.spec, observations, np.asarray(dataset.actions), log.rewards, log.following, log.ends, weights)
        table = np.concatenate([policy, np.full((1, policy.shape[1]), 1 / policy.shape[1])])
        chain, reward = task.chain(table)
        ending = 1 - np.asarray(chain.sum(1)).reshape(-1)
        able = leads_to(chain, ending > 1e-9)
        reached = np.zeros(len(reward))
        reached[able] = splu(csr_array(eye_array(int(able.sum())) - chain[able][:, able]).tocsc()).solve(ending[able])
        start = task.place[observations[log.first[judged[log.first]]]]
        never.append(1 - reached[start].mean())
    return {"never_ends": float(np.mean(never))}


def log_line(case: str, dataset: Dataset) -> dict[str, Any]:
    """Returns what a log of a case can tell at best: the standard error of its own mean return."""
    returns = dataset.returns(JUDGED_BY[CASES[case][0]])
    error = float(returns.std(ddof=1) / np.sqrt(len(returns)))
    return {
        "case": case,
        "candidate": None,
        "episodes": dataset.episodes,
        "logged": float(returns.mean()),
        "logged_error": error,
        **_made_by(),
    }


def _made_by() -> dict[str, Any]:
    versions = {"stitchrl": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "command": "python -m benchmarks.trust.selection_gates --cache CACHE",
        "date": datetime.date.today().isoformat(),
        "versions": versions,
    }


def gate_case(case: str, cache: Path, done: set[tuple[str, str | None, int | None]]) -> None:
    """Appends a line for the log of a case and for each candidate that is not there yet."""
    task, count, sampled = CASES[case]
    dataset = halves(task)[1]
    dataset = dataset if count is None else dataset.select(np.arange(count))
    tabular = task == "icu-sepsis"
    if (case, None, None) not in done:
        _write(log_line(case, dataset))
    for name in SETTINGS[task]:
        agent = api.load_policy(cache / task / name)
        for seed in agent.seeds[: SEEDS if tabular else 1]:
            if (case, name, seed) not in done:
                target = AgentTarget(agent, seed, sampled=sampled)
                made = judge(dataset, target, How(JUDGED_BY[task], "continues", 0.9, 0, quick=not tabular))
                line: dict[str, Any] = {"case": case, "candidate": name, "seed": seed, "gates": made.gates, "quick": not tabular}
                line["scores"] = {e.name: e.value for e in made.estimates}
                line["scores"] |= {f"lower:{e.name}": None if e.interval is None else e.interval.low for e in made.estimates}
                line["unlogged"] = None if made.fitted is None else made.fitted.diagnostics.get("unlogged_share")
                _write(line | (trapped(dataset, target, JUDGED_BY[task]) if tabular else {}) | _made_by())


def _write(line: dict[str, Any]) -> None:
    with GATES.open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="where selection_candidates.py keeps its runs")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    a = parser.parse_args()
    lines = [json.loads(line) for line in GATES.read_text().splitlines()] if GATES.exists() else []
    for case in a.cases:
        gate_case(case, a.cache, {(line["case"], line["candidate"], line.get("seed")) for line in lines})


if __name__ == "__main__":
    main()
