"""Runs that learn to reach goals: plain algorithms and their own, from the plan to the saved policy in an environment of goals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stitchrl
from stitchrl.agent import load
from stitchrl.core.algorithm import build
from stitchrl.core.batch import Transitions
from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.files import read_json
from stitchrl.core.goals import GoalDrawing, HindsightTransitions, with_goal
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import Preprocessing, make_learner, plan, prepare, run_experiment
from stitchrl.recipes import published
from stitchrl.report.run import write_run_report
from stitchrl.training.learner import Learner, Training
from tests.algorithms.synthetic_log import Case, advance, cases, weights

SMALL = {"hidden": (16, 16)}
QUIET = Logging(tensorboard=False, quiet=True)
HINDSIGHT = GoalDrawing(hindsight=True)


def log(episodes: int = 8, steps: int = 12) -> Dataset:
    """Returns walks on a plane: x, y."""
    rng = np.random.default_rng(0)
    walks = []
    for _ in range(episodes):
        actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
        places = np.concatenate([rng.uniform(0, 20, (1, 2)), 0.2 * actions]).cumsum(0).astype(np.float32)
        walks.append({"observations": places, "actions": actions, "rewards": np.zeros(steps), "terminals": False})
    return Dataset.from_episodes(walks, Spec(Box((2,)), Box((2,), (-1.0,), (1.0,))), {"name": "walks"})


def learner(name: str, seeds: Any = (3,), **changes: Any) -> Learner:
    settings = {**SMALL, **({"latent": 16} if name == "crl" else {})}
    made = plan(
        name, settings=settings, seeds=seeds, goals=HINDSIGHT if name in ("bc", "iql", "td3_bc") else None,
        preprocessing=Preprocessing(standardize_observations=True),
        training=Training(**{"steps": 200, "batch_size": 16, "compile": "off", "precision": "float64", **changes}),
    )  # fmt: skip
    data, transforms = prepare(log(), made)
    return make_learner(made, data, transforms)


def test_what_is_not_given_of_goals_is_as_the_algorithm_draws_them(tmp_path: Path) -> None:
    stitchrl.train(
        "qrl", log(), run=tmp_path / "run", settings={**SMALL, "latent": 16, "components": 4}, goals={"actor_future": 0.5, "actor_random": 0.5},
        training={"steps": 2, "batch_size": 8, "compile": "off"}, logging=QUIET,
    )  # fmt: skip
    drawn = read_json(tmp_path / "run" / "config.json")["goals"]
    assert [drawn[f"value_{name}"] for name in ("current", "future", "random")] == [0, 0, 1] and drawn["actor_random"] == 0.5
    for changed in ({"value_spacing": "uniform"}, {"discount": 0.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(changed))} is .* has no effect"):
            stitchrl.train("qrl", log(), run=tmp_path / "other", goals=changed)


def test_observations_without_goals_are_told_what_they_lack(tmp_path: Path) -> None:
    small: dict[str, Any] = {"settings": SMALL, "training": {"steps": 2, "batch_size": 8}, "logging": QUIET}
    stitchrl.train("hiql", log(), run=tmp_path / "run", **small)
    agent, seen, wanted = stitchrl.load_policy(tmp_path / "run"), log().observations[:3], log().observations[20:23]
    assert agent.predict(np.concatenate([seen, wanted], 1)).shape == (3, 2)
    words = r"expected \[{}N, 4\].*reads \[observation, goal\]: np.concatenate"
    with pytest.raises(DataError, match=words.format("")):
        agent.predict(seen)
    with pytest.raises(DataError, match=words.format("S, ")):
        agent.act(seen[None])
    with pytest.raises(DataError, match=r"expected \[N, 4\] as in the data$"):
        agent.predict(seen[:, :1])


@pytest.mark.parametrize("name", ["iql", "td3_bc", "hiql"])
def test_seeds_together_are_seeds_alone_and_resume_exactly(name: str) -> None:
    together, alone = advance(learner(name, (0, 3)), 6), advance(learner(name, (3,)), 6)
    one, two = weights(alone), weights(together)
    for key in one:
        if key.startswith("parameters/"):
            torch.testing.assert_close(one[key], two[key][1], rtol=1e-9, atol=1e-9)
    stopped = advance(learner(name), 67)  # within the second block
    resumed = learner(name)
    resumed.restore(stopped.tensors(), 67)
    advance(resumed, 4)
    whole = advance(learner(name), 71)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), resumed.tensors().values(), strict=True))


PLAIN = [case for case in cases(variants=False) if type(case.algorithm.batch) is Transitions]


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_what_acts_learns_from_the_goals_of_actors_and_all_else_from_those_of_values(case: Case) -> None:
    spec = with_goal(case.spec)
    made = build(case.algorithm, case.config(), spec, 0)
    made.batch = HindsightTransitions()
    draw = torch.Generator().manual_seed(0)
    rows = torch.rand(6, 4, sum(made.batch.columns(spec).values()), generator=draw)  # the state, the next, the value's goal, the actor's
    if isinstance(spec.action, Discrete):
        rows[..., -1] = torch.arange(6)[:, None] % spec.action.n
    noise = {name: one.draw(1, draw)[0] for name, one in made.noise(6).items()}
    due = frozenset(made.networks)
    as_it_was, _ = made(rows, noise, due)
    assert set(as_it_was) == due
    for place, moved in ((2, due - made.acting), (3, due & made.acting)):
        other = rows.clone()
        other[:, place, :2] += 1
        now, _ = made(other, noise, due)
        scalars = {"temperature", "multiplier"}  # begin as log 1: whatever they multiply, their first loss is 0
        assert {network for network in due if not torch.equal(as_it_was[network], now[network])} - scalars == moved - scalars


def test_a_run_is_saved_with_the_spec_of_its_policy_and_judged_on_the_tasks(tmp_path: Path) -> None:
    pytest.importorskip("ogbench")
    made = plan(
        "iql", settings={**SMALL, "discount": 0.9}, seeds=2, goals=HINDSIGHT, preprocessing=Preprocessing(standardize_observations=True),
        training=Training(steps=4, batch_size=16, log_every=2), evaluation=Evaluation(episodes=5, parallel=5, processes=1),
    )  # fmt: skip
    options = {"max_episode_steps": 3}
    result = run_experiment(
        made, log(), path=tmp_path / "run", source="walks", environment="pointmaze-medium-v0", environment_options=options, logging=QUIET
    )
    line = result.evaluation
    assert line is not None and np.shape(line["successes"]) == (2, 5) and np.shape(line["lengths"]) == (2, 5)
    assert line["believed_value"] is None, "steps to a goal are not the task's rewards"
    config = read_json(tmp_path / "run" / "config.json")
    assert config["goals"]["hindsight"] is True and config["spec"]["observation"]["shape"] == [4]
    assert line["success_by_task"] == line["successes"], "five tasks in turn, one episode of each"
    write_run_report(tmp_path / "run")
    card, page = ((tmp_path / "run" / name).read_text() for name in ("card.md", "report.html"))
    assert "reads an observation with a goal beside it" in card and "- success of the last, task by task: 1: 0 %, 2: 0 %" in card
    assert "task by task" in page and "actor_future" in page
    agent = load(tmp_path / "run")
    pairs = np.array([[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0]], np.float32)
    action = agent.predict(pairs)
    np.testing.assert_allclose(action, result.agent.predict(pairs), rtol=1e-6)
    assert np.abs(action[0] - action[1]).max() > 1e-6, "the policy must see its goal"
    [scale] = [t for t in agent.transforms if t.column == "observations"]
    assert (scale.scale[:2] == scale.scale[2:]).all() and (scale.shift[:2] == scale.shift[2:]).all()


def test_what_cannot_reach_goals_says_so() -> None:
    with pytest.raises(ConfigError, match="return_range is 10.0, and has no effect with goals"):
        plan("iql", goals=HINDSIGHT, preprocessing=Preprocessing(return_range=10.0))
    with pytest.raises(ConfigError, match="goals: hindsight is off"):
        plan("gcivl", goals=GoalDrawing())
    states = Dataset.from_episodes(
        [{"observations": np.arange(4), "actions": np.zeros(3, np.int64), "rewards": np.zeros(3), "terminals": False}],
        Spec(Discrete(4), Discrete(2)),
    )
    made = plan("bc", goals=HINDSIGHT)
    with pytest.raises(ConfigError, match="real-valued observation vectors"):
        make_learner(made, *prepare(states, made))


@pytest.mark.parametrize("log", ["", "pointmaze/navigate", "pointmaze/large-stitch", "antmaze/medium-explore"])
@pytest.mark.parametrize("base", ["gcbc", "gciql", "gcivl", "hiql", "qrl", "crl"])
def test_recipes_are_plans_that_hold_together(base: str, log: str) -> None:
    found = published.recipe(f"{base}:{log}" if log else base)
    made = plan(found.algorithm, settings=found.settings, preprocessing=found.preprocessing, goals=found.goals)
    assert made.goals.hindsight
    anywhere = {"pointmaze/large-stitch": 0.5, "antmaze/medium-explore": 1.0}.get(log, 0.0)
    assert made.goals.actor_random == (0.0 if base == "gcbc" else anywhere)
    assert made.goals.value_random == {"qrl": 1.0, "crl": 0.0}.get(base, 0.3)


def test_cloning_weighs_as_ogbench_says() -> None:
    """hyperparameters.sh: GCIQL 0.003 on point mazes, 0.3 on ants, 0.01 where they explore."""
    told = {
        "pointmaze/navigate": (0.003, 0.0003, 0.03),
        "antmaze/large-stitch": (0.3, 0.003, 0.1),
        "antmaze/medium-explore": (0.01, 0.001, 0.003),
    }
    for log, expected in told.items():
        assert tuple(published.recipe(f"{method}:{log}").settings["bc_weight"] for method in ("gciql", "qrl", "crl")) == expected
