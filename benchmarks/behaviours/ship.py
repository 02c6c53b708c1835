"""Chooses, from an agent's policies kept while it learned (`locomotion.py`), those that ship with the package:

`OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/ship.py halfcheetah /tmp/behaviours/halfcheetah`

- `expert`: the best policy of the last quarter of training.
- `medium`: training stopped early, as D4RL's: the first one that earns at least a third of the way from random actions (D4RL's
  reference) to the expert. Policies are kept every 10,000 steps, so it may be well beyond a third; what it earns is recorded.
- `replay-1` … `replay-K`: the agent in the middle of each of K equal stretches of its way to medium, where a policy was kept; of what D4RL
  keeps, the replay itself, they give the likeness: rolled out in equal shares.

All returns that choose are of sampled actions, since the logs are, over 20 episodes; `returns.jsonl` has five without sampling.
`--only LEVEL=STEP` ships one policy under a name (the walker of AntMaze: `ant /tmp/behaviours/antdirections --only directions=240000`).
Writes src/stitchrl/environments/behaviour/TASK-LEVEL/ in float16 and a line for each to benchmarks/behaviours/results.jsonl: what the policy
that is shipped, rounded, earns. Prints the row for `recipes/locomotion_logs.py`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stitchrl import __version__
from stitchrl.agent import load
from stitchrl.evaluation.references import d4rl_reference
from stitchrl.evaluation.rollout import rollout

OUT = Path("src/stitchrl/environments/behaviour")
RECORD = Path("benchmarks/behaviours/results.jsonl")
EPISODES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="D4RL's name of it: halfcheetah, hopper, walker2d, ant")
    parser.add_argument("source", type=Path, help="what locomotion.py wrote")
    parser.add_argument("--replays", type=int, default=5)
    parser.add_argument("--only", metavar="LEVEL=STEP")
    a = parser.parse_args()
    torch.set_num_threads(1)
    lines = {row["step"]: row for row in map(json.loads, (a.source / "returns.jsonl").read_text().splitlines())}
    if a.only:
        level, _, step = a.only.partition("=")
        ship(a.task, level, a.source / f"step_{step}", lines[int(step)])
        return
    environment = next(iter(lines.values()))["environment"]

    @cache
    def earned(step: int) -> float:
        found = float(returns(a.source / f"step_{step}", environment, sampled=True).mean())
        print(step, round(found, 1), "sampled;", round(lines[step]["return"], 1), "not", flush=True)
        return found

    chosen = choose(sorted(lines), earned, a.task, a.replays)
    replays = len(chosen) - 2
    print(f'Task("{a.task}", "{environment}", medium_steps={chosen["medium"]:_}, replays={replays}, steps_per_second=…, bytes_per_step=…)')
    for old in OUT.glob(f"{a.task}-replay-*"):
        shutil.rmtree(old)
    for level, step in chosen.items():
        ship(a.task, level, a.source / f"step_{step}", lines[step])


def choose(steps: list[int], earned: Callable[[int], float], task: str, replays: int) -> dict[str, int]:
    """Returns the step at which the policy of each level was kept."""
    reference = d4rl_reference(task)
    assert reference is not None, f"D4RL has no reference for {task}"
    expert = max((step for step in steps if step > 0.75 * max(steps)), key=earned)
    wanted = reference.random + (earned(expert) - reference.random) / 3
    medium = next(step for step in steps if earned(step) >= wanted)
    middles = [medium * (i + 0.5) / replays for i in range(replays)]
    nearest = sorted({min(steps, key=lambda step: (abs(step - middle), step)) for middle in middles})
    return {"expert": expert, "medium": medium} | {f"replay-{i}": step for i, step in enumerate(nearest, start=1)}


def returns(policy: Path, environment: str, *, sampled: bool) -> np.ndarray:
    """Returns those of 20 episodes."""
    agent = load(policy)
    agent.seed_acting(0)
    found = rollout(lambda x, _: agent.act(x, sampled=sampled), environment, episodes=EPISODES, seed=20_000, parallel=EPISODES, processes=1)
    return np.asarray(found.returns[0])


def ship(task: str, level: str, source: Path, line: dict[str, Any]) -> None:
    """Writes one policy in float16 and records what it earns so."""
    target = OUT / f"{task}-{level}"
    load(source).save(target, half=True)
    plain, sampled = (returns(target, line["environment"], sampled=s) for s in (False, True))
    row = {
        "policy": target.name,
        "environment": line["environment"],
        "step": line["step"],
        "return": float(plain.mean()),
        "std": float(plain.std()),
        "sampled_return": float(sampled.mean()),
        "sampled_std": float(sampled.std()),
        "episodes": EPISODES,
        "seed": line["seed"],
        "trained": {key: line[key] for key in ("command", "version", "torch", "date", "batch_size", "seconds")},
        "version": __version__,
        "torch": torch.__version__,
        "mujoco": version("mujoco"),
        "gymnasium": version("gymnasium"),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(sys.argv),
    }
    with RECORD.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(target, line["step"], round(row["return"], 1), round(row["sampled_return"], 1), flush=True)


if __name__ == "__main__":
    main()
