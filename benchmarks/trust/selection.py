"""Every selector against the truth: rank correlation and regret over policies trained on one half of a log, judged by the other.

`OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.trust.selection --cache ../selection` scores the candidates of `selection_candidates.py`
into raw/selection.jsonl (about 15 minutes on one core); `… selection --table` makes SELECTION.md of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.trust.selection_candidates import SEEDS, SETTINGS, TASKS, halves
from benchmarks.trust.selection_paired import paired_text
from benchmarks.trust.selection_table import table_text
from stitchrl import __version__, api
from stitchrl.core.errors import DataError
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.confidence import bootstrap
from stitchrl.evaluation.critic_scores import critic_scores
from stitchrl.evaluation.doubly_robust import doubly_robust_estimators, drl
from stitchrl.evaluation.evidence import AgentTarget, Clock, Episodes, Estimate, Model, Statistic, Target
from stitchrl.evaluation.fqe import cross_fitted
from stitchrl.evaluation.importance_sampling import trajectory_estimators
from stitchrl.evaluation.marginalized import marginal_ratios
from stitchrl.evaluation.model_based import model_based_value
from stitchrl.evaluation.selection import likeness

RAW = Path("benchmarks/trust/raw/selection.jsonl")
GATES = Path("benchmarks/trust/raw/selection_gates.jsonl")
TABLE = Path("benchmarks/trust/SELECTION.md")
# name -> task, episodes to judge by (None: all of the second half), whether policies that can draw their actions do
CASES: dict[str, tuple[str, int | None, bool]] = {
    "icu-sepsis": ("icu-sepsis", None, False),
    "icu-sepsis, 500 episodes": ("icu-sepsis", 500, False),
    "icu-sepsis, sampled": ("icu-sepsis", None, True),
    "pendulum": ("pendulum", None, False),
}
JUDGED_BY = {"icu-sepsis": 0.99, "pendulum": 0.97}  # the discount; with 1, states that a policy never leaves in a thin log have no value
ROLLOUTS = 200
FQE = {"steps": 3000, "seeds": (0,)}  # of the continuous task; discrete tables are solved exactly


def estimates(dataset: Dataset, target: Target, *, discount: float, clock: Clock, level: float, seed: int) -> list[Estimate]:
    """Returns what each estimator says of a policy, not held back by any gate: the benchmark asks how well even a bad estimate ranks."""
    statistics: dict[str, Statistic] = {}
    started = time.perf_counter()
    fitted = cross_fitted(dataset, target, discount=discount, clock=clock, **FQE)  # type: ignore[arg-type]
    statistics["fqe"] = fitted.statistic
    seconds = time.perf_counter() - started
    if "behaviour_log_probabilities" in dataset.columns:
        statistics |= _weighted(dataset, target, discount, fitted.model, seed)
        ratios = marginal_ratios(dataset, target, discount=discount, clock=clock, seed=seed)
        statistics |= {"marginalized": ratios.statistic, "drl": drl(_episodes(dataset, discount), fitted.model, ratios.mu)}
    made = []
    for name, statistic in statistics.items():
        interval = bootstrap(statistic, seed=seed, resamples=500, level=level)
        if math.isfinite(statistic.point) and math.isfinite(interval.low):
            made.append(Estimate(name, statistic.point, interval, "percentile", seconds=seconds, statistic=statistic))
        else:
            made.append(Estimate.refused(name, "undefined on this log"))
    return made


def _episodes(dataset: Dataset, discount: float, ratios: Any = None) -> Episodes:
    """Returns the log's numbers as estimators read them."""
    rewards = np.asarray(dataset.rewards, np.float64)
    return Episodes(dataset.offsets, rewards, np.asarray(dataset.terminals), discount, ratios)


