"""Two ways that cross: what planning stitches together, and what a sequence model cannot, as it reads how it came there.

The world and the log are those of `test_tabular_answers`: S → g and, from beside g, → G; nobody went from S to G.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl.algorithms.diffuser import DiffuserConfig, DiffuserPolicy
from stitchrl.algorithms.trajectory_transformer import PlanningPolicy, TrajectoryTransformerConfig
from stitchrl.core.policy import Policy
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data.dataset import Dataset
from tests.known_answers.learning import learn_windows
from tests.known_answers.test_tabular_answers import DISCOUNT, LEFT, RIGHT, START, UP, following, world

TRIPS = ((START, [UP] * 3 + [LEFT] * 3, 3), (1, [RIGHT] * 6, 1))  # the way to the lesser prize is the commoner
CONFIG = TrajectoryTransformerConfig(
    discount=DISCOUNT, sequence=4, context=3, width=32, layers=2, heads=2, dropout=0.0, beam_width=16, horizon=4, dropped_mass=0.1,
    prefix_context=False, learning_rate=3e-3, warmup_steps=20, weight_decay=0.0,
)  # fmt: skip
DIFFUSER = DiffuserConfig(
    horizon=4, width=16, multipliers=(1, 2), discount=DISCOUNT, candidates=16, learning_rate=2e-3, target_rate=0.02,
)  # fmt: skip


def log() -> Dataset:
    """Returns the trips as episodes, each as often as said."""
    mdp = world()
    after = following(mdp)
    s, a, r, ends, finals = [], [], [], [0], []
    for start, actions, times in TRIPS:
        for _ in range(times):
            state = start
            for action in actions:
                s.append(state)
                a.append(action)
                r.append(mdp.reward[state, action])
                state = after[state, action]
            assert mdp.terminal[state]
            ends.append(len(s))
            finals.append(state)
    columns = {"observations": np.array(s), "actions": np.array(a), "rewards": np.array(r, np.float32)}
    columns["terminals"] = np.isin(np.arange(len(s)) + 1, ends)
    columns["timeouts"] = np.zeros(len(s), bool)
    return Dataset(Spec(Discrete(mdp.states), Discrete(mdp.actions)), columns, np.array(ends), np.array(finals), {"name": "crossing"})


@cache
def learned(name: str) -> Any:
    config: Any = {"trajectory_transformer": CONFIG, "diffuser": DIFFUSER}[name]
    learner = learn_windows(name, config, log(), 300, 32)
    template = learner.template
    template.load_state_dict(learner.parameters_of(0))
    return template


def transformer(config: TrajectoryTransformerConfig) -> PlanningPolicy:
    return PlanningPolicy(learned("trajectory_transformer").model, config)


def diffuser(config: DiffuserConfig) -> DiffuserPolicy:
    made = learned("diffuser")
    return DiffuserPolicy(made.ema_denoiser, made.ema_value, config)


def walk(policy: Policy, seed: int | None = None) -> tuple[list[int], float]:
    """Returns the actions from the start to an end of the task, and what they earned; with a seed noise is drawn for each."""
    mdp, memory, kind = world(), policy.memory(1), policy.noise(1)
    after, generator = following(mdp), torch.Generator().manual_seed(seed or 0)
    assert memory is not None
    state, reward, actions, total = START, 0.0, [], 0.0
    while not mdp.terminal[state] and len(actions) < 12:
        noise = None if seed is None or kind is None else kind.draw(1, generator)[0]
        action, memory = policy.step(torch.tensor([state]), torch.tensor([reward]), memory, noise)
        actions.append(int(action))
        reward = float(mdp.reward[state, actions[-1]])
        state, total = int(after[state, actions[-1]]), total + reward
    return actions, total


def test_planning_by_value_goes_where_nobody_went() -> None:
    actions, earned = walk(transformer(CONFIG))
    assert actions == [UP] * 3 + [RIGHT] * 4
    assert earned == pytest.approx(1 - 0.07)


def test_its_own_greedy_decoding_and_the_likeliest_plan_go_where_most_went() -> None:
    lesser = pytest.approx(0.2 - 0.06)
    assert walk(transformer(replace(CONFIG, planning="none"))) == ([UP] * 3 + [LEFT] * 3, lesser)
    assert walk(transformer(replace(CONFIG, planning="likelihood"))) == ([UP] * 3 + [LEFT] * 3, lesser)


def test_a_plan_that_reads_how_it_came_to_the_crossing_stays_on_that_way() -> None:
    # from below everybody turned left: with what was done before it in view, the model knows of no other way
    assert walk(transformer(replace(CONFIG, prefix_context=True)))[0] == [UP] * 3 + [LEFT] * 3


def test_what_a_plan_is_worth_is_what_it_earns() -> None:
    # at the crossing, four steps from the goal: three at a cost and one to the prize
    planned = transformer(CONFIG).planned(torch.tensor([START - 3 * 8]))
    exact = sum(DISCOUNT**t * -0.01 for t in range(4)) + DISCOUNT**3
    assert planned.scores[0, 0].item() == pytest.approx(exact, abs=0.02)
    assert planned.states[0, 0].tolist() == [3, 4, 5, 6]


@pytest.mark.slow
def test_diffuser_goes_where_nobody_went_and_one_plan_without_its_guide_where_most_went() -> None:
    for seed in range(5):
        actions, earned = walk(diffuser(DIFFUSER), seed)
        assert actions == [UP] * 3 + [RIGHT] * 4
        assert earned == pytest.approx(1 - 0.07)
    likely = diffuser(replace(DIFFUSER, guide_scale=0.0, candidates=1))
    assert sum(walk(likely, seed)[1] for seed in range(20)) / 20 < 0.6, "three of four went to the lesser prize, which leaves 0.14"
