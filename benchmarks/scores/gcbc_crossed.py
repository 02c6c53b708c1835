"""Is it the batches or the first weights that GCBC's scores differ by from OGBench's own code? Both crossed, in plain PyTorch.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/gcbc_crossed.py ours ogbench --seeds 0 1 2    # our batches, OGBench's first weights

The updates are the same to rounding (peers/ogbench_parity.py), so that one loop stands for both. `ogbench` batches: goals among the states
after the step's, both ends half as likely, never the walk's last state, from numpy's generator; weights: Glorot's, small in the last layer.
Adds a line for each seed to raw/gcbc_crossed.jsonl; GOALS.md tells what came out.
"""

from __future__ import annotations

import argparse
import datetime
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from control_record import append_row
from torch import Tensor, nn

from stitchrl import __version__, load
from stitchrl.core.batch import Transitions
from stitchrl.data.goal_rows import goal_rows_of
from stitchrl.evaluation.rollout import rollout
from stitchrl.recipes import published

RAW = Path(__file__).parent / "raw" / "gcbc_crossed.jsonl"
LOG, STEPS, BATCH, WIDTH, EPISODES = "pointmaze/navigate", 10_000, 256, 128, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batches", choices=["ours", "ogbench"])
    parser.add_argument("weights", choices=["ours", "ogbench"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RAW)
    a = parser.parse_args()
    torch.set_num_threads(1)
    for seed in a.seeds:
        run(a.batches, a.weights, seed, a.out)


def run(batches: str, weights: str, seed: int, out: Path) -> None:
    """Learns one seed and records the share of solved tasks."""
    log, recipe, began = load(LOG), published.recipe(f"gcbc:{LOG}"), time.perf_counter()
    torch.manual_seed(seed)
    observed, acted = log.spec.observation.size, log.spec.action.size
    units = [2 * observed, WIDTH, WIDTH, acted]
    layers = [nn.Linear(inputs, outputs) for inputs, outputs in zip(units, units[1:], strict=False)]
    network = nn.Sequential(layers[0], nn.GELU(approximate="tanh"), layers[1], nn.GELU(approximate="tanh"), layers[2])
    if weights == "ogbench":  # ours are PyTorch's
        with torch.no_grad():
            for layer in layers:
                nn.init.xavier_uniform_(layer.weight)
                layer.bias.zero_()
            bound = math.sqrt(6 * 0.01 / (WIDTH + acted))
            nn.init.uniform_(layers[-1].weight, -bound, bound)
    sample = (_ours if batches == "ours" else _ogbench)(log, recipe.goals, seed)
    optimizer, total = torch.optim.Adam(network.parameters(), lr=3e-4), torch.zeros(())
    for step in range(STEPS):
        seen, actions = sample()
        loss = ((network(seen) - actions) ** 2).sum(-1).mean() * 0.5
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= STEPS - 500:
            total += loss.detach()
    solved = rollout(
        lambda seen, _: network(torch.as_tensor(seen[0], dtype=torch.float32)).clamp(-1, 1).detach().numpy()[None],
        str(log.metadata["environment"]), episodes=EPISODES, seeds=[seed], seed=10_000, parallel=25, processes=1,
    )  # fmt: skip
    by_task = solved.success_by_task()
    assert by_task is not None and solved.successes is not None
    row: dict[str, Any] = {
        "log": LOG, "batches": batches, "weights": weights, "seed": seed, "steps": STEPS, "success": float(solved.successes.mean()),
        "tasks": by_task[0].tolist(), "loss": float(total) / 500, "episodes": EPISODES, "seconds": round(time.perf_counter() - began),
        "log_sha256": log.fingerprint(), "version": __version__, "command": " ".join(sys.argv),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    append_row(out, row)
    print(batches, weights, seed, row["success"], row["tasks"], flush=True)


def _ours(log: Any, goals: Any, seed: int) -> Callable[[], tuple[Tensor, Tensor]]:
    rows = goal_rows_of(log, Transitions(), goals, 0.99, [], torch.device("cpu"), 1 << 34)
    generator, observed = torch.Generator().manual_seed(seed), log.spec.observation.size

    def sample() -> tuple[Tensor, Tensor]:
        table, index = rows.gather(rows.draw(seed, (1, BATCH), generator)[0])
        states = table[index]  # [B, 4, O + A]: the state, the next, the goal of values, the goal of acting
        return torch.cat([states[:, 0, :observed], states[:, 3, :observed]], -1), states[:, 0, observed:]

    return sample


def _ogbench(log: Any, goals: Any, seed: int) -> Callable[[], tuple[Tensor, Tensor]]:
    numbers = np.random.RandomState(seed)
    last = np.asarray(log.offsets[1:]) - 1
    observations, actions = np.asarray(log.observations, np.float32), np.asarray(log.actions, np.float32)

    def sample() -> tuple[Tensor, Tensor]:
        here = numbers.randint(len(actions), size=BATCH)
        end, near = last[np.searchsorted(last, here)], numbers.rand(BATCH)
        goal = np.round(np.minimum(here + 1, end) * near + end * (1 - near)).astype(int)
        return torch.from_numpy(np.concatenate([observations[here], observations[goal]], -1)), torch.from_numpy(actions[here])

    return sample


if __name__ == "__main__":
    main()
