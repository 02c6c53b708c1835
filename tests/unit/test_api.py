"""The Python face: fit and predict, train and evaluate, with the same checks as the command."""

from __future__ import annotations

import json
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stitchrl
from stitchrl import api
from stitchrl.core.errors import CheckpointError, ConfigError, DataError
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.recorded_task import task_of
from stitchrl.experiment import RunInProgress
from stitchrl.training import trainer
from stitchrl.training.learner import Training

QUIET = Logging(tensorboard=False, quiet=True)


@pytest.fixture
def log() -> Dataset:
    """400 steps of a bandit: the second action is taken where the observation is above 0, and rewarded there."""
    x = np.random.default_rng(0).normal(size=(400, 1)).astype(np.float32)
    actions = (x[:, 0] > 0).astype(np.int64)
    columns = {
        "observations": x,
        "actions": actions,
        "rewards": np.ones(400, np.float32),
        "terminals": np.ones(400, bool),
        "timeouts": np.zeros(400, bool),
    }
    return Dataset(Spec(Box((1,)), Discrete(2)), columns, np.arange(401), x, {"name": "bandit"})


def test_fit_learns_and_predict_acts(log: Dataset, tmp_path: Path) -> None:
    estimator = stitchrl.BC(learning_rate=0.01, hidden=(16,))
    assert estimator.fit(log, steps=150, batch_size=64, device="cpu") is estimator
    x = np.array([[-1.0], [-0.3], [0.3], [1.0]])
    assert estimator.predict(x).tolist() == [0, 0, 1, 1]
    estimator.save(tmp_path / "policy")
    assert stitchrl.load_policy(tmp_path / "policy").predict(x).tolist() == [0, 0, 1, 1]


def test_predict_and_save_before_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="predict was called before fit"):
        stitchrl.IQL().predict(np.zeros((1, 1)))
    with pytest.raises(ConfigError, match="save was called before fit"):
        stitchrl.IQL().save(tmp_path)


def test_a_wrong_setting_is_told_when_the_estimator_is_made() -> None:
    with pytest.raises(ConfigError, match=r"'expectil'. Did you mean 'expectile'"):
        stitchrl.IQL(expectil=0.7)
    with pytest.raises(ConfigError, match="expectile is 1.0"):
        stitchrl.IQL(expectile=1.0)


def test_every_algorithm_has_a_name_in_python_and_no_other_name_has() -> None:
    from stitchrl import algorithms

    made = {
        "BC": "bc",
        "CQL": "cql",
        "IQL": "iql",
        "QLearning": "q_learning",
        "SAC": "sac",
        "TD3BC": "td3_bc",
        "CalQL": "cal_ql",
        "FQL": "fql",
        "DecisionTransformer": "decision_transformer",
        "TrajectoryTransformer": "trajectory_transformer",
        "DecisionDiffuser": "decision_diffuser",
        "DiffusionPolicy": "diffusion_policy",
        "DiffusionQL": "diffusion_ql",
        "Diffuser": "diffuser",
    }
    made |= {name: name.lower() for name in ("AWAC", "BCQ", "EDAC", "ReBRAC", "GCIVL", "HIQL", "QRL", "CRL", "IDQL")}
    assert set(algorithms.names()) == set(made.values())
    for name, algorithm in made.items():
        assert getattr(stitchrl, name)().algorithm == algorithm
    for name in ("bc", "DQN", "_BC"):
        assert api.estimator_named(name) is None
    with pytest.raises(AttributeError, match="DQN"):
        stitchrl.DQN  # noqa: B018


