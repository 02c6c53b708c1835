"""Searches the numbers of Pong's controller (environments/pong_controllers.py), and records what the shipped ones earn.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/pong.py --search 4
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/behaviours/pong.py --games 20

`--search`: so many games with each dead zone and damping of a grid. (The cross-entropy method, one game for each that it tried, ended in numbers
that had been lucky: -10 in 20 games.) `--games` adds a line for each shipped controller to results.jsonl.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl import __version__
from stitchrl.environments.make import make
from stitchrl.environments.pong_controllers import CONTROLLERS, Controller, decide

ENVIRONMENT = "stitchrl/PongPositions-v0"
RECORD = Path(__file__).parent / "results.jsonl"
GRID = ((0.04, 1.0), (0.1, 0.6), (0.1, 1.0), (0.1, 1.6), (0.14, 1.0), (0.18, 1.3), (0.18, 1.8), (0.22, 1.3), (0.26, 1.7))


def game(environment: Any, controller: Controller, seed: int) -> float:
    """Returns the points of one game, or of its first 27,000 steps."""
    x, _ = environment.reset(seed=seed)
    points = 0.0
    for _ in range(27_000):
        x, reward, terminal, timeout, _ = environment.step(int(decide(np.asarray(x)[None], controller)[0]))
        points += float(reward)
        if terminal or timeout:
            break
    return points


def search(environment: Any, games: int) -> None:
    """Prints what each of a grid's controllers earns."""
    for dead_zone, damping in GRID:
        points = [game(environment, Controller(dead_zone, damping), 20_000 + k) for k in range(games)]
        print(dead_zone, damping, np.mean(points), points, flush=True)


def record(environment: Any, games: int) -> None:
    """Adds what each shipped controller earns to the record."""
    for kind, controller in CONTROLLERS.items():
        points = np.array([game(environment, controller, 30_000 + k) for k in range(games)])
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
    parser.add_argument("--search", type=int, default=0, metavar="GAMES")
    parser.add_argument("--games", type=int, default=0)
    a = parser.parse_args()
    environment = make(ENVIRONMENT)
    if a.search:
        search(environment, a.search)
    if a.games:
        record(environment, a.games)


if __name__ == "__main__":
    main()
