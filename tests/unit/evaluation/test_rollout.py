"""Rollouts against a plain loop over one environment, whatever the number of slots and processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, StitchError
from stitchrl.evaluation.references import Reference
from stitchrl.evaluation.rollout import Rollout, episode_seed, rollout
from stitchrl.evaluation.slots import Slots, Steps


def cartpole() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def pendulum() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Pendulum-v1")


def balance(observations: np.ndarray) -> np.ndarray:
    """A fair policy for CartPole whose episodes end at very different times."""
    return (observations[..., 2] + 0.3 * observations[..., 3] > 0.02 * np.sign(observations[..., 0])).astype(np.int64)


def swing(observations: np.ndarray) -> np.ndarray:
    return np.clip(2.0 * observations[..., 2:3] * np.sign(observations[..., :1]), -2.0, 2.0)


def plain_loop(opens: Any, policy: Any, seeds: list[int], discount: float) -> tuple[list[float], list[float], list[int], list[bool]]:
    environment = opens()
    totals, discounted, lengths, terminals = [], [], [], []
    for seed in seeds:
        observation, _ = environment.reset(seed=seed)
        total, weighted, t, terminal, timeout = 0.0, 0.0, 0, False, False
        while not (terminal or timeout):
            observation, reward, terminal, timeout, _ = environment.step(policy(observation))
            total, weighted, t = total + float(reward), weighted + float(reward) * discount**t, t + 1
        totals.append(total), discounted.append(weighted), lengths.append(t), terminals.append(bool(terminal))
    return totals, discounted, lengths, terminals


def same(a: Rollout, b: Rollout) -> None:
    for name in ("returns", "discounted_returns", "lengths", "terminals"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize(("opens", "policy", "episodes"), [(cartpole, balance, 13), (pendulum, swing, 5)])
def test_equals_a_plain_loop_exactly_for_any_parallelism(opens: Any, policy: Any, episodes: int) -> None:
    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        return policy(observations)

    results = [
        rollout(act, opens, episodes=episodes, seeds=3, seed=7, discount=0.97, parallel=parallel, processes=processes)
        for parallel, processes in ((1, 1), (4, 1), (50, 1), (4, 2))
    ]
    for p in range(3):
        seeds = [episode_seed(7, p, k) for k in range(episodes)]
        totals, discounted, lengths, terminals = plain_loop(opens, policy, seeds, 0.97)
        np.testing.assert_allclose(results[0].returns[p], totals, rtol=0, atol=0)
        np.testing.assert_allclose(results[0].discounted_returns[p], discounted, rtol=1e-12)
        assert results[0].lengths[p].tolist() == lengths
        assert results[0].terminals[p].tolist() == terminals
    for other in results[1:]:
        same(results[0], other)
    assert len(np.unique(results[0].returns)) > 5  # the episodes do differ


def test_a_policy_evaluated_alone_gets_the_same_episodes() -> None:
    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        return balance(observations)

    together = rollout(act, cartpole, episodes=4, seeds=[0, 1, 2], processes=1)
    alone = rollout(act, cartpole, episodes=4, seeds=[2], processes=1)
    np.testing.assert_array_equal(together.returns[2:], alone.returns)


class Clock(gymnasium.Env[np.ndarray, int]):
    """Episodes of a length drawn at reset (1, or 30 half of the time); reward 1 a step; tells success when it was long."""

    observation_space = gymnasium.spaces.Box(0, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, tells: bool = True) -> None:
        self.tells = tells

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.t = (30 if self.np_random.random() < 0.5 else 1), 0
        return np.array([self.length, 0], np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        info = {"success": self.length == 30 and self.t == 5} if self.tells else {}  # true for a moment, not at the end
        return np.array([self.length, self.t], np.float32), 1.0, self.t >= self.length, False, info


def ignore(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.zeros(observations.shape[:2], np.int64)


def test_short_episodes_are_no_likelier_to_be_counted() -> None:
    """A collector that takes the first episodes to finish would see almost only length 1 here."""
    result = rollout(ignore, Clock, episodes=400, parallel=40, seed=3, processes=1)
    assert set(np.unique(result.lengths)) == {1, 30}
    assert (result.lengths == 30).mean() == pytest.approx(0.5, abs=0.08)
    np.testing.assert_array_equal(result.returns, result.lengths)
    assert result.successes is not None
    np.testing.assert_array_equal(result.successes, result.lengths == 30)


def test_success_is_none_where_nothing_tells_and_may_be_a_positive_final_reward() -> None:
    assert rollout(ignore, lambda: Clock(tells=False), episodes=3, processes=1).successes is None
    paid = rollout(ignore, lambda: Clock(tells=False), episodes=3, processes=1, success="positive_final_reward").successes
    assert paid is not None and paid.all()
    costly = rollout(lambda o, _: np.zeros((*o.shape[:2], 1)), pendulum, episodes=2, processes=1, success="positive_final_reward").successes
    assert costly is not None and not costly.any()


class InTurn(Clock):
    """Three tasks in turn; the second alone is solved, and of the third what a seed says."""

    tasks = 3

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        first, info = super().reset(seed=seed)
        self.number = (options or {})["task_id"]
        self.length = 30 if self.number == 2 else 1 if self.number == 1 else self.length
        return first, info


@pytest.mark.parametrize("processes", [1, 2])
def test_success_is_told_task_by_task_where_an_environment_has_several(processes: int) -> None:
    result = rollout(ignore, InTurn, episodes=20, seeds=2, parallel=6, processes=processes)
    found = result.success_by_task()
    assert found is not None and result.successes is not None and result.tasks == 3
    assert found[:, 0].tolist() == [0, 0] and found[:, 1].tolist() == [1, 1] and (found[:, 2] == result.successes[:, 2::3].mean(1)).all()
    assert 0 < found[:, 2].mean() < 1
    assert result.record(step=1, seconds=0.0, environment="turns")["success_by_task"] == found.tolist()
    few = rollout(ignore, InTurn, episodes=2, processes=1).success_by_task()
    assert few is not None and few.tolist() == [[0, 1]], "a third task was not met"
    alone = rollout(ignore, Clock, episodes=2, processes=1)
    assert alone.success_by_task() is None and "success_by_task" not in alone.record(step=1, seconds=0.0, environment="clock")


def test_time_limit_ends_an_episode_and_is_no_terminal() -> None:
    result = rollout(ignore, Clock, episodes=20, parallel=3, max_steps=4, processes=1)
    assert set(np.unique(result.lengths)) == {1, 4}
    np.testing.assert_array_equal(result.terminals, result.lengths == 1)


def test_episode_start_marks_first_steps_only() -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def act(observations: np.ndarray, start: np.ndarray) -> np.ndarray:
        seen.append((observations, start))
        return np.zeros(observations.shape[:2], np.int64)

    rollout(act, Clock, episodes=9, seeds=2, parallel=2, processes=1)
    assert sum(int(start.sum()) for _, start in seen) == 18  # one start for each episode of each policy
    for observations, start in seen:
        assert observations.shape == (2, 2, 2) and start.shape == (2, 2)
        assert (observations[..., 1][start] == 0).all()


def test_stops_when_asked_and_keeps_the_first_finished_episodes() -> None:
    whole = rollout(ignore, Clock, episodes=40, parallel=2, seed=1, processes=1)
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 100

    part = rollout(ignore, Clock, episodes=40, parallel=2, seed=1, processes=1, should_stop=should_stop)
    assert not part.complete and 0 < part.episodes < 40
    np.testing.assert_array_equal(part.returns, whole.returns[:, : part.episodes])
    none = rollout(ignore, Clock, episodes=2, processes=1, should_stop=lambda: True)
    assert none.episodes == 0 and not none.complete


def test_open_slots_serve_again_with_equal_results() -> None:
    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        return balance(observations)

    with Slots(cartpole, 6, processes=2) as slots:
        first, second = (rollout(act, slots, episodes=7, seeds=2) for _ in range(2))
    same(first, second)
    with Slots(cartpole, 3, processes=1) as slots, pytest.raises(ConfigError, match="multiple"):
        rollout(act, slots, episodes=2, seeds=2)


class Broken(Clock):
    def step(self, action: int) -> Any:
        raise ValueError("the motor is on fire")


def test_an_error_in_a_process_reaches_the_caller() -> None:
    with pytest.raises(StitchError, match="motor is on fire"):
        rollout(ignore, Broken, episodes=4, processes=2)


def test_a_killed_process_is_an_error_not_a_hang() -> None:
    with Slots(Clock, 4, processes=2) as slots:
        slots.reset([0, 1, 2, 3], [0, 0, 0, 0])
        slots._place.children[1].kill()  # type: ignore[union-attr]
        slots._place.children[1].join()  # type: ignore[union-attr]
        with pytest.raises(StitchError, match="process 1 ended unexpectedly"):
            slots.step([0, 1, 2, 3], np.zeros(4, np.int64))


ORPHANS = """
import os, sys, time, gymnasium
from stitchrl.evaluation.slots import Slots
slots = Slots(lambda: gymnasium.make("CartPole-v1"), 4, processes=3)
print(*(child.pid for child in slots._place.children), flush=True)
time.sleep(60)
"""


def test_children_end_when_the_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while (alive := [pid for pid in children if _runs(pid)]) and time.monotonic() < until:
        time.sleep(0.02)
    assert not alive


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_cheap_environments_stay_in_one_process() -> None:
    with Slots(cartpole, 4) as slots:
        assert slots.processes == 1
        result = slots.step([2], np.array([1])) if slots.reset([2], [5]).shape == (1, 4) else None
        assert isinstance(result, Steps) and result.rewards.tolist() == [1.0]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="expected \\[1, 3"):
        rollout(lambda o, _: np.zeros(2, np.int64), cartpole, episodes=3, processes=1)
    with pytest.raises(ConfigError, match="not finite"):
        rollout(lambda o, _: np.full((*o.shape[:2], 1), np.nan), pendulum, episodes=1, processes=1)
    with pytest.raises(ConfigError, match="at least one"):
        rollout(ignore, cartpole, episodes=0)
    with pytest.raises(ConfigError, match="environment id"):
        rollout(ignore, cartpole, environment_options={"a": 1})


class Endless(Clock):
    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:2], False, False, {})


def test_an_episode_that_nothing_ends_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stitchrl.environments.clock._ENDLESS", 40)
    gymnasium.register("Endless-v0", entry_point=Endless)
    gymnasium.register("Clocked-v0", entry_point=Endless, max_episode_steps=50)
    for environment in ("Endless-v0", lambda: gymnasium.make("Endless-v0")):
        with pytest.raises(ConfigError, match=r"Endless-v0: an episode did not end within 40 steps.*register.*max_episode_steps"):
            rollout(ignore, environment, episodes=3, processes=1)
    assert rollout(ignore, "Clocked-v0", episodes=3, processes=1).lengths.tolist() == [[50, 50, 50]]
    assert rollout(ignore, "Endless-v0", episodes=3, processes=1, max_steps=50).lengths.tolist() == [[50, 50, 50]]
    assert set(rollout(ignore, Clock, episodes=5, processes=1).lengths.ravel()) == {1, 30}


class Counted(Clock):
    """Tells which of its copies are open; the third cannot be opened."""

    opened: ClassVar[list[Counted]] = []

    def __init__(self) -> None:
        super().__init__()
        if len(self.opened) == 2:
            raise RuntimeError("no more of them")
        self.opened.append(self)

    def close(self) -> None:
        self.opened.remove(self)


def test_what_cannot_be_opened_as_a_whole_is_left_closed() -> None:
    with pytest.raises(RuntimeError, match="no more of them"):
        Slots(Counted, 4, processes=1)
    assert Counted.opened == []
    with pytest.raises(StitchError, match="no more of them"):
        Slots(Counted, 5, processes=2)
    assert Counted.opened == [] and multiprocessing.active_children() == []
    Counted.observation_space = gymnasium.spaces.Dict({"a": Clock.observation_space})  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="observations are a Dict space"):
        Slots(Counted, 1)
    assert Counted.opened == []


def test_record_is_the_line_of_the_contract() -> None:
    result = rollout(ignore, Clock, episodes=3, seeds=2, processes=1)
    line = result.record(step=10, seconds=1.5, environment="Clock-v0", reference=Reference(0.0, 10.0), exact_value=np.array([1.0, 2.0]))
    assert line["returns"] == result.returns.tolist() and line["episodes"] == 3
    assert line["normalized"] == (10 * result.returns).tolist()
    assert line["exact_value"] == [1.0, 2.0] and line["believed_value"] is None
    assert {type(x) for row in line["successes"] for x in row} == {int}


@pytest.mark.parametrize(("name", "options"), [("stitchrl/Gridworld-v0", {})])
def test_mean_return_is_the_exactly_known_value(name: str, options: dict[str, Any]) -> None:
    """A random policy's sampled discounted return against the value computed from the task's transition matrix."""
    from stitchrl.environments.make import make, mdp_of
    from stitchrl.environments.tasks.tabular import policy_value, uniform_policy

    mdp = mdp_of(make(name, **options))
    random = np.random.default_rng(4)

    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        return random.integers(0, mdp.actions, observations.shape)

    result = rollout(act, name, episodes=1500, seeds=2, parallel=50, processes=1, discount=0.97, environment_options=options)
    returns = result.discounted_returns.ravel()
    exact = policy_value(mdp, uniform_policy(mdp), discount=0.97, steps=100)
    error = (returns.mean() - exact) / (returns.std(ddof=1) / np.sqrt(returns.size))
    assert abs(error) < 3.5
    assert returns.std() > 0.01


def test_observations_are_float32_as_the_spec_says() -> None:
    class Double(Clock):
        observation_space = gymnasium.spaces.Box(0, 100, (2,), np.float64)

        def reset(self, **options: Any) -> Any:
            observation, info = super().reset(**options)
            return observation.astype(np.float64), info

    def act(observations: np.ndarray, _: np.ndarray) -> np.ndarray:
        assert observations.dtype == np.float32
        return np.zeros(observations.shape[:2], np.int64)

    rollout(act, Double, episodes=2, processes=1)
