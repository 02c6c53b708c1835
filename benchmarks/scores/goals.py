"""Share of OGBench's five tasks solved, after few steps: goal-conditioned methods on our own logs of its mazes.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/goals.py pointmaze/navigate gcivl hiql gciql gcbc --steps 10000

Adds a line for each evaluation to raw/goals.jsonl and writes GOALS.md from all of them (`--table`: only that).
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "goals.jsonl", HERE / "GOALS.md"
EVERY, EPISODES = 10_000, 50
# OGBench (arXiv:2410.20092), table 2: a million steps of batches of 1,024 on a million logged ones, eight seeds
PUBLISHED = {
    "pointmaze/navigate": {"gcbc": "9 ± 6", "gcivl": "63 ± 6", "gciql": "53 ± 8", "hiql": "79 ± 5"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?", default="pointmaze/navigate")
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    for method in [] if a.table else a.methods:
        run(a.log, method, a.steps, a.width, a.seed)
    PAGE.write_text(page([json.loads(line) for line in RAW.read_text().splitlines()]), encoding="utf-8")


def run(log: str, method: str, steps: int, width: int, seed: int) -> None:
    """Learns, and records the share of solved tasks on the way and at the end."""
    import torch

    from stitchrl import __version__, load
    from stitchrl.agent import Agent
    from stitchrl.evaluation.playing import play
    from stitchrl.experiment import as_acting, make_learner, plan, prepare
    from stitchrl.recipes import published
    from stitchrl.training.learner import Training

    torch.set_num_threads(1)
    recipe = published.recipe(f"{method}:{log}")
    made = plan(
        recipe.algorithm, settings=dict(recipe.settings) | {"hidden": (width, width)}, goals=recipe.goals, seeds=[seed],
        preprocessing=replace(recipe.preprocessing, standardize_observations=True),
        training=Training(steps=steps, batch_size=256, compile="on", threads=1),
    )  # fmt: skip
    dataset = load(log)
    data, transforms = prepare(dataset, made)
    learner, began = make_learner(made, data, transforms), time.perf_counter()
    for step in range(1, steps + 1):
        learner.advance()
        if step % EVERY and step != steps:
            continue
        learner.check()
        spec, seen = as_acting(made, data, transforms)
        agent = Agent(recipe.algorithm, learner.template, learner.update.parameters, spec, seen, made.seeds)
        found = play(agent, str(dataset.metadata["environment"]), episodes=EPISODES, seed=10_000, parallel=25, processes=1)
        solved = found.successes[0]
        row: dict[str, Any] = {"log": log, "method": method, "step": step, "steps": steps, "width": width, "seed": seed, "batch_size": 256}
        row |= {
            "episodes": EPISODES,
            "success": float(solved.mean()),
            "tasks": [float(solved[k::5].mean()) for k in range(5)],
            "seconds": round(time.perf_counter() - began),
        }
        row |= {
            "version": __version__,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": " ".join(sys.argv),
        }
        with RAW.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(log, method, step, f"{100 * row['success']:.0f} %", flush=True)


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the raw lines."""
    last = {(r["log"], r["method"], r["seed"], r["step"], r["width"]): r for r in rows}
    lines = [
        "# Reaching goals, after few steps",
        "",
        f"Written by `benchmarks/scores/goals.py` from raw/goals.jsonl ({max(r['date'][:10] for r in rows)}); do not edit.",
        "Success in the episodes told, as many of each of OGBench's five tasks, one seed: of 50 episodes a cell's own standard error is up to 7",
        "points, of 25 up to 10. Batches of 256, networks as told, observations standardised, our logs of 100,000 steps. *published*: OGBench's",
        "table, a million steps, four times the batch, ten times the log.",
        "",
        "| log | method | networks | steps | episodes | success | of the five tasks | seconds | published |",
        "|---|---|---|---:|---:|---:|---|---:|---|",
    ]
    for (log, method, _, step, width), r in last.items():
        tasks = " ".join(f"{100 * t:.0f}" for t in r["tasks"])
        told = PUBLISHED.get(log, {}).get(method, "–")
        cells = [f"`{log}`", f"`{method}`", f"{width} × 2", f"{step:,}", r.get("episodes", 25), f"{100 * r['success']:.0f} %"]
        lines.append("| " + " | ".join(map(str, [*cells, tasks, r["seconds"], told])) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