def test_train_writes_a_run_and_says_what_it_learned(log: Dataset, tmp_path: Path) -> None:
    small: dict[str, Any] = {"settings": {"hidden": [4]}, "training": {"steps": 4, "batch_size": 8, "device": "cpu"}, "logging": QUIET}
    result = stitchrl.train("bc", log, run=tmp_path / "run", seeds=[5, 3], **small)
    assert result.step == 4 and result.agent.seeds == (5, 3) and (tmp_path / "run" / "report.html").exists()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["source"] == "bandit"
    with pytest.raises(CheckpointError, match="already holds a run"):
        stitchrl.train("bc", log, run=tmp_path / "run", seeds=[5, 3], **small)
    assert stitchrl.train("bc", log, run=tmp_path / "run", seeds=[5, 3], resume=True, **small).step == 4
    more = small | {"training": small["training"] | {"steps": 6}, "resume": True}
    with pytest.raises(CheckpointError, match="training.steps is 6 and was 4"):
        stitchrl.train("bc", log, run=tmp_path / "run", seeds=[5, 3], **more)
    assert stitchrl.train("bc", log, run=tmp_path / "run", seeds=[5, 3], **more, allow_change=["training.steps"]).step == 6


@pytest.fixture
def walk() -> Dataset:
    """8 episodes of 5 steps that the clock ends, with real-valued actions."""
    random = np.random.default_rng(0)
    columns = {
        "observations": random.normal(size=(40, 2)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(40, 1)).astype(np.float32),
        "rewards": random.normal(size=40).astype(np.float32),
        "terminals": np.zeros(40, bool),
        "timeouts": np.arange(40) % 5 == 4,
    }
    final = random.normal(size=(8, 2)).astype(np.float32)
    return Dataset(Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))), columns, np.arange(0, 41, 5), final, {"name": "walk"})


def test_a_recipes_name_is_recorded_told_and_of_no_effect(walk: Dataset, tmp_path: Path) -> None:
    small: dict[str, Any] = {"training": {"steps": 2, "save_every": 1}, "logging": QUIET}
    stitchrl.train("rebrac", walk, run=tmp_path / "run", recipe="rebrac:hopper/medium", settings={"hidden": (4,)}, **small)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["recipe"] == "rebrac:hopper/medium"
    assert "- recipe: `rebrac:hopper/medium`" in (tmp_path / "run" / "card.md").read_text()
    assert "recipe rebrac:hopper/medium" in (tmp_path / "run" / "report.html").read_text()
    more = {**small, "training": {"steps": 3, "save_every": 1, "batch_size": 1024}, "resume": True, "allow_change": ["training.steps"]}
    stitchrl.train("rebrac", walk, run=tmp_path / "run", settings=config["settings"], **more)  # the same settings, told one by one
    assert json.loads((tmp_path / "run" / "config.json").read_text())["recipe"] == "rebrac:hopper/medium", "they are still its own"
    with pytest.raises(CheckpointError, match=r"settings\.actor_penalty is 0\.001 and was 0\.01"):
        stitchrl.train("rebrac", walk, run=tmp_path / "run", recipe="rebrac:halfcheetah/medium", settings={"hidden": (4,)}, **more)


