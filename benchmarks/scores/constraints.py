"""Constraints that no step of a log meets together, asked for together: Decision Diffuser on the ball's log, without its ways north-east.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/constraints.py --seeds 2

`pointmaze/umaze` is cut wherever the ball moves east and north at once (both faster than `FAST`). What is left is learned from, told whether a
plan ends going east, and whether it ends going north. Then either or both are asked for, from states of the log, in plans and, by following
each plan to its end with the inverse dynamics, in the environment. Adds lines to raw/constraints.jsonl and writes CONSTRAINTS.md from all of them.
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from control_record import append_row, mean_and_error, read_rows
from numpy.typing import NDArray

from stitchrl.data.dataset import Dataset

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "constraints.jsonl", HERE / "CONSTRAINTS.md"
LOG, FAST, STARTS, EAST, NORTH = "pointmaze/umaze", 0.5, 300, 2, 3  # the dimensions of its velocities
HORIZON, STEPS = 16, 6_000
SETTINGS: dict[str, Any] = {
    "horizon": HORIZON, "width": 32, "multipliers": (1, 2, 4), "diffusion_steps": 50, "sampler": "dpm_solver++", "sampling_steps": 10,
    "hidden": (128, 128), "learning_rate": 1e-3, "return_condition": False, "constrained": "finally",
    "constraints": ((EAST, FAST, 99.0), (NORTH, FAST, 99.0)), "replan_every": HORIZON - 1,
}  # fmt: skip
ASKED = {"nothing": (0, 0), "east": (1, 0), "north": (0, 1), "both": (1, 1), "east, not north": (1, -1)}
GUIDANCE = (3.0, 6.0, 10.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    if not a.table:
        run(a.seeds, a.steps)
    PAGE.write_text(page(read_rows(RAW)), encoding="utf-8")


def met(states: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns `[..., 2]`: whether states go east, and north."""
    fast: NDArray[np.bool_] = states[..., [EAST, NORTH]] > FAST
    return fast


def without_both(dataset: Dataset) -> Dataset:
    """Returns the log in pieces: its ways between the states that meet both constraints, of four steps or more."""
    pieces: list[dict[str, Any]] = []
    for number in range(dataset.episodes):
        episode = dataset.episode(number)
        states = np.concatenate([episode.observations, episode.final_observations])
        free = np.flatnonzero(~met(states).all(-1))
        for run_of in np.split(free, np.flatnonzero(np.diff(free) > 1) + 1):
            if len(run_of) > 4:
                rows = slice(run_of[0], run_of[-1])
                pieces.append(
                    {
                        "observations": states[run_of[0] : run_of[-1] + 1], "actions": episode.actions[rows],
                        "rewards": episode.rewards[rows], "terminals": False,
                    }
                )  # fmt: skip
    cut = Dataset.from_episodes(pieces, dataset.spec, {"name": f"{LOG}, never north-east"})
    assert not met(cut.observations).all(-1).any() and not met(cut.final_observations).all(-1).any()
    return cut


