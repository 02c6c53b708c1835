"""What CQL's greedy policy does in Breakout, with no action taken at random: which actions, and how often a ball is seen.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/greedy_actions.py 5e-5 5e-4    # adds lines to raw/greedy_actions.jsonl

Learns as the suite `atari` does, but at these rates: 5e-5 is the paper's. Plays from several seeds, 2,000 steps at most.
"""

from __future__ import annotations

import datetime
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from control_record import append_row

from stitchrl import __version__, load
from stitchrl.agent import Agent
from stitchrl.environments.atari_positions import positions
from stitchrl.environments.make import make
from stitchrl.experiment import as_acting, make_learner, prepare
from stitchrl.recipes.benchmark_suites import plan_of, suite

RAW = Path(__file__).parent / "raw" / "greedy_actions.jsonl"
LOG, GAME = "breakout/mixed", "ALE/Breakout-v5"
EVERY, EPISODES, LONGEST = 3_000, 3, 2_000


def main() -> None:
    torch.set_num_threads(1)
    for rate in sys.argv[1:]:
        learn(float(rate))


def learn(rate: float) -> None:
    """Records what the policy does after each 3,000 steps of learning."""
    task = next(task for task in suite("atari").tasks if task.dataset == LOG)
    made = plan_of(task, "cql", 0)
    made = replace(made, settings=replace(made.settings, critic_learning_rate=rate))  # type: ignore[type-var]
    log, began = load(LOG), time.perf_counter()
    logged = np.bincount(np.asarray(log.columns["actions"]), minlength=4)
    data, transforms = prepare(log, made)
    learner = make_learner(made, data, transforms)
    for step in range(1, made.training.steps + 1):
        learner.advance()
        if step % EVERY:
            continue
        learner.check()
        spec, seen = as_acting(made, data, transforms)
        agent = Agent(made.algorithm, learner.template, learner.update.parameters, spec, seen, made.seeds)
        row: dict[str, Any] = {"log": LOG, "log_sha256": log.fingerprint(), "logged_actions": logged.tolist(), "rate": rate, "step": step}
        row |= {"episodes": [played(agent, 10_000 + episode) for episode in range(EPISODES)], "seed": made.seeds[0]}
        row |= {"seconds": round(time.perf_counter() - began), "version": __version__, "torch": torch.__version__}
        row |= {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv)}
        append_row(RAW, row)
        print(rate, step, *row["episodes"], sep="\n", flush=True)


def played(agent: Agent, seed: int) -> dict[str, Any]:
    """Returns one greedy episode: its return and steps, how often each action was taken, the share of steps with a ball to be seen."""
    world, earned, ball, taken = make(GAME), 0.0, 0.0, np.zeros(4, int)
    seen, _ = world.reset(seed=seed)
    for _ in range(LONGEST):
        action = int(agent.predict(np.asarray(seen)[None])[0])
        taken[action] += 1
        seen, reward, terminal, truncated, _ = world.step(action)
        earned += float(reward)
        ball += float(positions(np.asarray(seen)[None], "breakout")[0][-1])
        if terminal or truncated:
            break
    world.close()
    return {"return": earned, "steps": int(taken.sum()), "actions": taken.tolist(), "ball": round(ball / taken.sum(), 3)}


if __name__ == "__main__":
    main()
