"""Atari: the frames that an agent sees are those that a log of it holds, the same for the same seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete
from stitchrl.data.frame_stacks import frames_of
from stitchrl.environments.atari import frame_stack
from stitchrl.environments.behaviours import RandomBehaviour
from stitchrl.environments.clock import longest_episode
from stitchrl.environments.collect import collect
from stitchrl.environments.make import make, spec_of
from stitchrl.experiment import plan, run_experiment
from stitchrl.training.learner import Training

pytest.importorskip("ale_py")
BREAKOUT = "ALE/Breakout-v5"
SHORT = {"max_num_frames_per_episode": 160, "noop_max": 1}  # 40 steps of four frames, less the one it waits


def walk(steps: int, seed: int) -> tuple[list[np.ndarray], list[float]]:
    world, rng = make(BREAKOUT), np.random.default_rng(0)
    seen, rewards = [world.reset(seed=seed)[0]], []
    for _ in range(steps):
        observation, reward, *_ = world.step(int(rng.integers(4)))
        seen.append(observation)
        rewards.append(float(reward))
    world.close()
    return seen, rewards


def test_a_game_is_stacks_of_small_grey_frames() -> None:
    for game, actions in (("ALE/Pong-v5", 6), (BREAKOUT, 4)):
        world = make(game)
        spec = spec_of(world)
        assert spec.observation == Box((4, 84, 84), (0.0,), (255.0,), "uint8")
        assert spec.action == Discrete(actions)
        assert frame_stack(world) == 4
        assert world.unwrapped.ale.getFloat("repeat_action_probability") == pytest.approx(0.25)
        world.close()


def test_the_same_seed_plays_the_same_game() -> None:
    (seen, rewards), (again, others), (other, _) = walk(60, 3), walk(60, 3), walk(60, 4)
    assert np.array_equal(seen, again)
    assert rewards == others
    assert not np.array_equal(seen, other)
    assert np.array_equal(seen[0], seen[0][:1].repeat(4, 0))  # the first frame stands for those before it
    assert all(np.array_equal(later[:3], earlier[1:]) for earlier, later in zip(seen, seen[1:], strict=False))


def test_a_log_holds_what_was_seen_and_each_frame_once() -> None:
    seen: list[np.ndarray] = []

    class Watching:
        description = "random, watched"
        inner = RandomBehaviour(spec_of(make(BREAKOUT)))
        reset, policy_ids, action_probabilities = inner.reset, inner.policy_ids, inner.action_probabilities

        def act(self, observations: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
            seen.append(observations[0].copy())
            return self.inner.act(observations, generator)

    log = collect(BREAKOUT, Watching(), steps=60, seed=1, parallel=1, options=SHORT)
    assert np.array_equal(log.observations, seen[:60])
    assert log.lengths.tolist() == [40, 20]
    assert log.timeouts[[39, 59]].all()
    assert np.array_equal(log.next_observations([58])[0], seen[59])
    assert np.array_equal(log.final_observations[1], seen[60])
    frames = frames_of(log)
    assert frames is not None and frames.frames.nbytes < 2 * 41 * 84 * 84 + 1
    same = collect(BREAKOUT, RandomBehaviour(log.spec), steps=60, seed=1, parallel=1, options=SHORT)
    assert same.fingerprint() == log.fingerprint()
    assert log.metadata["provenance"]["versions"]["ale-py"]


def test_a_run_is_judged_in_the_game(tmp_path: Path) -> None:
    log = collect(BREAKOUT, RandomBehaviour(spec_of(make(BREAKOUT))), steps=30, seed=1, parallel=1, options=SHORT)
    from stitchrl.evaluation.judge import Evaluation

    made = plan(
        "cql",
        settings={"hidden": (8,)},
        training=Training(steps=2, batch_size=2, compile="off"),
        evaluation=Evaluation(episodes=2, parallel=2, processes=1),
    )
    result = run_experiment(made, log, path=tmp_path / "run", source="made", environment=BREAKOUT, environment_options=SHORT)
    assert result.evaluation is not None
    assert result.evaluation["lengths"] == [[40, 40]]
    assert result.evaluation["believed_value"] is not None


def test_a_clock_counts_the_steps_of_the_agent() -> None:
    world = make(BREAKOUT, max_episode_steps=7)
    assert frame_stack(world) == 4
    assert (longest_episode(world), world.spec.max_episode_steps) == (math.inf, 7)
    for _ in range(2):
        world.reset(seed=1)
        ends = [world.step(0)[2:4] for _ in range(7)]
        assert ends == [(False, False)] * 6 + [(False, True)]
        assert world.unwrapped.ale.getEpisodeFrameNumber() >= 28
    world.close()
    log = collect(BREAKOUT, RandomBehaviour(spec_of(world)), episodes=2, seed=1, parallel=1, options={"max_episode_steps": 5})
    assert log.lengths.tolist() == [5, 5]
    assert make(BREAKOUT, max_episode_steps=-1).spec.max_episode_steps is None
    with pytest.raises(ConfigError, match="positive"):
        make(BREAKOUT, max_episode_steps=0)
    with pytest.raises(ConfigError, match="integer"):
        make(BREAKOUT, max_episode_steps=2.5)


def test_mistakes_are_told() -> None:
    with pytest.raises(ConfigError, match=r"not with ALE's own frameskip \(4\).*--env none"):
        make("ALE/Pong-v5", game="pong", frameskip=4)  # as Minari records the game
    with pytest.raises(ConfigError, match="Did you mean 'frame_stack'"):
        make("ALE/Pong-v5", frame_stak=3)
    with pytest.raises(ConfigError, match="frame_skip"):
        make("ALE/Pong-v5", frame_skip=0)
    ram = make("ALE/Pong-v5", obs_type="ram")
    assert spec_of(ram).observation == Box((128,), (0.0,), (255.0,), "uint8")
    assert frame_stack(ram) is None
