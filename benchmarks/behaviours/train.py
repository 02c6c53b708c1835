"""Trains the behaviour policies that ship with the package, by our own online learners:

`OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/train.py pendulum cartpole`

Writes src/stitchrl/environments/behaviour/TASK-LEVEL/ and a line for each to benchmarks/behaviours/results.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from stitchrl import __version__
from stitchrl.algorithms import find
from stitchrl.api import evaluate
from stitchrl.online import Online, learn_online
from stitchrl.training.learner import Training

OUT = Path("src/stitchrl/environments/behaviour")
RECORD = Path("benchmarks/behaviours/results.jsonl")
# levels: the mean return of ten episodes without exploration at which a policy is kept
TASKS: dict[str, dict[str, Any]] = {
    "pendulum": {
        "algorithm": "sac",
        "environment": "Pendulum-v1",
        "settings": {
            "hidden": (64, 64),
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "temperature_learning_rate": 1e-3,
        },
        "training": {"steps": 20_000, "batch_size": 128},
        "online": {},
        "check_every": 250,
        "levels": {"medium": -900.0, "expert": -160.0},
    },
    "cartpole": {
        "algorithm": "q_learning",
        "environment": "CartPole-v1",
        "settings": {
            "hidden": (128, 128),
            "learning_rate": 1e-3,
            "target_rate": 1.0,
            "target_every": 20,
            "ensemble": 2,
            "discount": 0.98,
        },
        "training": {"steps": 60_000, "batch_size": 128},
        "online": {"epsilon_steps": 8_000, "epsilon_end": 0.03},
        "check_every": 500,
        "levels": {"medium": 150.0, "expert": 495.0},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tasks", nargs="+", choices=sorted(TASKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.tasks:
        train(name, TASKS[name], arguments.seed)


def train(name: str, task: dict[str, Any], seed: int) -> None:
    """Keeps one policy a level and records what it earns without exploration."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    settings = find(task["algorithm"])[1](**task["settings"])
    training, online = Training(compile="off", **task["training"]), Online(**task["online"])
    with tempfile.TemporaryDirectory() as scratch:
        reached = learn_online(
            task["algorithm"], task["environment"], Path(scratch), settings=settings, training=training, online=online, seed=seed,
            levels=task["levels"], check_every=task["check_every"], device=torch.device("cpu"),
        )  # fmt: skip
        for level in task["levels"]:
            target = OUT / f"{name}-{level}"
            target.mkdir(parents=True, exist_ok=True)
            for file in (Path(scratch) / level).iterdir():
                (target / file.name).write_bytes(file.read_bytes())
            earned = evaluate(target, task["environment"], episodes=100)
            row = {
                "policy": target.name,
                "while_learning": reached[level],
                "return": float(earned.returns.mean()),
                "std": float(earned.returns.std()),
            }
            row |= {
                "episodes": 100,
                "seed": seed,
                "seconds": round(time.perf_counter() - began, 1),
                "version": __version__,
                "torch": torch.__version__,
            }
            row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv), **task}
            with RECORD.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(target, row["return"], row["std"])


if __name__ == "__main__":
    main()
