"""Trains the agents whose rollouts are the locomotion and Atari logs: online, a policy kept every 10,000 steps with what it earned.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/locomotion.py HalfCheetah-v5 --steps 200000 --out /tmp/behaviours/halfcheetah
    .venv/bin/python benchmarks/behaviours/locomotion.py stitchrl/BreakoutPositions-v0 --batch-size 64 --out /tmp/behaviours/breakout

Robots by our SAC; Breakout by Q-learning on the places of ball and paddle, with a hint: a little reward for being near the ball. Pong: pong.py.

Writes OUT/step_N/ (a saved policy) and a line of OUT/returns.jsonl for each. Which of them ship is chosen by `ship.py` from those lines.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from stitchrl import __version__
from stitchrl.algorithms import find
from stitchrl.online import Online, OnlineLearner
from stitchrl.training.learner import Training

ATARI: dict[str, Any] = {"hidden": (128, 128), "learning_rate": 3e-4, "ensemble": 2, "discount": 0.98}
HINT = {"tracking": 0.05}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("environment")
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--every", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    torch.set_num_threads(1)
    a.out.mkdir(parents=True, exist_ok=True)
    training = Training(steps=a.steps, batch_size=a.batch_size, compile="on")
    atari = "Positions" in a.environment
    algorithm, settings = ("q_learning", ATARI) if atari else ("sac", {})
    online = Online(random_steps=5_000, capacity=a.steps, epsilon_steps=30_000, epsilon_end=0.02)
    learning = OnlineLearner(
        algorithm, find(algorithm)[1](**settings), a.environment, a.seed, training, online, torch.device("cpu"), HINT if atari else None
    )
    began = time.perf_counter()
    explored: list[float] = []
    for step in range(a.every, a.steps + 1, a.every):
        learning.run(step, lambda _, earned: explored.append(earned))
        learning.agent().save(a.out / f"step_{step}")
        row = {
            "environment": a.environment,
            "step": step,
            "return": learning.evaluate(a.environment, a.episodes),
            "while_exploring": sum(explored) / len(explored) if explored else None,
            "seconds": round(time.perf_counter() - began),
            "seed": a.seed,
            "batch_size": a.batch_size,
            "version": __version__,
            "torch": torch.__version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        }
        explored.clear()
        with (a.out / "returns.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(step, round(float(row["return"]), 1), flush=True)


if __name__ == "__main__":
    main()
