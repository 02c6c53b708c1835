"""What the log's walks did, and how soon learned policies arrived: `.venv/bin/python benchmarks/scores/antmaze/walks.py RUN…` writes walks.json.

RUN: directories of the suite's runs, such as runs/benchmark/antmaze/runs/antmaze-medium-diverse-iql-0-….
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import stitchrl

LOG, START, NEAR = "antmaze/medium-diverse", (-10.0, 10.0), 3.0  # the task's start, and distance from a point


def main() -> None:
    log = stitchrl.load(LOG)
    arrived, began = log.returns() > 0, log.observations[log.offsets[:-1], :2]
    found: dict[str, Any] = {"log": LOG, "walks": log.episodes, "arrived": int(arrived.sum()), "command": " ".join(sys.argv)}
    for name, place in (("from_the_start", START), ("from_its_neighbourhood", (-8.0, 8.0))):
        here = np.linalg.norm(began - np.array(place), axis=1) < NEAR
        found[name] = {"place": place, "within": NEAR, "walks": int(here.sum()), "steps_of_arrivals": log.lengths[here & arrived].tolist()}
    for run in map(Path, sys.argv[1:]):
        last = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
        steps = [length for length, r in zip(last["lengths"][0], last["returns"][0], strict=True) if r > 0]
        found[run.name] = {
            "episodes": last["episodes"],
            "arrived": len(steps),
            "steps_of_arrivals_quartiles": np.quantile(steps, [0.25, 0.5, 0.75]).tolist(),
        }
    (Path(__file__).parent / "walks.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
