"""Why ants do not learn OGBench's large maze in few steps: what their walker can, told the way, and what HIQL's value has learned.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/ants.py walker                    # the log's own walker, two noises
    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/ants.py hiql --steps 20000        # adds lines to raw/ants.jsonl

Of HIQL: the rank correlation of V(s, g) with how near s is to the task's goal g, in cells of the way; how often what comes 25 steps later is
worth more where it is nearer; the spread of one step's advantage, which the actor's weights are exponentials of; the actor's error on logged
actions, told the state 25 steps later; and the share of tasks that it solves when every 25 steps its subgoal is the state that the best of the 50
nearest logged walks came to 25 steps later.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import math
import sys
from functools import cache
from typing import Any

import numpy as np
import torch
from control_record import append_row
from goals import ANTS, WALKER
from scipy.stats import spearmanr
from torch import Tensor

from stitchrl import __version__, load
from stitchrl.recipes import published

LOG, TASK = "antmaze/large-navigate", "antmaze-large-v0"
AHEAD = 25  # steps to a subgoal
NEAR = 50  # logged states
Array = np.ndarray[Any, np.dtype[Any]]


class Maze:
    """OGBench's maze of the task, and ways through it in cells."""

    def __init__(self) -> None:
        from stitchrl.environments.make import make

        self.world = make(TASK)
        self.maze: Any = self.world.unwrapped
        self.ahead = cache(lambda here, there: tuple(self.maze.xy_to_ij(self._subgoal(here, there))))

    def _subgoal(self, here: Any, there: Any) -> Array:
        return np.asarray(self.maze.get_oracle_subgoal(self.maze.ij_to_xy(here), self.maze.ij_to_xy(there))[0])

    def cell(self, position: Array) -> tuple[int, int]:
        return tuple(self.maze.xy_to_ij(position))

    def steps_away(self, positions: Array, goal: Array) -> Array:
        """Returns `[N]`, the cells of the way from positions `[N, 2]` to a goal."""
        away = self.maze.get_oracle_subgoal(goal, goal)[1]
        return np.array([away[self.cell(position)] for position in positions])

    def solved(self, act: Any, episodes: int) -> tuple[float, list[int]]:
        """Returns the share of the five tasks' episodes that end at the goal, and after how many steps.

        act: from an observation, the goal and the step of the episode to an action, which is clipped.
        """
        arrived = []
        for task in range(1, 6):
            for seed in range(episodes):
                seen, _ = self.world.reset(seed=seed, options={"task_id": task})
                for t in range(1000):
                    seen, _, ended, cut, info = self.world.step(np.clip(act(*np.split(seen, 2), t), -1, 1).astype(np.float32))
                    if info["success"]:
                        arrived.append(t + 1)
                    if ended or cut:
                        break
        return len(arrived) / (5 * episodes), arrived


def walker(episodes: int) -> list[dict[str, Any]]:
    """What the log's walker can, told the way to each task's goal."""
    from stitchrl.recipes.named_behaviours import walker as shipped

    obey, maze, rows = shipped("ant-directions"), Maze(), []
    for noise in (0.0, 0.2):
        generator = np.random.default_rng(0)

        def act(seen: Array, goal: Array, t: int, noise: float = noise, generator: np.random.Generator = generator) -> Array:
            here, there = maze.cell(seen[:2]), maze.cell(goal[:2])
            way = (goal[:2] if here == there else maze.maze.ij_to_xy(maze.ahead(here, there))) - seen[:2]
            told = np.concatenate([seen[2:29], way / max(math.hypot(*way), 1e-6)]).astype(np.float32)
            return obey(told[None])[0] + noise * generator.standard_normal(8)

        share, steps = maze.solved(act, episodes)
        median = float(np.median(steps)) if steps else None
        rows.append({"what": WALKER, "noise": noise, "solved": share, "median_steps": median})
    return rows


def hiql(steps: int, width: int, rate: float, target_rate: float, episodes: int) -> list[dict[str, Any]]:
    """What HIQL has learned of the log after so many steps."""
    from stitchrl.experiment import make_learner, plan, prepare
    from stitchrl.training.learner import Training

    torch.set_num_threads(1)
    recipe = published.recipe(f"hiql:{LOG}")
    changed = {"hidden": (width, width), "learning_rate": rate, "target_rate": target_rate}
    made = plan(
        "hiql", settings=dict(recipe.settings) | changed, goals=recipe.goals, preprocessing=recipe.preprocessing,
        training=Training(steps=steps, batch_size=256, compile="on", threads=1),
    )  # fmt: skip
    dataset = load(LOG)
    learner = make_learner(made, *prepare(dataset, made))
    for _ in range(steps):
        learner.advance()
    learner.check()
    algorithm: Any = copy.deepcopy(learner.template)
    learned = learner.parameters_of(0)
    with torch.no_grad():
        for name, parameter in algorithm.named_parameters():
            parameter.copy_(learned[name])
        found = _value(algorithm, dataset) | _low_level(algorithm, dataset, episodes)
    return [{"what": "HIQL", "steps": steps, "width": width, "learning_rate": rate, "target_rate": target_rate} | found]


