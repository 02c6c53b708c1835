"""Published settings: every recipe is one that its algorithm takes, and those of a dataset are matched by its whole name."""

from __future__ import annotations

import pytest
import torch

from stitchrl import algorithms
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import Goals, with_goal
from stitchrl.core.settings import read_settings
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.recipes.datasets import available
from stitchrl.recipes.published import recipe, recipes
from stitchrl.recipes.published_scores import _BEST, _GOALS, _LAST, _LATER, GOAL_SOURCE, SOURCE, published, source_of


@pytest.mark.parametrize("name", sorted(recipes()))
def test_an_algorithm_takes_its_recipe(name: str) -> None:
    found = recipe(name)
    kind, config = algorithms.find(found.algorithm)
    _, _, log = name.partition(":")
    frames = "atari" in name or log.startswith(("breakout", "pong"))
    seen = Box((4, 84, 84)) if frames else Box((11,))
    spec = Spec(seen, Discrete(4) if frames or "discrete" in name else Box((3,), (-1.0,) * 3, (1.0,) * 3))
    with torch.device("meta"):  # its networks, however large
        kind(read_settings(config, found.settings, name), with_goal(spec) if isinstance(kind.batch, Goals) else spec)


def test_a_recipe_of_a_log_is_of_a_log_that_there_is() -> None:
    families = {name.partition("/")[0] for name in available()}
    named = {name.partition(":")[2] for name in recipes()} | {
        line.split()[0] for line in (_LAST + _BEST + _LATER + _GOALS).splitlines() if line
    }
    told = {log for log in named if "/" in log and log.partition("/")[0] in families}
    assert told and told <= set(available())
    assert "antmaze-umaze-v2" == (published("antmaze/umaze-play") or ("", {}))[0]


def test_published_scores_of_reaching_goals_are_ogbenchs() -> None:
    """Its table 2; the size that our logs leave out is medium."""
    name, scores = published("pointmaze/navigate") or ("", {})
    assert name == "pointmaze-medium-navigate-v0" and scores["hiql"] == (79, 5) and scores["qrl"] == (82, 5)
    assert (published("antmaze/large-stitch") or ("",))[0] == "antmaze-large-stitch-v0" and published(
        "pointmaze/navigate", best=True
    ) is None
    assert source_of(["pointmaze/navigate", "gridworld/mixed"]) == GOAL_SOURCE and source_of(["hopper/medium"]) == SOURCE
    assert source_of(["hopper/medium", "pointmaze/navigate"]) == f"{SOURCE}. {GOAL_SOURCE}" and source_of(["gridworld/mixed"]) == ""


def test_a_dataset_is_matched_by_its_whole_name() -> None:
    # a port that matched by the beginning gave medium-replay and medium-expert the penalties of medium
    found = {
        level: (
            recipe(f"rebrac:halfcheetah/{level}").settings["actor_penalty"],
            recipe(f"rebrac:halfcheetah/{level}").settings["critic_penalty"],
        )
        for level in ("medium", "medium-replay", "medium-expert")
    }
    assert found == {"medium": (0.001, 0.01), "medium-replay": (0.01, 0.001), "medium-expert": (0.01, 0.1)}
    with pytest.raises(ConfigError, match="rebrac:halfcheetah/medium"):
        recipe("rebrac:halfcheetah/mediu")
    with pytest.raises(ConfigError, match="unknown recipe"):
        recipe("rebrac:halfcheetah")


def test_batches_are_as_large_as_published() -> None:
    sizes = {
        "rebrac:halfcheetah/medium": 1024, "rebrac:antmaze/medium-play": 256, "bcq_locomotion": 100, "bcq_discrete": 64, "bc_atari": 100,
        "cql_atari": 32, "bcq_atari": 32, "decision_transformer:hopper/medium": 64, "decision_transformer_atari": 128, "diffuser_locomotion": 64,
        "decision_diffuser:hopper/medium": 64, "trajectory_transformer_locomotion": 256, "iql_locomotion": 256,
    }  # fmt: skip
    assert {name: recipe(name).batch_size for name in sizes} == sizes
    assert {recipe(f"{method}:pointmaze/stitch").batch_size for method in ("gcbc", "gcivl", "gciql", "hiql", "qrl", "crl")} == {1024}


def test_cloning_weighs_a_hundredth_on_point_mazes() -> None:
    """OGBench's hyperparameters.sh, one line for each task and method."""
    weights = {
        "gciql": (0.003, 0.3, 0.01), "qrl": (0.0003, 0.003, 0.001), "crl": (0.03, 0.1, 0.003),
    }  # fmt: skip
    logs = ("pointmaze/stitch", "antmaze/large-stitch", "antmaze/medium-explore")
    for method, expected in weights.items():
        assert tuple(recipe(f"{method}:{log}").settings["bc_weight"] for log in logs) == expected
    assert recipe("gcbc").settings["distribution"] == "clipped"


def test_sac_n_is_edac_without_diversity() -> None:
    assert recipe("sac_n:hopper/medium").algorithm == "edac"
    assert recipe("sac_n:hopper/medium").settings == {"ensemble": 500, "diversity": 0.0}


def test_antmaze_has_rates_discount_and_rewards_of_its_own() -> None:
    found = recipe("rebrac:antmaze/medium-play")
    assert found.preprocessing.reward_scale == 100.0
    assert (found.settings["discount"], found.settings["actor_learning_rate"], found.settings["critic_learning_rate"]) == (
        0.999,
        3e-4,
        5e-5,
    )
