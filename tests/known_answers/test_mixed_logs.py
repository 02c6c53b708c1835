"""On logs of mixed quality the ways that look at rewards leave cloning behind: HalfCheetah's medium-replay, and the pendulum's, one seed."""

from __future__ import annotations

from typing import Any

import pytest

from stitchrl.agent import Agent
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.acting_settings import acting_with
from stitchrl.evaluation.playing import play
from stitchrl.evaluation.references import normalized_score, reference_for
from stitchrl.evaluation.rollout import rollout
from stitchrl.experiment import plan
from stitchrl.recipes import benchmark_suites, datasets, published
from stitchrl.training.learner import Training
from tests.known_answers.learning import learn

pytest.importorskip("mujoco")

LOG = "halfcheetah/medium-replay"
# D4RL's scale; benchmarks/scores/standard has the curves: cloning stays at 2, these were at 27, 28 and 26 to 27
WAYS = {"filtered_bc": 2_000, "awac_locomotion": 5_000, "iql_locomotion": 8_000}


def score(recipe: str, steps: int) -> float:
    made = published.recipe(recipe)
    training = Training(steps=steps, threads=1, compile="off")
    agreed = plan(made.algorithm, settings=made.settings, preprocessing=made.preprocessing, training=training)
    _, agent = learn(agreed, datasets.load(LOG))
    found = rollout(lambda x, _: agent.act(x), "HalfCheetah-v5", episodes=5, seed=10_000, parallel=5, processes=1)
    return 100 * (float(found.returns.mean()) + 280.178953) / (12135.0 + 280.178953)  # D4RL's references


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_looks_at_rewards_beats_cloning_on_mixed_data() -> None:
    cloned = score("bc_locomotion", 2_000)
    assert cloned < 10
    for recipe, steps in WAYS.items():
        assert score(recipe, steps) > cloned + 10, recipe


# benchmarks/scores/standard, three seeds: cloning 3, the log itself 24, TD3+BC 10, and these 99, 98, 77, 71, 44
PENDULUM = ("rebrac", "filtered_bc", "bcq", "edac", "fql")
# seed 0: 37, 56, 47, 49, 69, 76, of seeds that are up to 40 apart; in the middle of the log's agents at the least
ABOVE_THE_LOG = ("iql", "awac", "cql", "cal_ql", "sac", "sac_n")


def suite_score(suite: str, log: str, method: str) -> float:
    """Returns the score of the suite's own run of a method, seed 0."""
    return suite_scores(suite, log, method, {})[0]


def suite_scores(suite: str, log: str, method: str, *acting: dict[str, Any]) -> list[float]:
    """The same, of the same weights acting with other settings."""
    task = next(task for task in benchmark_suites.suite(suite).tasks if task.dataset == log)
    agreed = benchmark_suites.plan_of(task, method, 0)
    dataset = datasets.load(log)
    _, agent = learn(agreed, dataset)
    return [_played(acting_with(agent, changed) if changed else agent, dataset, agreed.evaluation.epsilon) for changed in acting]


def _played(agent: Agent, dataset: Dataset, epsilon: float | None = None) -> float:
    environment, options = str(dataset.metadata["environment"]), dict(dataset.metadata["environment_options"] or {})
    found = play(agent, environment, epsilon=epsilon, episodes=20, seed=10_000, parallel=20, processes=1, environment_options=options)
    reference = reference_for(environment, dataset.metadata)
    assert reference is not None
    return float(normalized_score(found.returns, reference).mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_the_pendulum_they_beat_cloning_and_the_log_and_rebrac_beats_td3_bc() -> None:
    cloned, td3_bc = (suite_score("standard", "pendulum/mixed", method) for method in ("bc", "td3_bc"))
    assert cloned < 24, "the mean of experts and chance is worse than the log"
    scores = {method: suite_score("standard", "pendulum/mixed", method) for method in PENDULUM}
    assert min(scores.values()) > max(40, cloned + 20), scores
    assert scores["rebrac"] > td3_bc + 30 and scores["filtered_bc"] > cloned + 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_on_the_pendulum_every_other_value_method_is_above_the_log() -> None:
    scores = {method: suite_score("standard", "pendulum/mixed", method) for method in ABOVE_THE_LOG}
    assert min(scores.values()) > 24, scores


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_values_and_distances_reach_goals_that_cloning_does_not() -> None:
    """benchmarks/scores/standard, seed 0: HIQL 60, GCIVL 56, QRL 52, GCBC 20 (three seeds: 60, 59, 49 and 9)."""
    pytest.importorskip("ogbench")
    methods = ("gcbc", "gcivl", "qrl", "hiql")
    cloned, *others = (suite_score("standard", "pointmaze/navigate", method) for method in methods)
    assert min(others) > cloned + 15, (cloned, others)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_rebrac_beats_td3_bc_on_a_robots_mixed_log() -> None:
    """benchmarks/scores/standard, three seeds: ReBRAC 12.8 to 14.2, TD3+BC 8.0 to 9.7."""
    rebrac, td3_bc = (suite_score("standard", "halfcheetah/medium-replay", method) for method in ("rebrac", "td3_bc"))
    assert rebrac > td3_bc + 1.5


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_asking_for_a_high_return_beats_not_asking() -> None:
    """benchmarks/scores/sequences, two seeds of Decision Diffuser: 17.8 and 23.1, without guidance 9.4 and 9.0; cloning 10."""
    guided, unguided = suite_scores("sequences", "hopper/medium-replay", "decision_diffuser", {}, {"guidance": 0.0})
    assert guided > unguided + 4 and guided > 13


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_planning_beats_greedy_decoding() -> None:
    """The same of Trajectory Transformer: 18.7 and 18.5, greedily 13.3 and 11.7."""
    planned, greedy = suite_scores("sequences", "hopper/medium-replay", "trajectory_transformer", {}, {"planning": "none"})
    assert planned > greedy + 1.5 and planned > 13


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_values_cross_the_ants_maze_where_cloning_and_td3_bc_fail() -> None:
    """benchmarks/scores/antmaze: of 50 episodes IQL arrives in 52 % (seed 1: 48), ReBRAC in 66 (30), cloning and TD3+BC (CORL's rewards) in none."""
    assert suite_score("antmaze", "antmaze/medium-diverse", "bc") <= 10
    assert suite_score("antmaze", "antmaze/medium-diverse", "td3_bc") <= 10
    assert suite_score("antmaze", "antmaze/medium-diverse", "iql") >= 30
    assert suite_score("antmaze", "antmaze/medium-diverse", "rebrac") >= 30


@pytest.mark.slow
@pytest.mark.timeout(10_800)
def test_values_cross_the_large_maze_of_ants_too() -> None:
    """The same of the large maze, two seeds: ReBRAC arrives in 88 and 76 %, IQL in 40 and 38, the others in none; CORL's have 64, 30, 0 and 0."""
    scores = {method: suite_score("antmaze", "antmaze/large-diverse", method) for method in ("bc", "td3_bc", "iql", "rebrac")}
    assert max(scores["bc"], scores["td3_bc"]) <= 10 and scores["iql"] >= 20 and scores["rebrac"] >= 50, scores


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_values_of_frames_beat_cloning_them() -> None:
    """benchmarks/scores/atari, Pong: CQL 22, cloning 9 (seed 1: 19 and 16); in Breakout CQL has 32 and 8, cloning 13 and 11: not asserted."""
    pytest.importorskip("ale_py")
    cloned, valued = (suite_score("atari", "pong/mixed", method) for method in ("bc", "cql"))
    assert valued > cloned + 4
