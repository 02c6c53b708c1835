"""A log is judged as the policy sees it: codes that stand for other words and goals that it does not read are refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchrl
from stitchrl import agent
from stitchrl.core.errors import CheckpointError, DataError
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources.tables import TableSchema
from stitchrl.evaluation.crossfit import check_target
from stitchrl.evaluation.evidence import AgentTarget
from stitchrl.evaluation.seen_by_policy import check_categories, seen_by, with_goals

QUICK: dict[str, Any] = {"training": {"steps": 2, "batch_size": 8, "save_every": 2}, "logging": Logging(tensorboard=False, quiet=True)}

COLUMNS: dict[str, Any] = {"observations": ("obs_x",), "actions": ("action",), "reward": "reward", "episode": "episode"}


def told(**categories: list[str]) -> Dataset:
    columns: dict[str, Any] = {
        "observations": np.zeros(1, np.int64), "actions": np.zeros(1, np.int64), "rewards": np.zeros(1, np.float32),
        "terminals": np.ones(1, np.bool_), "timeouts": np.zeros(1, np.bool_),
    }  # fmt: skip
    metadata = {"name": "ward.csv", "categories": categories} if categories else {"name": "ward.csv"}
    return Dataset(Spec(Discrete(1), Discrete(3)), columns, np.array([0, 1]), np.zeros(1, np.int64), metadata)


def test_codes_that_stand_for_other_words_are_refused() -> None:
    learned = {"drug": ["none", "low", "high"]}
    with pytest.raises(
        DataError, match=r"ward.csv: column 'drug': the code 0 stands for 'high', and for 'none'.*expected .*'none', 'low', 'high'"
    ):
        check_categories(learned, told(drug=["high", "low", "none"]))
    with pytest.raises(DataError, match=r"--table.categories 'drug=none,low,high'"):
        check_categories(learned, told(drug=["none", "high"]))
    with pytest.raises(DataError, match=r"no column holds the categories of 'drug'.*found 'dose'"):
        check_categories(learned, told(dose=["mild", "strong"]))


def test_codes_that_mean_the_same_pass() -> None:
    learned = {"drug": ["none", "low", "high"]}
    for other in ({"drug": ["none", "low", "high"]}, {"drug": ["none", "low"]}, {"drug": ["none", "low", "high", "double"]}, {}):
        check_categories(learned, told(**other))
    check_categories(learned, told(treatment=["none", "low", "high"]))  # renamed
    check_categories({}, told(drug=["high", "low", "none"]))  # a policy of numbers coded elsewhere


def table(path: Path, words: dict[int, str], order: np.random.Generator) -> Path:
    rows = ["episode,obs_x,action,reward"]
    for episode in range(40):
        rows += [f"{episode},{order.normal():.3f},{words[int(order.integers(3))]},{order.normal():.3f}" for _ in range(5)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_run_on_a_table_remembers_its_words_and_trust_refuses_another_order(tmp_path: Path) -> None:
    words, random = {0: "none", 1: "low", 2: "high"}, np.random.default_rng(0)
    first = stitchrl.load(table(tmp_path / "first.csv", words, random), schema=TableSchema(**COLUMNS, categories=("action",)))
    assert first.metadata["categories"] == {"action": ["high", "low", "none"]}
    run = stitchrl.train("bc", first, run=tmp_path / "run", settings={"hidden": (4,)}, **QUICK)
    assert run.agent.categories == stitchrl.load_policy(tmp_path / "run").categories == {"action": ["high", "low", "none"]}
    assert json.loads((tmp_path / "run" / "policy" / "config.json").read_text())["categories"] == {"action": ["high", "low", "none"]}
    renamed = TableSchema(**COLUMNS, categories=("action=none,low,high",))
    second = stitchrl.load(table(tmp_path / "second.csv", words, random), schema=renamed)
    with pytest.raises(DataError, match=r"second.*the code 0 stands for 'none', and for 'high' in the log that the policy learned from"):
        stitchrl.trust(tmp_path / "run", second, quick=True)


def test_hostile_categories_are_refused(tmp_path: Path) -> None:
    stitchrl.train("bc", told().select([0] * 8), run=tmp_path / "run", settings={"hidden": (4,)}, **QUICK)
    config = json.loads((tmp_path / "run" / "policy" / "config.json").read_text())
    assert "categories" not in config
    for wrong in (["a"], {"drug": "abc"}, {"drug": [1, 2]}, 3):
        (tmp_path / "run" / "policy" / "config.json").write_text(json.dumps(config | {"categories": wrong}))
        with pytest.raises(CheckpointError, match="describes no policy"):
            agent.load(tmp_path / "run")


# ------------------------------------------------------------------------------------------------------ goals


def walks(goals: np.ndarray, episodes: int = 12, length: int = 4) -> Dataset:
    random, steps = np.random.default_rng(0), episodes * length
    ends = np.arange(1, steps + 1) % length == 0
    columns: dict[str, Any] = {
        "observations": random.normal(size=(steps, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": random.normal(size=steps).astype(np.float32),
        "terminals": np.zeros(steps, np.bool_),
        "timeouts": ends,
        "goals": np.repeat(goals.astype(np.float32), length, 0),
    }
    spec = Spec(Box((3,)), Box((2,), (-1.0, -1.0), (1.0, 1.0)))
    return Dataset(spec, columns, np.arange(0, steps + 1, length), random.normal(size=(episodes, 3)).astype(np.float32))


MANY = np.arange(24).reshape(12, 2)


def test_goals_stand_behind_the_observations_for_a_policy_that_reads_both() -> None:
    log = walks(MANY)
    wide = with_goals(Spec(Box((5,)), log.spec.action), log)
    assert wide.spec.observation == Box((5,)) and "goals" not in wide.columns
    assert np.array_equal(wide.observations[:, :3], log.observations) and np.array_equal(wide.observations[:, 3:], log.columns["goals"])
    assert np.array_equal(wide.final_observations[:, 3:], MANY) and np.array_equal(wide.final_observations[:, :3], log.final_observations)
    assert np.array_equal(wide.next_observations([3])[0, 3:], MANY[0])  # the last step of the first episode, not the next one's goal
    assert with_goals(log.spec, log) is log and with_goals(Spec(Box((4,)), log.spec.action), log) is log


def test_a_policy_that_does_not_read_the_goals_of_a_log_is_refused(tmp_path: Path) -> None:
    log = walks(MANY)
    blind = stitchrl.train("bc", log, run=tmp_path / "blind", settings={"hidden": (4,)}, **QUICK).agent
    with pytest.raises(DataError, match=r"column 'goals' of the log changes, and the policy does not read it.*\[5\] here.*goal_keys"):
        stitchrl.trust(blind, log, quick=True)
    one_goal = walks(np.ones((12, 2)))
    check_target(seen_by(blind, one_goal), AgentTarget(blind))  # nothing is mixed up
    seeing = stitchrl.train(
        "bc", with_goals(Spec(Box((5,)), log.spec.action), log), run=tmp_path / "seeing", settings={"hidden": (4,)}, **QUICK
    ).agent
    check_target(seen_by(seeing, log), AgentTarget(seeing))
    assert np.array_equal(seen_by(seeing, log).observations[:, 3:], log.columns["goals"])
