"""Why a Decision Diffuser's condition does little on hopper/medium-expert: what the state alone tells, and what it does when an agent begins.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/handover.py RUN

RUN: a directory of `stitchrl benchmark run --suite sequences --datasets hopper/medium-expert --algorithms decision_diffuser`. Adds to
raw/handover.jsonl how well the log's agent is told by a state alone, and what 400 steps earn where one of its agents takes the first k and
the planner the others.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
from control_record import append_row

from stitchrl import __version__, load, load_policy
from stitchrl.environments.make import make
from stitchrl.evaluation.acting_settings import acting_with
from stitchrl.recipes.named_behaviours import walker

LOG, RAW = "hopper/medium-expert", Path(__file__).parent / "raw" / "handover.jsonl"
EPISODES, STEPS, FIRST = 20, 400, 20
# who begins, for how many steps, the return asked for (a share of the log's range), the guidance
CASES: list[tuple[str, int, float, float]] = [
    ("expert", STEPS, 0.95, 0.0), ("medium", STEPS, 0.95, 0.0),
    ("expert", 0, 0.95, 0.0), ("expert", 0, 0.95, 1.2), ("expert", 0, 0.95, 6.0),
    ("expert", 30, 0.95, 0.0), ("expert", 30, 0.95, 1.2), ("expert", 100, 0.95, 0.0), ("expert", 100, 0.95, 1.2), ("expert", 100, 0.2, 1.2),
    ("medium", 100, 0.95, 1.2), ("medium", 100, 0.95, 6.0),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    record({"what": "told by the state", **told_by_the_state()}, run)
    for who, first, target, guidance in CASES:
        returns, alive = played(run, who, first, {"target": target, "guidance": guidance})
        row = {"what": "handed over", "begins": who, "steps": first, "target": target, "guidance": guidance}
        record(row | {"returns": returns, "alive": alive}, run)


def record(row: dict[str, Any], run: Path) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    append_row(RAW, row | {"run": run.name, "version": __version__, "date": now, "command": " ".join(sys.argv)})
    means = {name: round(float(np.mean(row[name])), 2) for name in ("returns", "alive") if name in row}
    print(row | means, flush=True)


def told_by_the_state() -> dict[str, float]:
    """Returns how often a classifier of states names the agent that was there rightly, in episodes that it did not learn from."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    log = load(LOG)
    states, agent = np.asarray(log.observations), np.asarray(log.columns["infos/policy_id"])
    episode = np.repeat(np.arange(log.episodes), np.diff(log.offsets))
    since, held_out = np.arange(len(states)) - log.offsets[episode], episode % 5 == 0
    learned = HistGradientBoostingClassifier(random_state=0).fit(states[~held_out], agent[~held_out])
    right = learned.predict(states) == agent
    begins = agent[log.offsets[:-1]]
    return {
        "right_in_the_first_steps": float(right[held_out & (since < FIRST)].mean()),
        "right_later": float(right[held_out & (since >= FIRST)].mean()),
        "first_steps": FIRST,
        "episodes_of_the_lesser_agent": float((begins == begins.min()).mean()),
        "held_out_steps": int(held_out.sum()),
    }


def played(run: Path, who: str, first: int, asked: dict[str, float]) -> tuple[list[float], list[bool]]:
    """Returns what each episode earned in its first `STEPS`, and whether it still ran, where an agent takes the first steps."""
    begins, planner = walker(f"hopper-{who}"), acting_with(load_policy(run), asked)
    planner.seed_acting(0)
    worlds = [make("Hopper-v5") for _ in range(EPISODES)]
    seen = np.stack([world.reset(seed=40_000 + i)[0] for i, world in enumerate(worlds)]).astype(np.float32)
    earned, alive = np.zeros(EPISODES), np.ones(EPISODES, bool)
    last = np.zeros(EPISODES)
    for t in range(STEPS):
        if t < first:
            actions = begins(seen)
        else:
            actions = planner.act(seen[None], None if t == first else last[None], sampled=True)[0]
        for i in np.flatnonzero(alive):
            observation, reward, terminal, _, _ = worlds[i].step(np.clip(actions[i], -1, 1))
            seen[i], last[i] = observation, float(reward)
            earned[i] += last[i]
            alive[i] = not terminal
        if not alive.any():
            break
    return earned.tolist(), alive.tolist()


if __name__ == "__main__":
    main()