def test_a_signal_is_told_and_nothing_half_learned_is_given_as_done(walk: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = [signal.SIGINT, signal.SIGINT, signal.SIGTERM]

    def stopped(self: trainer.Stop) -> bool:
        self.signal = heard[0]
        return True

    monkeypatch.setattr(trainer.Stop, "__call__", stopped)
    with pytest.warns(UserWarning, match=r"run: stopped by a signal at step \d+; resume=True goes on"):
        assert stitchrl.train("bc", walk, run=tmp_path / "run", training={"steps": 5_000}, logging=QUIET).signal == signal.SIGINT
    for error in (KeyboardInterrupt, SystemExit):
        heard.pop(0)
        with warnings.catch_warnings(action="ignore"), pytest.raises(error):
            stitchrl.BC(hidden=(4,)).fit(walk, steps=5_000)


def test_a_run_that_went_on_and_was_killed_has_no_policy_of_before(walk: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {"settings": {"hidden": (4,)}, "run": tmp_path / "run", "logging": QUIET}
    stitchrl.train("bc", walk, training={"steps": 4, "batch_size": 4}, **made)

    def kill(self: Any) -> None:
        raise MemoryError

    for _ in range(2):  # killed, and once more
        with monkeypatch.context() as patched:
            patched.setattr(RunInProgress, "train", kill)
            with pytest.raises(MemoryError):
                stitchrl.train("bc", walk, training={"steps": 6, "batch_size": 4}, resume=True, allow_change=["training.steps"], **made)
        with pytest.raises(CheckpointError, match=r"has no policy yet; .*\(--resume\); of before it went on, .*earlier has some"):
            stitchrl.load_policy(tmp_path / "run")
    assert stitchrl.load_policy(tmp_path / "run" / "earlier" / "step_4").seeds == (0,)
    stitchrl.train("bc", walk, training={"steps": 6, "batch_size": 4}, resume=True, **made)
    assert stitchrl.load_policy(tmp_path / "run").seeds == (0,)


def test_what_is_given_has_its_say_over_a_recipe(walk: Dataset, tmp_path: Path) -> None:
    def config(algorithm: str, recipe: str, **options: Any) -> Any:
        path = tmp_path / algorithm
        stitchrl.train(algorithm, walk, run=path, recipe=recipe, logging=QUIET, overwrite=True, **options)
        return json.loads((path / "config.json").read_text())

    told = config("rebrac", "rebrac:hopper/medium", settings={"hidden": (4,), "discount": 0.9}, training={"steps": 1})
    assert (told["settings"]["actor_penalty"], told["settings"]["critic_penalty"]) == (0.01, 0.001)
    assert (told["settings"]["hidden"], told["settings"]["discount"], told["training"]["batch_size"]) == ([4], 0.9, 1024)
    assert (
        config("rebrac", "rebrac:hopper/medium", settings={"hidden": (4,)}, training={"steps": 1, "batch_size": 8})["training"][
            "batch_size"
        ]
        == 8
    )
    small: dict[str, Any] = {"settings": {"hidden": (4,)}, "training": {"steps": 1}}
    told = config("td3_bc", "td3_bc_locomotion", **small, preprocessing={"observation_epsilon": 0.5})["preprocessing"]
    assert told["standardize_observations"] and told["observation_epsilon"] == 0.5
    told = config("hiql", "hiql:pointmaze/stitch", **small, goals={"discount": 0.5})["goals"]
    assert told["hindsight"] and (told["actor_random"], told["discount"]) == (0.5, 0.5)
    with pytest.raises(ConfigError, match="training is a Training, which says all, and so does recipe 'rebrac:hopper/medium'"):
        config("rebrac", "rebrac:hopper/medium", training=Training(steps=1))
    with pytest.raises(ConfigError, match="recipe 'iql_locomotion' is for iql, not bc; train iql with it"):
        config("bc", "iql_locomotion")
    with pytest.raises(ConfigError, match="unknown recipe 'iql_locomotin'. Did you mean 'iql_locomotion'"):
        config("iql", "iql_locomotin")


def test_progress_and_alarms_are_told_unless_quiet(walk: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = dict(walk.columns) | {"actions": np.arange(40) % 3}
    walk = Dataset(Spec(Box((2,)), Discrete(3)), columns, walk.offsets, walk.final_observations, {"name": "walk"})
    wrong = {"hidden": (16,), "learning_rate": 0.3, "target_rate": 1.0}
    small: dict[str, Any] = {"settings": wrong, "training": {"steps": 40, "batch_size": 8, "log_every": 10}}
    stitchrl.train("q_learning", walk, run=tmp_path / "told", logging={"tensorboard": False}, **small)
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line.startswith("q_learning on walk: step ")]
    assert len(lines) == 4 and "40/40" in lines[-1] and told.out == ""
    assert any(line.startswith("q_learning on walk: overestimation from step ") for line in told.err.splitlines())
    stitchrl.train("q_learning", walk, run=tmp_path / "quiet", logging={"tensorboard": False, "quiet": True}, **small)
    stitchrl.BC(hidden=(4,)).fit(walk, steps=2, batch_size=8)
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ConfigError, match="logging: unknown setting 'silent'"):
        stitchrl.train("q_learning", walk, run=tmp_path / "none", logging={"silent": True}, **small)


def test_an_estimator_may_change_the_log_and_aim_at_goals(walk: Dataset) -> None:
    estimator = stitchrl.BC(hidden=(4,)).fit(walk, steps=2, batch_size=8, preprocessing={"standardize_observations": True})
    assert estimator.agent is not None and "observations" in {transform.column for transform in estimator.agent.transforms}
    estimator = stitchrl.BC(hidden=(4,)).fit(walk, steps=2, batch_size=8, goals={"hindsight": True})
    assert estimator.predict(np.zeros((3, 4))).shape == (3, 1)  # an observation and its goal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"training": {"step": 3}}, "training: unknown setting 'step'. Did you mean 'steps'"),
        ({"training": {"steps": "many"}}, "training: steps is 'many'"),
        ({"training": 3}, "training is 3; expected a mapping of settings or Training$"),
        ({"preprocessing": {"reward_scale": float("inf")}}, "reward_scale is inf"),
        ({"evaluation": {"episodes": 0}}, "evaluation: episodes is 0"),
        ({"seeds": 0}, "seeds are 0"),
    ],
)
def test_wrong_options_are_named_before_the_data_are_read(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        stitchrl.train("bc", "nowhere.npz", run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_values_of_another_kind_are_named(tmp_path: Path) -> None:
    log = stitchrl.load("gridworld/mixed")
    known: Any = stitchrl
    for call, words in (
        (lambda: known.train("bc", log, run=None), "run is None; expected the path"),
        (lambda: known.train(None, log, run=tmp_path / "run"), "algorithm is None"),
        (lambda: known.load(None), "data is NoneType; expected the name of a dataset"),
        (lambda: known.train("bc", np.zeros(3), run=tmp_path / "run"), "data is ndarray"),
        (lambda: known.load_policy(5), "path is 5"),
        (lambda: known.train("bc", log, run=tmp_path / "run", environment=5), "environment is 5; expected its name"),
    ):
        with pytest.raises(ConfigError, match=words):
            call()


def test_data_that_are_not_there_are_told() -> None:
    with pytest.raises(DataError, match=r"nowhere.npz: no such file"):
        stitchrl.load("nowhere.npz")
    with pytest.raises(ConfigError, match="'gridworld/mixed'"):
        stitchrl.load("gridworld/mixd")


def test_evaluate_returns_what_a_policy_earns(tmp_path: Path) -> None:
    """Untrained policies of CartPole fall within a few dozen steps, and earn 1 for each."""
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    columns = {
        "observations": x, "actions": np.arange(30) % 2, "rewards": np.ones(30, np.float32),
        "terminals": np.arange(30) % 10 == 9, "timeouts": np.zeros(30, bool),
    }  # fmt: skip
    log = Dataset(Spec(Box((4,)), Discrete(2)), columns, np.array([0, 10, 20, 30]), x[:3], {})
    training = Training(steps=2, batch_size=4, device="cpu")
    result = stitchrl.train("bc", log, run=tmp_path / "run", seeds=2, settings={"hidden": (4,)}, training=training, logging=QUIET)
    earned = stitchrl.evaluate(result.agent, "CartPole-v1", episodes=3)
    again = stitchrl.evaluate(tmp_path / "run", "CartPole-v1", episodes=3)
    assert earned.returns.shape == (2, 3) and (earned.returns == earned.lengths).all() and (earned.returns >= 8).all()
    assert np.array_equal(earned.returns, again.returns)
    with pytest.raises(ConfigError, match=r"observations box\[2\] and the policy box\[4\]"):
        stitchrl.evaluate(result.agent, "MountainCar-v0", episodes=1)


def test_a_run_is_evaluated_where_it_was_and_acts_otherwise_with_the_same_weights(tmp_path: Path) -> None:
    log = stitchrl.load("gridworld/stitch")
    small = {"width": 8, "layers": 1, "heads": 1, "sequence": 2, "context": 2, "beam_width": 2, "horizon": 2, "warmup_steps": 0}
    name = log.metadata["environment"]
    stitchrl.train(
        "trajectory_transformer", log, run=tmp_path / "run", settings=small, training={"steps": 3, "batch_size": 4}, environment=name,
        evaluation={"episodes": 1},
    )  # fmt: skip
    earned = stitchrl.evaluate(tmp_path / "run", episodes=3)  # on its own map, not on the environment's first
    named = stitchrl.evaluate(tmp_path / "run", name, episodes=3, environment_options=log.metadata["environment_options"])
    assert np.array_equal(earned.returns, named.returns)
    agent = stitchrl.load_policy(tmp_path / "run")
    assert np.array_equal(earned.returns, stitchrl.evaluate(agent, log, episodes=3).returns)
    with pytest.raises(ConfigError, match="environment is None"):
        stitchrl.evaluate(agent)
    with pytest.raises(ConfigError, match="its metadata name no environment"):
        stitchrl.evaluate(agent, Dataset(log.spec, log.columns, log.offsets, log.final_observations, {}))
    with pytest.raises(ConfigError, match=r"width: in what was learned.*those of trajectory_transformer that act are .*planning"):
        stitchrl.evaluate(tmp_path / "run", settings={"width": 16})
    plans = stitchrl.plan(tmp_path / "run", log.observations[:4], settings={"horizon": 5, "planning": "likelihood"})
    assert plans.states.shape == (4, 2, 5) and plans.scores.shape == (4, 2)
    for wrong, words in ((np.array([10_000]), "outside the states"), (np.zeros((2, 4)), "have shape"), (np.array(3), "have shape")):
        with pytest.raises(DataError, match=words):
            stitchrl.plan(tmp_path / "run", wrong)


def test_a_run_that_stayed_offline_is_judged_and_goes_on_in_its_log_s_own_task(tmp_path: Path) -> None:
    log = stitchrl.load("gridworld/stitch")
    name, own = log.metadata["environment"], log.metadata["environment_options"]
    assert own
    stitchrl.train(
        "q_learning", log, run=tmp_path / "run", settings={"hidden": (8,)}, training={"steps": 3, "batch_size": 4}, logging=QUIET
    )
    assert json.loads((tmp_path / "run" / "config.json").read_text())["environment"] is None
    found = task_of(tmp_path / "run")
    assert found == task_of(tmp_path / "run", name) and found[:2] == (name, own)
    assert found.reference is not None and found.reference.expert == log.metadata["reference"]["expert"]
    assert task_of(tmp_path / "run", "CartPole-v1") == ("CartPole-v1", {}, None)
    earned = stitchrl.evaluate(tmp_path / "run", name, episodes=2)
    told = stitchrl.evaluate(stitchrl.load_policy(tmp_path / "run"), name, episodes=2, environment_options=own)
    assert np.array_equal(earned.returns, told.returns)
    online: dict[str, Any] = {"data": log, "steps": 4, "online": {"warm_start": 2}, "logging": QUIET}
    for into, environment, options, expected in (
        ("own", None, None, own),
        ("named", name, None, own),
        ("told", name, own | {"slip": 0.5}, own | {"slip": 0.5}),
    ):
        stitchrl.finetune(tmp_path / "run", environment, environment_options=options, into=tmp_path / into, **online)
        assert json.loads((tmp_path / into / "config.json").read_text())["environment"] == {"id": name, "options": expected}


def test_train_takes_the_options_of_an_environment(tmp_path: Path) -> None:
    log = stitchrl.load("gridworld/stitch")
    name, other = log.metadata["environment"], log.metadata["environment_options"] | {"slip": 0.5}
    small: dict[str, Any] = {
        "settings": {"hidden": (4,)},
        "training": {"steps": 2, "batch_size": 4},
        "evaluation": {"episodes": 1},
        "logging": QUIET,
    }
    stitchrl.train("bc", log, run=tmp_path / "run", environment=name, environment_options=other, **small)
    assert task_of(tmp_path / "run").options == task_of(tmp_path / "run", name).options == other
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["data"]["environment"]  # as runs before it was kept
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert stitchrl.train("bc", log, run=tmp_path / "run", environment=name, environment_options=other, resume=True, **small).step == 2
    line = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert line["normalized"] is None and task_of(tmp_path / "run").reference is None  # the log's reference is of other ice
    with pytest.raises(ConfigError, match="environment_options are given and environment is None"):
        stitchrl.train("bc", log, run=tmp_path / "other", environment_options=other, **small)
