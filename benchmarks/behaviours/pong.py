"""Searches the seven numbers of Pong's controller (environments/pong_controllers.py), and records what the shipped ones earn.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/pong.py --search 7
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/pong.py --games 20

The cross-entropy method: of 14 controllers a round, one game each, the best five give the next round's mean and spread. Points of one game are a
noisy guide: the opponent and the sticky actions differ. `--games` adds a line for each shipped controller to results.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import asdict, astuple
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl import __version__
from stitchrl.environments.make import make
from stitchrl.environments.pong_controllers import CONTROLLERS, Controller, decide

ENVIRONMENT = "stitchrl/PongPositions-v0"
RECORD = Path(__file__).parent / "results.jsonl"
SPREADS = (0.04, 0.7, 0.06, 0.06, 0.4, 0.15, 0.15)
TRIED, KEPT = 14, 5


def game(environment: Any, controller: Controller, seed: int, longest: int = 4_000) -> float:
    """Returns the points of one game, or of its first steps."""
    x, _ = environment.reset(seed=seed)
    points = 0.0
    for _ in range(longest):
        x, reward, terminal, timeout, _ = environment.step(int(decide(np.asarray(x)[None], controller)[0]))
        points += float(reward)
        if terminal or timeout:
            break
    return points


def search(environment: Any, rounds: int) -> None:
    """Prints each round's best points and mean."""
    rng = np.random.default_rng(0)
    means, spreads = np.array(astuple(CONTROLLERS["medium"])), np.array(SPREADS)
    for i in range(rounds):
        numbers = means + spreads * rng.standard_normal((TRIED, len(means)))
        points = [game(environment, Controller(*x), 1_000 * i + k) for k, x in enumerate(numbers)]
        best = numbers[np.argsort(points)[::-1][:KEPT]]
        means, spreads = best.mean(0), 0.7 * best.std(0) + 0.24 * spreads
        print(i, sorted(points)[::-1][:KEPT], Controller(*np.round(means, 3).tolist()), flush=True)


def record(environment: Any, games: int) -> None:
    """Adds what each shipped controller earns to the record."""
    for kind, controller in CONTROLLERS.items():
        points = np.array([game(environment, controller, 20_000 + k, longest=27_000) for k in range(games)])
        row = {
            "policy": f"pong-{kind}", "environment": ENVIRONMENT, "return": float(points.mean()), "std": float(points.std()), "episodes": games,
            "controller": asdict(controller), "version": __version__, "ale-py": version("ale-py"), "gymnasium": version("gymnasium"),
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv),
        }  # fmt: skip
        with RECORD.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(kind, points.mean(), points.tolist(), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=int, default=0, metavar="ROUNDS")
    parser.add_argument("--games", type=int, default=0)
    a = parser.parse_args()
    environment = make(ENVIRONMENT)
    search(environment, a.search)
    if a.games:
        record(environment, a.games)


if __name__ == "__main__":
    main()
