"""What is left to learn of an action's token: the log's own noise, beside chance and what a Trajectory Transformer's run has left.

    .venv/bin/python benchmarks/scores/token_noise.py walker2d/medium-expert RUN …

Of a log that tells the densities of its actions, nats a token in 100 bins of equal shares: told which agent acts and all else (densities taken
as even within a bin), and told nothing; of each run, its last `action_nll`. And what the lowest bin of the reward stands for where an end costs
100: the mean of what it holds (ours), the middle of its thresholds (the authors'). Adds a line to raw/token_noise.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from control_record import append_row

RAW = Path(__file__).parent / "raw" / "token_noise.jsonl"
BINS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log")
    parser.add_argument("runs", type=Path, nargs="*")
    a = parser.parse_args()
    row = noise(a.log) | {"action_nll": {run.name: left(run) for run in a.runs}}
    row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv)}
    append_row(RAW, row)
    print(row)


def noise(log: str) -> dict[str, Any]:
    """Returns what a log's own noise leaves of an action's token, in nats."""
    from stitchrl import __version__, load
    from stitchrl.nn.discretization import Discretization, bins_of

    dataset = load(log)
    actions = torch.as_tensor(np.asarray(dataset.actions, np.float64))
    made = Discretization(actions.shape[1], BINS).double()
    made.measure(actions, "quantile")
    tokens = made.tokens(actions)
    ends = torch.cat([actions.amin(0)[:, None], made.edges, actions.amax(0)[:, None]], 1)  # [A, bins + 1]
    widths = ends.diff(dim=1).gather(1, tokens.T).log().mean()
    shares = torch.stack([column.bincount(minlength=BINS) for column in tokens.T]).double() / len(tokens)
    density = float(np.asarray(dataset.columns["behaviour_log_probabilities"], np.float64).mean()) / actions.shape[1]
    rewards = torch.as_tensor(np.where(dataset.terminals, -100.0, np.asarray(dataset.rewards, np.float64)))
    edges, values = bins_of(rewards, BINS, "quantile")
    return {
        "log": log, "log_sha256": dataset.fingerprint(), "told_all": -density - float(widths),
        "told_nothing": float(torch.special.entr(shares).sum(1).mean()),
        "lowest_reward": {"mean": float(values[0]), "middle": float((rewards.min() + edges[0]) / 2)}, "version": __version__,
    }  # fmt: skip


def left(run: Path) -> float:
    """Returns the nats that a run's last metrics leave of an action's token."""
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return float(np.mean(last["metric/action_nll"]))


if __name__ == "__main__":
    main()