def _tensor(values: Array) -> Tensor:
    return torch.as_tensor(np.asarray(values, np.float32))


def _going_on(dataset: Any) -> Array:
    """The numbers of the states whose walk goes on for another `AHEAD` steps; all walks are as long."""
    step = np.arange(len(dataset)) % (len(dataset) // dataset.episodes)
    return np.flatnonzero(step + AHEAD < len(dataset) // dataset.episodes)


def _value(algorithm: Any, dataset: Any) -> dict[str, Any]:
    maze, states, generator = Maze(), np.asarray(dataset.columns["observations"], np.float32), np.random.default_rng(0)
    at = generator.choice(len(states) - AHEAD, 4000, replace=False)
    at = at[np.isin(at, _going_on(dataset))]
    ranks, nearer = [], []
    for task in range(1, 6):
        goal = np.split(maze.world.reset(seed=0, options={"task_id": task})[0], 2)[1]
        now, later = (maze.steps_away(states[at + k, :2], goal[:2]) for k in (0, AHEAD))
        goals = _tensor(np.tile(goal, (len(at), 1)))
        worth = [algorithm.value(_tensor(states[at + k]), goals).mean(0).numpy() for k in (0, AHEAD)]
        moved = now != later
        ranks.append(float(spearmanr(worth[0], -now)[0]))
        nearer.append(float(((worth[1] > worth[0]) == (later < now))[moved].mean()))
    subgoals = _tensor(states[at + AHEAD])
    advantage = (algorithm.value(_tensor(states[at + 1]), subgoals) - algorithm.value(_tensor(states[at]), subgoals)).mean(0).numpy()
    actions = np.asarray(dataset.columns["actions"], np.float32)[at]
    chosen = algorithm.low_actor(torch.cat([_tensor(states[at]), algorithm.value.phi(_tensor(states[at]), subgoals)], -1)).numpy()
    sharpness, bound = algorithm.config.low_inverse_temperature, algorithm.config.max_weight
    return {
        "rank_correlations": np.round(ranks, 3).tolist(),
        "nearer_is_worth_more": np.round(nearer, 3).tolist(),
        "advantage_deviation": round(float(advantage.std()), 3),
        "weights_at_bound": round(float((sharpness * advantage >= math.log(bound)).mean()), 3),
        "squared_error_of_actions": round(float(((chosen - actions) ** 2).mean()), 4),
    }


def _low_level(algorithm: Any, dataset: Any, episodes: int) -> dict[str, Any]:
    maze, states = Maze(), np.asarray(dataset.columns["observations"], np.float32)
    whole = _going_on(dataset)
    subgoal = np.zeros(states.shape[1], np.float32)

    def act(seen: Array, goal: Array, t: int) -> Array:
        if t % AHEAD == 0:
            here, there = maze.cell(seen[:2]), maze.cell(goal[:2])
            to = goal[:2] if here == there else np.asarray(maze.maze.ij_to_xy(maze.ahead(here, there)))
            near = whole[np.argsort(np.abs(states[whole, :2] - seen[:2]).sum(1))[:NEAR]] + AHEAD
            subgoal[:] = states[near[np.abs(states[near, :2] - to).sum(1).argmin()]]
        s, z = _tensor(seen)[None], _tensor(subgoal)[None]
        return np.asarray(algorithm.low_actor(torch.cat([s, algorithm.value.phi(s, z)], -1)).numpy()[0])

    return {"solved_told_the_way": maze.solved(act, episodes)[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("walker", "hiql"))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--target-rate", type=float, default=0.05)
    parser.add_argument("--episodes", type=int, default=6, help="of each of the five tasks")
    a = parser.parse_args()
    rows = walker(a.episodes) if a.what == "walker" else hiql(a.steps, a.width, a.rate, a.target_rate, a.episodes)
    for row in rows:
        row |= {"log": LOG, "episodes": 5 * a.episodes, "version": __version__, "torch": torch.__version__, "command": " ".join(sys.argv)}
        append_row(ANTS, row | {"date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")})
        print(row, flush=True)


if __name__ == "__main__":
    main()