def _weighted(dataset: Dataset, target: Target, discount: float, model: Model, seed: int) -> dict[str, Statistic]:
    with np.errstate(invalid="ignore"):
        ratios = target.log_probabilities(dataset.observations, dataset.actions) - dataset.columns["behaviour_log_probabilities"]
    episodes = _episodes(dataset, discount, ratios)
    found = dict(trajectory_estimators(episodes))
    try:
        found |= doubly_robust_estimators(episodes, model, seed=seed)
    except DataError as error:
        print(f"{target.name}: {error}", file=sys.stderr)
    return found


def score_case(case: str, cache: Path, done: set[tuple[str, str, int]]) -> None:
    """Appends a raw line for each candidate of a case that is not there yet."""
    task, count, sampled = CASES[case]
    discount = JUDGED_BY[task]
    dataset = halves(task)[1]
    if count is not None:
        dataset = dataset.select(np.arange(count))
    for i in range(SEEDS):  # all settings of one seed first: a table can be made before the end
        for name in SETTINGS[task]:
            run = cache / task / name
            agent = api.load_policy(run)
            seed = agent.seeds[i]
            if (case, name, seed) in done:
                continue
            critic = critic_scores(run, agent, dataset)
            target = AgentTarget(agent, seed, sampled=sampled)
            started = time.perf_counter()
            made = estimates(dataset, target, discount=discount, clock="continues", level=0.9, seed=0)
            scores: dict[str, float | None] = {e.name: e.value for e in made}
            scores |= {f"lower:{e.name}": None if e.interval is None else e.interval.low for e in made}
            if task == "icu-sepsis":
                scores["model_based"] = model_based_value(dataset, target, discount=discount, clock="continues", members=1).value
            scores["likeness"] = likeness(target, dataset)
            scores["believed"] = None if critic.believed is None else critic.believed[i]
            scores["td_error"] = None if critic.td_error is None else critic.td_error[i]
            line = {"case": case, "candidate": name, "seed": seed, "truth": _truth(task, target), "scores": scores}
            line |= {"discount": discount, "logged": float(dataset.returns(discount).mean())}
            line |= {"seconds": time.perf_counter() - started, **_origin()}
            with RAW.open("a") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
            print(f"{case} {name} {seed}: {line['seconds']:.1f} s", flush=True)


def _truth(task: str, target: AgentTarget) -> float:
    """The exact value where the task is solved; elsewhere the mean over ROLLOUTS episodes, the same starts for every policy."""
    discount = JUDGED_BY[task]
    if task != "icu-sepsis":
        found = api.evaluate(target.agent, TASKS[task]["environment"], episodes=ROLLOUTS, discount=discount, sampled=target.sampled)
        return float(found.discounted_returns.mean())
    from stitchrl.environments.tasks.icu_sepsis import icu_sepsis
    from stitchrl.environments.tasks.tabular import policy_value

    mdp = icu_sepsis().mdp
    return policy_value(mdp, target.probabilities(np.arange(mdp.states)), discount=discount)


def _origin() -> dict[str, Any]:
    return {
        "fqe": {"steps": FQE["steps"], "seeds": list(FQE["seeds"]), "folds": 2},  # type: ignore[call-overload]
        "command": "python -m benchmarks.trust.selection " + " ".join("CACHE" if "/" in a else a for a in sys.argv[1:]),
        "date": datetime.date.today().isoformat(),
        "versions": {"stitchrl": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="where selection_candidates.py keeps its runs")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--table", action="store_true", help="only make SELECTION.md of the raw lines")
    a = parser.parse_args(arguments)
    if not a.table:
        lines = [json.loads(line) for line in RAW.read_text().splitlines()] if RAW.exists() else []
        done = {(line["case"], line["candidate"], line["seed"]) for line in lines}
        for case in a.cases:
            score_case(case, a.cache, done)
    lines, gates = ([json.loads(line) for line in raw.read_text().splitlines()] for raw in (RAW, GATES))
    TABLE.write_text(table_text(lines) + paired_text(lines, gates))


if __name__ == "__main__":
    main()
