"""A return-conditioned policy obtains what it is asked for, where the answer is known: eight steps, and each step's reward is the action itself.

In the log each episode's actions scatter about a level of its own. What is then to be expected of an action is an equal part of what is still to
come (steps of an episode can be exchanged), and doing that obtains exactly what was asked; so does, with 0 and 1, taking the likelier of the two.
The clock ends every episode: the return is whole without anything after it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import stitchrl
from stitchrl.core.errors import ConfigError
from stitchrl.core.spec import Box, Discrete, Space, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.asked_returns import asked_returns
from stitchrl.evaluation.playing import play
from stitchrl.report.run import run_page, write_run_report
from stitchrl.verbs.evaluate import _targets

STEPS, EPISODES = 8, 400
SETTINGS = {
    "context": 8, "width": 32, "layers": 1, "return_scale": 4.0, "dropout": 0.0, "learning_rate": 3e-3, "warmup_steps": 20, "longest_episode": 8,
}  # fmt: skip


class Levels(gymnasium.Env[Any, Any]):
    """Reward: the action. Ends after eight steps by the clock; what is seen says nothing."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, discrete: bool) -> None:
        self.discrete = discrete
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = STEPS
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.zeros(1, np.float32), float(np.asarray(action).reshape(-1)[0]), False, self.left == 0, {}


def log(discrete: bool) -> Dataset:
    rng = np.random.default_rng(0)
    level = rng.uniform(0, 1, (EPISODES, 1)) if discrete else rng.uniform(-0.7, 0.7, (EPISODES, 1))
    shape = (EPISODES, STEPS)
    actions = rng.random(shape) < level if discrete else level + rng.uniform(-0.3, 0.3, shape)
    flat = actions.reshape(-1)
    action: Space = Discrete(2) if discrete else Box((1,), (-1.0,), (1.0,))
    ends = np.arange(flat.size) % STEPS == STEPS - 1
    columns = {
        "observations": np.zeros((flat.size, 1), np.float32),
        "actions": flat.astype(np.int64) if discrete else flat.astype(np.float32)[:, None],
        "rewards": flat.astype(np.float32),
        "terminals": ends & False,
        "timeouts": ends,
    }
    offsets = np.arange(0, flat.size + 1, STEPS)
    return Dataset(Spec(Box((1,), (-1.0,), (1.0,)), action), columns, offsets, np.zeros((EPISODES, 1), np.float32), {"name": "levels"})


def learned(path: Path, discrete: bool, steps: int, **settings: Any) -> stitchrl.api.Result:  # type: ignore[name-defined]
    training = {"steps": steps, "batch_size": 32, "compile": "off"}
    return stitchrl.train(
        "decision_transformer", log(discrete), run=path, settings=SETTINGS | settings, training=training, seeds=2,
        preprocessing={"reward_scale": 2.0}, logging=None,
    )  # fmt: skip


def test_a_run_is_asked_and_its_report_shows_what_was_obtained(tmp_path: Path) -> None:
    """Real-valued actions, rewards learned from at twice their size: targets are in the task's units all the same."""
    result = learned(tmp_path / "run", False, 150)
    found = asked_returns(result.agent, lambda: Levels(False), [-4.0, 0.0, 4.0], episodes=3)
    obtained = found.returns.mean(2)  # [S, G]
    assert np.abs(obtained - found.asked).max() < 0.4
    returns = log(False).returns()
    assert found.logged == pytest.approx((returns.min(), returns.max()), rel=1e-5)
    # unasked, and afterwards as before: the log's best
    best = play(result.agent, lambda: Levels(False), episodes=2, parallel=2).returns
    assert np.abs(best - returns.max()).max() < 0.8
    # auto: six over the log's range
    auto = asked_returns(result.agent, lambda: Levels(False), episodes=1)
    assert auto.asked == pytest.approx(np.linspace(returns.min(), returns.max(), 6), rel=1e-5)
    # targets together are targets alone
    alone = asked_returns(result.agent, lambda: Levels(False), [4.0], episodes=3)
    assert np.abs(alone.returns[:, 0] - found.returns[:, 2]).max() < 1e-4

    path = tmp_path / "run"
    assert "Asked and obtained" not in run_page(path)
    (path / "asked_returns.json").write_text(json.dumps(found.record("levels")))
    write_run_report(path)
    page = (path / "report.html").read_text()
    assert "Asked and obtained" in page and "3 episodes of each seed for each target" in page
    assert f"asked -4, obtained {obtained.mean(0)[0]:.4g}" in page


@pytest.mark.slow
@pytest.mark.parametrize("discrete", [False, True])
def test_what_is_asked_is_obtained(discrete: bool, tmp_path: Path) -> None:
    result = learned(tmp_path / "run", discrete, 800)
    asked = [0.0, 2.0, 4.0, 6.0, 8.0] if discrete else [-4.0, -2.0, 0.0, 2.0, 4.0]
    found = asked_returns(result.agent, lambda: Levels(discrete), asked, episodes=10)
    # integers: greedily exact up to ties in the middle; drawn: the chance that the model leaves to a wrong action near the end
    assert np.abs(found.returns.mean(2) - found.asked).max() < (0.3 if discrete else 0.15)
    if discrete:
        drawn = asked_returns(result.agent, lambda: Levels(True), asked, episodes=50, sampled=True).returns.mean(2)
        assert np.abs(drawn - found.asked).max() < 0.5


def test_who_cannot_be_asked_says_so(tmp_path: Path) -> None:
    training = {"steps": 2, "batch_size": 8, "compile": "off"}
    cloned = stitchrl.train("bc", log(True), run=tmp_path / "bc", settings={"hidden": (4,)}, training=training)
    with pytest.raises(ConfigError, match="'bc' cannot be asked for a return"):
        asked_returns(cloned.agent, lambda: Levels(True), [1.0])
    for wrong in (5.0, "auto", [[1.0, 2.0]], [], [float("nan")]):
        with pytest.raises(ConfigError, match="the targets are .*; expected a list"):
            asked_returns(cloned.agent, lambda: Levels(True), wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'bc' does not know the returns of its log; name the targets"):
        asked_returns(cloned.agent, lambda: Levels(True))
    shifted = stitchrl.train(
        "decision_transformer", log(True), run=tmp_path / "dt", settings=SETTINGS, training=training, preprocessing={"reward_shift": -1.0}
    )
    with pytest.raises(ConfigError, match="shifted rewards.*no target has a meaning"):
        asked_returns(shifted.agent, lambda: Levels(True), [1.0])
    assert _targets(("auto",)) is None and _targets(("-3", "1e2")) == [-3.0, 100.0]
    with pytest.raises(ConfigError, match="--targets is auto 20; expected returns in the task's units, or auto alone"):
        _targets(("auto", "20"))
    with pytest.raises(ConfigError, match="expected a list of at least one finite return"):
        asked_returns(
            stitchrl.train("decision_transformer", log(True), run=tmp_path / "ok", settings=SETTINGS, training=training).agent,
            lambda: Levels(True), [float("nan")],
        )  # fmt: skip
