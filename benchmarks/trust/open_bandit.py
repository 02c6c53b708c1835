"""A real log with true propensities: the Open Bandit Dataset's women's campaign, logged by a random and by a Thompson-sampling policy.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/trust/open_bandit.py --data ../shared/data/real --obp /tmp/obp/bin/python
    python benchmarks/trust/open_bandit.py --table         # writes OPEN_BANDIT.md from raw/open_bandit.json

--obp: a Python that has obp (`python -m venv /tmp/obp; /tmp/obp/bin/pip install --no-deps obp==0.4.1 seaborn`); what else it needs is
taken from this environment. Data: Saito et al., 2020, arXiv:2008.07146, small sample, CC BY 4.0.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.stats import binomtest

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Spec
from stitchrl.core.version import VERSION
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources import read
from stitchrl.data.sources.tables import TableSchema
from stitchrl.evaluation.evidence import Target

Array = np.ndarray[Any, np.dtype[Any]]

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "open_bandit.json", HERE / "OPEN_BANDIT.md"
ITEMS, POSITIONS, SEED = 46, 3, 0
LOGS = {"random": "obd_random_women.csv.gz", "bts": "obd_bts_women.csv.gz"}
CASES = {  # case: log, policy, the log whose mean click rate is the truth
    "bts from random": ("random", "shares", "bts"),
    "bts (mean propensities) from random": ("random", "propensities", "bts"),
    "bts (obp's prior) from random": ("random", "prior", "bts"),
    "random from bts": ("bts", "uniform", "random"),
    "random from random": ("random", "uniform", "random"),
}
SAME = (("is", "ipw"), ("wis", "snipw"))


@final
class PositionPolicy(Target):
    """Items drawn by a table `[positions, items]` that looks at the position alone: the first columns of an observation."""

    def __init__(self, table: Array, spec: Spec, name: str) -> None:
        self.table, self.spec, self.name, self.deterministic = table, spec, name, False

    def probabilities(self, observations: Array) -> Array:
        return np.asarray(self.table[positions_of(observations)])

    def log_probabilities(self, observations: Array, actions: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.table[positions_of(observations), np.asarray(actions, np.int64)]))

    def draw(self, observations: Array, count: int, seed: int) -> Array:
        cumulative = np.cumsum(self.probabilities(observations), 1)[None]
        u = np.random.default_rng(seed).random((count, len(observations), 1))
        return np.asarray(np.minimum((u > cumulative).sum(-1), ITEMS - 1))


def positions_of(observations: Array) -> Array:
    """int64 `[N]`, from 0"""
    return np.asarray(np.asarray(observations)[:, :POSITIONS].argmax(1))


def policies(log: Dataset) -> dict[str, Array]:
    """Returns tables `[positions, items]` of what the Thompson-sampling policy did on average over its own log, and the uniform one.

    shares: how often it showed each item. propensities: the mean logged propensity of each shown item, made to sum to 1.
    """
    place, logged = positions_of(log.observations), np.exp(log.columns["behaviour_log_probabilities"].astype(np.float64))
    shown, sums = np.zeros((POSITIONS, ITEMS)), np.zeros((POSITIONS, ITEMS))
    np.add.at(shown, (place, log.actions), 1)
    np.add.at(sums, (place, log.actions), logged)
    means = sums / np.maximum(shown, 1)
    return {
        "shares": shown / shown.sum(1, keepdims=True),
        "propensities": means / means.sum(1, keepdims=True),
        "uniform": np.full((POSITIONS, ITEMS), 1 / ITEMS),
        "sums of mean propensities": means.sum(1),
    }


def run(data: Path, obp: Path | None, quick: bool, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the record after each case: logs, policies, and for each case our estimates and obp's; `known` cases are taken as they are."""
    from stitchrl.evaluation.behaviour_policy import behaviour_of
    from stitchrl.evaluation.estimates import How, judge

    schema = TableSchema.from_file(HERE / "open_bandit.toml")
    logs = {name: read(data / file, schema=schema) for name, file in LOGS.items()}
    if logs["random"].metadata["categories"] != logs["bts"].metadata["categories"]:
        raise DataError("the two logs hold different categories; name their values in open_bandit.toml")
    tables = policies(logs["bts"])
    record: dict[str, Any] = {"run": _provenance(), "sums_of_mean_propensities": tables.pop("sums of mean propensities").tolist()}
    reply = _ask(obp, "prior", "women")
    record["obp"] = {k: v for k, v in reply.items() if k != "table"}
    if "table" in reply:
        tables["prior"] = np.asarray(reply["table"]) / np.sum(reply["table"], 1, keepdims=True)
    record["policies"] = {name: np.round(table, 6).tolist() for name, table in tables.items()}
    record["logs"] = {name: _clicks(log) for name, log in logs.items()}
    record["cases"] = dict(known)
    behaviours = {name: behaviour_of(log, SEED) for name, log in logs.items()}
    how = How(discount=1.0, clock="ends", level=0.95, seed=SEED, quick=quick)
    for case, (source, policy, _) in CASES.items():
        if policy not in tables or case in known:
            continue
        log = logs[source]
        found = judge(log, PositionPolicy(tables[policy], log.spec, case), how, behaviour=behaviours[source]).estimates
        ours = {x.name: {"reason": x.reason} if x.interval is None else {"value": x.value, **x.interval.to_json()} for x in found}
        ratio = tables[policy][positions_of(log.observations), log.actions] / np.exp(log.columns["behaviour_log_probabilities"])
        weights = {"effective": float(ratio.sum() ** 2 / (ratio**2).sum()), "largest": float(ratio.max()), "mean": float(ratio.mean())}
        record["cases"][case] = {"weights": weights, "ours": ours, "obp": _obp(obp, log, tables[policy])}
        yield record