def run(seeds: int, steps: int) -> None:
    """Learns, asks and does, and records a line for each seed and question."""
    import torch

    from stitchrl import __version__, load
    from stitchrl.agent import Agent
    from stitchrl.environments.make import make
    from stitchrl.experiment import make_learner, plan, prepare
    from stitchrl.training.learner import Training

    torch.set_num_threads(1)
    whole = load(LOG)
    dataset = without_both(whole)
    world = make(str(whole.metadata["environment"]), **dict(whole.metadata["environment_options"]))
    slow = np.flatnonzero((np.abs(dataset.observations[:, [EAST, NORTH]]) < FAST).all(-1))
    starts = dataset.observations[np.random.default_rng(0).choice(slow, 3 * STARTS, replace=False)]
    able = met(follow(world, starts, np.ones((HORIZON - 1, len(starts), 2)))).all(-1)
    starts = starts[able][:STARTS]
    log = {
        "log": LOG,
        "steps_left": len(dataset),
        "steps_of_the_log": len(whole),
        "north_east_in_the_log": float(met(whole.observations).all(-1).mean()),
    }
    print(log, f"{able.mean():.2f} of the slow states are able to; {len(starts)} starts", flush=True)
    for seed in range(seeds):
        began = time.perf_counter()
        made = plan(
            "decision_diffuser", settings=SETTINGS, seeds=[seed], training=Training(steps=steps, batch_size=32, threads=1, compile="off")
        )
        data, transforms = prepare(dataset, made)
        learner = make_learner(made, data, transforms)
        for _ in range(steps):
            learner.advance()
        learner.check()
        told = log | {
            "seed": seed, "steps": steps, "settings": SETTINGS, "starts": len(starts), "able": float(able.mean()),
            "seconds": round(time.perf_counter() - began), "version": __version__, "torch": torch.__version__, "command": " ".join(sys.argv),
        }  # fmt: skip
        for name, asked in ASKED.items():
            for guidance in GUIDANCE if name != "nothing" else (0.0,):
                learner.template.config = replace(made.settings, asked=asked, guidance=guidance)
                agent = Agent("decision_diffuser", learner.template, learner.update.parameters, data.spec, transforms, made.seeds)
                plans, ends = do(agent, world, starts)
                row = {"asked": name, "guidance": guidance, "plans": shares(plans), "done": shares(ends)} | told
                row["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
                append_row(RAW, row)
                print(seed, name, guidance, row["plans"], row["done"], flush=True)
    world.close()


def do(agent: Any, world: Any, starts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the last states of plans from the starts, and of doing them."""
    from stitchrl.evaluation.seen_plans import seen_plans

    agent.seed_acting(0)
    plans = seen_plans(agent, starts, sampled=True).states[:, 0, -1]
    agent.seed_acting(0)
    agent.reset()
    seen = starts.copy()
    for _ in range(HORIZON - 1):
        actions = agent.act(seen[None], np.zeros((1, len(seen))), sampled=True)
        seen[:, :4] = follow(world, seen, actions)
    return plans, seen


def follow(world: Any, starts: NDArray[Any], actions: NDArray[Any]) -> NDArray[Any]:
    """Returns where actions `[T, N, 2]` lead from states `[N, ...]`: `[N, 4]` of places and velocities."""
    body = world.unwrapped.point_env
    ends = np.empty((len(starts), 4))
    world.reset(seed=0)
    for i, start in enumerate(starts):
        body.set_state(start[:2].astype(np.float64), start[2:4].astype(np.float64))
        for action in actions[:, i]:
            body.step(np.clip(action, -1, 1))
        ends[i] = np.concatenate([body.data.qpos, body.data.qvel])
    return ends


def shares(states: NDArray[Any]) -> dict[str, float]:
    """Returns how many of the states go east, north, and both."""
    found = met(states)
    return {"east": float(found[:, 0].mean()), "north": float(found[:, 1].mean()), "both": float(found.all(-1).mean())}


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the raw lines, seeds put together."""
    cells: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for r in {(r["asked"], r["guidance"], r["seed"]): r for r in rows}.values():
        cells.setdefault((r["asked"], r["guidance"]), []).append(r)
    first = rows[-1]
    lines = [
        "# Constraints that were never met together",
        "",
        f"Written by `benchmarks/scores/constraints.py` from raw/constraints.jsonl ({max(r['date'][:10] for r in rows)}); do not edit.",
        f"Decision Diffuser ({first['steps']:,} steps of batches of 32) on `{LOG}` without the {100 * first['north_east_in_the_log']:.0f} % of its",
        f"steps at which the ball goes east and north at once (both velocities above {FAST}; {first['steps_left']:,} of",
        f"{first['steps_of_the_log']:,} steps are left, cut there). A plan of {HORIZON} states is told, one at a time, whether it *ends* going east,",
        f"whether it ends going north. Asked from {first['starts']} states of that log at which the ball is slow (below {FAST} both ways) and",
        "no wall is near: pushed north-east by full force it ends going both ways, as from",
        f"{100 * first['able']:.0f} % of all slow states. Share of plans in per cent, mean ± standard error over seeds; *done*: the environment",
        "after the plan, followed by the inverse dynamics.",
        "",
        "| asked for | guidance | seeds | plans: east | north | both | done: east | north | both |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (asked, guidance), found in cells.items():
        told = [mean_and_error([100 * r[where][what] for r in found]) for where in ("plans", "done") for what in ("east", "north", "both")]
        lines.append(f"| {asked} | {guidance:g} | {len(found)} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
