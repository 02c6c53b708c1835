"""Reference returns: D4RL's constants by Gymnasium id, checked against the collected file where it is present."""

import json
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.evaluation.references import Reference, d4rl_reference, normalized_score, reference_for

COLLECTED = Path("/work/shared/data/reference/d4rl_ref_scores.json")


def test_normalized_score_by_hand() -> None:
    assert normalized_score([[10.0, 30.0], [50.0, 70.0]], Reference(10.0, 50.0)).tolist() == [[0.0, 50.0], [100.0, 150.0]]
    hopper = reference_for("Hopper-v5")
    assert hopper is not None
    assert normalized_score(1607.013848, hopper) == pytest.approx(50.0, abs=1e-4)  # halfway between -20.272305 and 3234.3


@pytest.mark.parametrize(
    ("environment", "random", "expert"),
    [
        ("HalfCheetah-v5", -280.178953, 12135.0),
        ("HalfCheetah-v2", -280.178953, 12135.0),
        ("Ant-v4", -325.6, 3879.7),
        ("PointMaze_UMaze-v3", 23.85, 161.86),
        ("PointMaze_LargeDense-v3", 30.569041, 303.4857382709002),
        ("FrankaKitchen-v1", 0.0, 4.0),
        ("gymnasium_robotics:AdroitHandPen-v1", 96.262799, 3076.8331017826877),
        ("maze2d-large-dense-v1", 30.569041, 303.4857382709002),
        ("hopper-medium-expert-v2", -20.272305, 3234.3),
    ],
)
def test_known_tasks(environment: str, random: float, expert: float) -> None:
    found = reference_for(environment)
    assert found is not None and (found.random, found.expert) == (random, expert)


@pytest.mark.parametrize(
    "environment", ["CartPole-v1", "AntMaze_UMazeDense-v4", "AdroitHandDoorSparse-v1", "AntBulletEnv-v0", "anthill-v0"]
)
def test_unknown_tasks_have_none(environment: str) -> None:
    assert reference_for(environment) is None


def test_an_ants_maze_has_d4rls_reference_where_an_arrival_ends_the_episode() -> None:
    """Otherwise it pays for every step at the goal, and a return of 1 is not the best."""
    for options in ({}, {"continuing_task": True}):
        assert reference_for("AntMaze_Medium_Diverse_GR-v4", options=options) is None
    assert reference_for("AntMaze_Medium_Diverse_GR-v4", options={"continuing_task": False}) == Reference(0.0, 1.0, "D4RL antmaze")
    assert reference_for("antmaze-medium-diverse-v2") == Reference(0.0, 1.0, "D4RL antmaze")


def test_the_data_come_first() -> None:
    found = reference_for("HalfCheetah-v5", {"reference": {"random": 0, "expert": 2}})
    assert found == Reference(0.0, 2.0, "data")
    assert reference_for("CartPole-v1", {"reference": None}) is None
    umaze = {"reference": {"random": 0, "expert": 2}, "environment": "PointMaze_UMaze-v3", "environment_options": {"reset_target": False}}
    assert reference_for("PointMaze_UMaze-v3", umaze, {"reset_target": False}) == Reference(0.0, 2.0, "data")
    for environment, expert in (("PointMaze_Large-v3", 273.99), ("PointMaze_UMaze-v3", 161.86)):  # another maze; its goal elsewhere
        other = reference_for(environment, umaze)
        assert other is not None and other.expert == expert
    assert reference_for("CartPole-v1", umaze) is None
    with pytest.raises(ConfigError, match="expected"):
        reference_for("X-v0", {"reference": {"random": 0}})
    with pytest.raises(ConfigError, match="different"):
        Reference(1.0, 1.0)


@pytest.mark.skipif(not COLLECTED.exists(), reason="the collected constants are not on this machine")
def test_every_constant_we_carry_equals_the_collected_one() -> None:
    checked = 0
    for name, (random, expert) in json.loads(COLLECTED.read_text()).items():
        if (found := d4rl_reference(name)) is not None:
            np.testing.assert_allclose((found.random, found.expert), (random, expert), rtol=1e-9, err_msg=name)
            checked += 1
    assert checked > 80