def _clicks(log: Dataset) -> dict[str, float]:
    """The mean click rate with its exact 95 % interval (Clopper and Pearson)."""
    clicks = int(log.rewards.sum())
    interval = binomtest(clicks, len(log)).proportion_ci(0.95)
    smallest = float(np.exp(log.columns["behaviour_log_probabilities"].min()))
    return {
        "rows": len(log),
        "clicks": clicks,
        "value": clicks / len(log),
        "low": interval.low,
        "high": interval.high,
        "smallest_propensity": smallest,
    }


def _obp(obp: Path | None, log: Dataset, table: Array) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.npz"
        arrays: dict[str, Any] = {
            "action": log.actions,
            "reward": log.rewards.astype(np.float64),
            "position": positions_of(log.observations),
        }
        arrays["propensity"] = np.exp(log.columns["behaviour_log_probabilities"].astype(np.float64))
        np.savez(path, context=log.observations[:, POSITIONS:].astype(np.float64), policy=table, **arrays)
        return _ask(obp, "estimates", str(path), str(SEED))


def _ask(obp: Path | None, *arguments: str) -> dict[str, Any]:
    if obp is None:
        return {"missing": "no --obp was given"}
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_paths()["purelib"]}
    command = [str(obp), str(HERE / "obp_estimates.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        return {"missing": (done.stderr.strip().splitlines() or ["it failed without a word"])[-1][:200]}
    reply: dict[str, Any] = json.loads(done.stdout)
    return reply


def _provenance() -> dict[str, Any]:
    import sklearn
    import torch

    versions = {"stitchrl": VERSION, "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__}
    command = " ".join([Path(sys.executable).name, *sys.argv])
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return {"command": command, "date": date, "seed": SEED, **versions, "scikit-learn": sklearn.__version__}


# --------------------------------------------------------------------------------------------------------------------- page


def page(record: dict[str, Any]) -> str:
    """Returns OPEN_BANDIT.md."""
    ran, sums = record["run"], ", ".join(f"{x:.2f}" for x in record["sums_of_mean_propensities"])
    versions = ", ".join(f"{name} {ran[name]}" for name in ("stitchrl", "python", "numpy", "torch", "scikit-learn"))
    peer = record["obp"].get("missing") or f"obp {record['obp']['obp']} (scikit-learn {record['obp']['scikit-learn']})"
    text = [
        f"""# The Open Bandit Dataset, women's campaign

Written by `python benchmarks/trust/open_bandit.py --table` from `raw/open_bandit.json`; do not edit. Run {ran["date"]}, seed {ran["seed"]}:
`{ran["command"]}`; {versions}; {peer}.

One row is one recommendation: position 1 … 3, user features (coded by their categories) are the observation, one of
{ITEMS} items the action, a click the reward; each row is an episode of one step, read with `open_bandit.toml`. The value is the click rate,
in clicks per 1,000 recommendations below.

**The Thompson-sampling policy** is taken as a table over items at each position, free of the user by construction, and as one policy for
the whole week although it learned during it. *bts*: the share of each item at each position of its own log, which is what its propensity
is on average over time. *bts (mean propensities)*: the mean logged propensity of each item and position, made to sum to 1; it is not the
policy: a shown item is the likelier the larger its propensity is, so that these means sum to {sums} at the three positions before they
are scaled. *bts (obp's prior)*: what obp itself takes, a Monte-Carlo simulation from Beta parameters that it ships; the truth beside it is
that of the policy that learned, which need not be the same.
""",
        _agreement(record),
        "| log | recommendations | clicks | clicks per 1,000 | 95 % (Clopper–Pearson) | smallest propensity |\n|---|---|---|---|---|---|",
    ]
    for name, log in record["logs"].items():
        ends = f"{1e3 * log['low']:.2f} … {1e3 * log['high']:.2f}"
        text.append(
            f"| {name} | {log['rows']:,} | {log['clicks']} | {1e3 * log['value']:.2f} | {ends} | {log['smallest_propensity']:.2g} |"
        )
    for case, found in record["cases"].items():
        truth, weights = record["logs"][CASES[case][2]], found["weights"]
        text.append(
            f"\n## {case}\n\nOn-policy: {1e3 * truth['value']:.2f} ({1e3 * truth['low']:.2f} … {1e3 * truth['high']:.2f}). Effective "
            f"recommendations {weights['effective']:,.0f} of {record['logs'][CASES[case][0]]['rows']:,}; largest weight "
            f"{weights['largest']:,.1f}, mean weight {weights['mean']:.3f}.\n"
        )
        text.append("| | estimate | 95 % interval | holds the on-policy mean |\n|---|---|---|---|")
        rows = [(name, x) for name, x in found["ours"].items()]
        rows += [(f"obp {name}", x) for name, x in found["obp"].get("estimates", {}).items()]
        text += [_row(name, x, truth["value"]) for name, x in rows]
        if "missing" in found["obp"]:
            text.append(f"| obp | not run: {found['obp']['missing']} | | |")
    return "\n".join(text) + "\n"


def _agreement(record: dict[str, Any]) -> str:
    pairs = [(x["ours"][ours], x["obp"].get("estimates", {}).get(theirs)) for x in record["cases"].values() for ours, theirs in SAME]
    gaps = [abs(a["value"] - b["value"]) / abs(b["value"]) for a, b in pairs if b and "value" in a]
    refused = sum("reason" in a for a, _ in pairs)
    if not gaps:
        return ""
    return (
        f"`is` and obp's `ipw`, `wis` and its `snipw` are the same estimators: they differ by at most {max(gaps):.1e} of the value where ours "
        f"are admitted; in {refused} of {len(pairs)} places our gate refuses where obp prints a number. The intervals are separate bootstraps; "
        "`dr` rests on another model of the clicks (cross-fitted networks here, logistic regression there).\n"
    )


def _row(name: str, x: dict[str, Any], truth: float) -> str:
    if x.get("reason"):
        return f"| {name} | {x['reason']} | | |"
    holds = "yes" if x["low"] <= truth <= x["high"] else "no"
    return f"| {name} | {1e3 * x['value']:.2f} | {1e3 * x['low']:.2f} … {1e3 * x['high']:.2f} | {holds} |"


def main() -> None:
    """Runs, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/real"))
    parser.add_argument("--obp", type=Path)
    parser.add_argument("--quick", action="store_true", help="as `trust --quick`")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the raw file has")
    parser.add_argument("--table", action="store_true", help="write the page from the raw file instead")
    options = parser.parse_args()
    if options.table:
        PAGE.write_text(page(json.loads(RAW.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    import torch

    torch.set_num_threads(1)
    RAW.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RAW.read_text(encoding="utf-8"))["cases"] if options.resume else {}
    for record in run(options.data, options.obp, options.quick, known):
        RAW.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
