"""Plans and what they make of a log, in this process: checked settings, prepared data, what a run tells and writes."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stitchrl import experiment
from stitchrl.core.errors import CheckpointError, ConfigError, DataError, DivergenceError
from stitchrl.core.goals import GoalDrawing
from stitchrl.core.records import Logging
from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation, check_task
from stitchrl.experiment import Preprocessing, plan, prepare, run_experiment
from stitchrl.training import checkpoint
from stitchrl.training.learner import Training

QUIET = Logging(tensorboard=False, quiet=True)
FEW = Training(steps=20, batch_size=8, log_every=5, save_every=5, device="cpu", compile="off")


def log(rewards: Any = None, actions: Any = None, spec: Spec | None = None) -> Dataset:
    """Three episodes of 4 steps with returns 4, 0 and 2, the second cut by the clock."""
    own = np.repeat([1.0, 0.0, 0.5], 4) if rewards is None else np.asarray(rewards)
    chosen = np.arange(12) % 3 if actions is None else np.asarray(actions)
    columns = {
        "observations": np.arange(24, dtype=np.float32).reshape(12, 2),
        "actions": chosen,
        "rewards": own.astype(np.float32),
        "terminals": np.isin(np.arange(12), [3, 11]),
        "timeouts": np.arange(12) == 7,
    }
    return Dataset(spec or Spec(Box((2,)), Discrete(3)), columns, np.array([0, 4, 8, 12]), np.zeros((3, 2), np.float32), {"name": "three"})


def run(path: Path, dataset: Dataset | None = None, training: Training = FEW, **options: Any) -> experiment.Result:
    made = plan("q_learning", settings={"hidden": (4,)}, training=training, seeds=options.pop("seeds", 1))
    return run_experiment(made, dataset or log(), path=path, source="test", logging=QUIET, **options)


def test_seeds_are_a_number_or_a_list() -> None:
    assert plan("bc", seeds=3).seeds == (0, 1, 2) and plan("bc", seeds=[7, 2]).seeds == (7, 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": 0}, "seeds are 0"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"seeds": [-1]}, "seed is -1"),
        ({"seeds": [2**32]}, "seed is 4294967296"),
        ({"seeds": [0.5]}, "seed is 0.5"),
        ({"settings": {"hiden": (4,)}}, "'hiden'. Did you mean 'hidden'"),
        ({"settings": {"learning_rate": 0}}, "learning_rate is 0"),
        ({"settings": {"learning_rate": float("inf")}}, "learning_rate is inf"),
        ({"settings": {"discount": 1.5}}, "discount is 1.5"),
        ({"settings": 3}, "settings are a int"),
        ({"training": Training(steps=0)}, "steps is 0"),
        ({"training": Training(order="both")}, "order is 'both'"),  # type: ignore[arg-type]
        ({"preprocessing": Preprocessing(best_episodes=0)}, "best_episodes is 0"),
        ({"preprocessing": Preprocessing(reward_shift=float("nan"))}, "reward_shift is nan"),
        ({"evaluation": experiment.Evaluation(every=-1)}, "every is -1"),
        ({"evaluation": experiment.Evaluation(seed=-1)}, "seed is -1"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan("q_learning", **settings)


def test_the_best_of_equals_are_not_chosen() -> None:
    same = log()
    same.columns["rewards"] = np.ones_like(same.columns["rewards"])
    with pytest.raises(ConfigError, match="all episodes earned .*: none is better"):
        prepare(same.select(np.array([0, 0])), plan("bc", preprocessing=Preprocessing(best_episodes=0.5)))


def test_the_best_episodes_are_kept_in_the_order_of_the_log() -> None:
    kept, _ = prepare(log(), plan("bc", preprocessing=Preprocessing(best_episodes=0.67)))
    assert kept.episodes == 2 and kept.returns().tolist() == [4.0, 2.0]


def test_rewards_are_scaled_by_the_range_of_all_returns() -> None:
    """Returns of 4, 0 and 2 span 4: to a range of 1,000 every reward grows by 250, whichever episodes are kept; then · 2 - 1."""
    of = Preprocessing(return_range=1_000, best_episodes=0.34, reward_scale=2.0, reward_shift=-1.0)
    kept, transforms = prepare(log(), plan("bc", preprocessing=of))
    values = kept.rewards
    for transform in transforms:
        values = transform.forward(values) if transform.column == "rewards" else values
    assert kept.episodes == 1 and values.tolist() == [499.0] * 4


def test_a_step_that_ends_the_task_can_earn_something_else() -> None:
    """Steps 3 and 11 ended the task, step 7 only the clock; the episodes are chosen, and rewards scaled, by what was earned."""
    of = Preprocessing(terminal_reward=-100.0, best_episodes=0.67, return_range=8.0)
    kept, transforms = prepare(log(), plan("bc", preprocessing=of))
    assert kept.rewards.tolist() == [1.0, 1.0, 1.0, -100.0, 0.5, 0.5, 0.5, -100.0] and kept.rewards.dtype == np.float32
    assert transforms[-1].scale.tolist() == [2.0]
    kept, _ = prepare(log(), plan("bc", preprocessing=Preprocessing(terminal_reward=-1.0)))
    assert kept.rewards.tolist() == [1.0, 1.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, -1.0]
    kept, _ = prepare(log(), plan("bc", preprocessing=Preprocessing(reward_bound=0.4, terminal_reward=2.0)))
    assert kept.rewards.tolist() == pytest.approx([0.4, 0.4, 0.4, 2.0, 0.0, 0.0, 0.0, 0.0, 0.4, 0.4, 0.4, 2.0])
    for unpaid in ({"reward_bound": 1.0}, {"terminal_reward": -100.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(unpaid))} is .* no effect on what the environment pays 'decision_transformer'"):
            plan("decision_transformer", preprocessing=Preprocessing(**unpaid))
    assert plan("decision_diffuser", preprocessing=Preprocessing(terminal_reward=-100.0)).preprocessing.terminal_reward == -100
    with pytest.raises(ConfigError, match="rewards from -inf to"):
        prepare(log(), plan("bc", preprocessing=Preprocessing(terminal_reward=-1e39)))


@pytest.mark.parametrize("scale", [1e300, -1e39])
def test_a_scale_that_overflows_is_refused_without_a_warning(scale: float) -> None:
    with pytest.raises(ConfigError, match="rewards from 0 to 1 become"):
        prepare(log(), plan("bc", preprocessing=Preprocessing(reward_scale=scale)))


@pytest.mark.parametrize(("row", "where"), [(0, "episode 0, step 0"), (6, "episode 1, step 2"), (11, "episode 2, step 3")])
def test_a_number_that_is_not_finite_is_found(row: int, where: str) -> None:
    rewards = np.ones(12)
    rewards[row] = np.nan
    with pytest.raises(DataError, match=f"three: 'rewards' is not finite in {where} \\(row {row}\\)"):
        prepare(log(rewards), plan("bc"))


def test_what_last_steps_led_to_must_be_finite_too() -> None:
    given = log()
    final = given.final_observations.astype(np.float32)
    final[1] = np.nan
    wrong = Dataset(Spec(Box(final.shape[1:]), given.spec.action), dict(given.columns), given.offsets, final, given.metadata)
    with pytest.raises(DataError, match="'final_observations' is not finite in episode 1, after its last step"):
        prepare(wrong, plan("bc"))


def test_how_to_judge_is_told_of_where_there_is_nothing_to_judge_in(tmp_path: Path) -> None:
    made = plan("bc", training=Training(steps=1), evaluation=Evaluation(every=1_000, sampled=True))
    with pytest.warns(UserWarning, match=r"evaluation \(every 1000, sampled True\) is not used: there is no environment"):
        run_experiment(made, log(), path=tmp_path / "run", source="test", logging=QUIET)


def test_actions_outside_their_bounds() -> None:
    spec = Spec(Box((2,)), Box((1,), (-2.0,), (2.0,)))
    actions = np.linspace(-2, 3, 12, dtype=np.float32)[:, None]
    with pytest.raises(DataError, match=r"3 of 12 actions are outside their bounds \(-2 to 2\), first in episode 2, step 1"):
        prepare(log(actions=actions, spec=spec), plan("bc"))
    for outside, largest in (("clip", 2.0), ("keep", 3.0)):
        kept, transforms = prepare(log(actions=actions, spec=spec), plan("bc", preprocessing=Preprocessing(actions_outside=outside)))  # type: ignore[arg-type]
        assert kept.actions.max() == largest and transforms[0].forward(kept.actions).max() == pytest.approx(largest / 2)


def test_a_file_that_states_no_bounds_has_those_of_the_task(tmp_path: Path) -> None:
    actions = np.linspace(-1, 1.5, 12, dtype=np.float32)[:, None]
    found = log(actions=actions, spec=Spec(Box((2,)), Box((1,), (-1.0,), (1.5,))))
    judged: dict[str, Any] = {"environment": "MountainCarContinuous-v0", "source": "test", "logging": QUIET}
    with pytest.raises(DataError, match=r"3 of 12 actions are outside their bounds \(-1 to 1\), first in episode 2, step 1"):
        run_experiment(plan("bc", training=FEW), found, path=tmp_path / "refused", **judged)
    one = Evaluation(episodes=1)
    clipped = plan("bc", training=FEW, preprocessing=Preprocessing(actions_outside="clip"), evaluation=one)
    result = run_experiment(clipped, found, path=tmp_path / "clipped", **judged)
    assert result.agent.spec.action == Box((1,), (-1.0,), (1.0,))
    config = json.loads((tmp_path / "clipped" / "config.json").read_text())
    assert config["spec"] == result.agent.spec.to_json() and config["data"]["fingerprint"] == found.fingerprint()
    inside = log(actions=actions / 2, spec=Spec(Box((2,)), Box((1,), (-0.5,), (0.75,))))
    result = run_experiment(plan("bc", training=FEW, evaluation=one), inside, path=tmp_path / "inside", **judged)
    assert result.agent.spec.action == inside.spec.action, "narrower bounds are the log's own where it states them"
    guessed = Dataset(inside.spec, inside.columns, inside.offsets, inside.final_observations, {"action_bounds_inferred": True})
    result = run_experiment(plan("bc", training=FEW, evaluation=one), guessed, path=tmp_path / "guessed", **judged)
    assert result.agent.spec.action == Box((1,), (-1.0,), (1.0,)), "guessed ones give way to the task's"


def test_a_policy_that_may_leave_a_task_s_bounds_is_refused_there_and_one_that_stays_far_within_is_told(tmp_path: Path) -> None:
    """MountainCarContinuous takes actions from -1 to 1."""
    for high, told in (
        (1.5, None),
        (0.5, "MountainCarContinuous-v0 takes actions from -1 to 1, and the policy's go from -1 to 0.5.*never uses the rest"),
    ):
        found = log(actions=np.linspace(-1, high, 12, dtype=np.float32)[:, None], spec=Spec(Box((2,)), Box((1,), (-1.0,), (high,))))
        agent = run_experiment(plan("bc", training=FEW), found, path=tmp_path / str(high), source="test", logging=QUIET).agent
        if told is None:
            with pytest.raises(
                ConfigError, match=r"the policy's go from -1 to 1.5.*train it with the environment \(--env MountainCarContinuous-v0\)"
            ):
                check_task(agent, "MountainCarContinuous-v0", {})
        else:
            with pytest.warns(UserWarning, match=told):
                check_task(agent, "MountainCarContinuous-v0", {})


def test_rewards_that_a_file_lacks_are_read_by_nobody() -> None:
    told = log(np.zeros(12))
    lacking = Dataset(told.spec, told.columns, told.offsets, told.final_observations, told.metadata | {"rewards_missing": True})
    for algorithm in ("iql", "decision_transformer", "decision_diffuser"):
        prepare(told, plan(algorithm))  # rewards of 0 are rewards
        with pytest.raises(
            DataError, match=f"three: has no rewards, which '{algorithm}' reads.*reads none: bc, crl, diffusion_policy, gcivl"
        ):
            prepare(lacking, plan(algorithm))
    hindsight = GoalDrawing(hindsight=True, terminals="as_timeouts")
    for made in (
        plan("bc"),
        plan("gcivl"),
        plan("iql", goals=hindsight),
        plan("trajectory_transformer", settings={"planning": "likelihood"}),
        plan("iql", preprocessing=Preprocessing(terminal_reward=1.0)),
    ):
        prepare(lacking, made)


def test_a_discount_of_one_needs_an_end() -> None:
    endless = log()
    columns = {**endless.columns, "terminals": np.zeros(12, bool)}
    endless = replace(endless, columns=columns)
    with pytest.raises(ConfigError, match="no bound"):
        prepare(endless, plan("q_learning", settings={"discount": 1.0}))
    prepare(log(), plan("q_learning", settings={"discount": 1.0}))
    vectors = Dataset(Spec(Box((2,)), Box((1,), (-1.0,), (1.0,))), columns | _vectors(), endless.offsets, np.zeros((3, 2), np.float32))
    prepare(
        vectors, plan("iql", settings={"discount": 1.0}, goals=GoalDrawing(hindsight=True, discount=0.95))
    )  # goals end what they pay for


def _vectors() -> dict[str, np.ndarray]:
    return {"observations": np.zeros((12, 2), np.float32), "actions": np.zeros((12, 1), np.float32)}


def test_a_reward_of_the_end_needs_an_end() -> None:
    endless = replace(log(), columns={**log().columns, "terminals": np.zeros(12, bool)})
    with pytest.raises(ConfigError, match=r"terminal_reward is -100, and no step of the data ends the task .*: none would be paid"):
        prepare(endless, plan("q_learning", preprocessing=Preprocessing(terminal_reward=-100.0)))


@pytest.mark.parametrize("name", ["tpu", "meta", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        experiment.device_of(name)


def test_a_run_writes_what_it_was_and_what_it_learned(tmp_path: Path) -> None:
    result = run(tmp_path / "run", seeds=[4, 2])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["seeds"] == [4, 2] and config["data"]["fingerprint"] == log().fingerprint() and config["data"]["source"] == "test"
    assert result.step == 20 and result.agent.seeds == (4, 2) and result.signal is None and result.evaluation is None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert lines[-1]["loss/critic"] == result.metrics["loss/critic"] and len(lines[-1]["loss/critic"]) == 2
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [15, 20]  # the newest two


def test_metrics_are_shown_as_they_are_written(tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    run(tmp_path / "run", show=lambda step, steps, speed, metrics: shown.append((step, steps)))
    assert shown == [(5, 20), (10, 20), (15, 20), (20, 20)]


def test_no_space_left_while_saving_leaves_older_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real = os.fsync

    def full(descriptor: int) -> None:
        if "step_0000000010" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"step 10 could not be written \(No space left on device\); older ones are intact"):
        run(tmp_path / "run")
    assert [entry.name for entry in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_0000000005"]
    checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    monkeypatch.undo()
    assert run(tmp_path / "run", resume=True).step == 20


def test_records_that_cannot_be_written_do_not_end_a_run(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    file = tmp_path / "torn" / "metrics.jsonl"

    def show(step: int, steps: int, speed: float, metrics: Any) -> None:
        if step == 5:  # a directory where the file of metrics was
            file.unlink()
            file.mkdir()

    with pytest.warns(UserWarning, match="records cannot be written") as told:
        run(tmp_path / "torn", show=show)
    assert len(told) == 1
    assert (tmp_path / "torn" / "policy" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "policy" / "model.safetensors"
    ).read_bytes()


def test_an_old_checkpoint_that_stays_is_told_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.shutil.rmtree

    def refuse(path: Any, **options: Any) -> None:
        if Path(path).name == "step_0000000005" and not options:
            raise PermissionError(1, "Operation not permitted")
        real(path, **options)

    monkeypatch.setattr(checkpoint.shutil, "rmtree", refuse)
    with pytest.warns(UserWarning, match="step 5 could not be removed"):
        assert run(tmp_path / "run").step == 20
    assert checkpoint.load_newest(tmp_path / "run" / "checkpoints")[1]["step"] == 20


def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    run(tmp_path / "one")
    clock = iter(range(10**9, 0, -1_000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    run(tmp_path / "two")
    for file in ("policy/model.safetensors", "checkpoints/step_0000000020/state.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert checkpoint.steps(tmp_path / "two" / "checkpoints") == [15, 20]


def test_a_divergence_is_reported_with_its_batch(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    with pytest.raises(DivergenceError, match="step 0"):
        run(tmp_path / "run", log(np.full(12, 1e30)), seeds=2)
    report = json.loads((tmp_path / "run" / "crash_report.json").read_text())
    rows = load_file(tmp_path / "run" / report["batch"])["rows"]
    assert report["seeds"] == [0, 1] and rows.shape[:2] == (2, 8) and (rows == np.float32(1e30)).any(-1).all()


@pytest.mark.parametrize("step", [0, 1, 5, 19, 20])
def test_a_run_goes_on_from_any_step_as_if_it_had_not_stopped(tmp_path: Path, step: int) -> None:
    """Stopped after `step` steps (by a show that hears a signal), resumed, and compared with the run that never was."""
    import os
    import signal

    run(tmp_path / "whole")
    every_step = replace(FEW, log_every=1)

    def show(now: int, steps: int, speed: float, metrics: Any) -> None:
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = run(tmp_path / "run", training=every_step, show=show)
    assert stopped.signal == (signal.SIGTERM if step else None)
    assert run(tmp_path / "run", resume=True).step == 20
    for file in ("policy/model.safetensors",):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "run" / file).read_bytes()


def test_evaluation_in_a_task_of_another_shape_is_refused_before_training(tmp_path: Path) -> None:
    for environment, words in (("CartPole-v1", r"box\[4\] and the policy box\[2\]"), ("MountainCarContinuous-v0", "actions box")):
        with pytest.raises(ConfigError, match=words):
            run(tmp_path / "run", environment=environment)
    assert not (tmp_path / "run").exists()


def test_threads_are_not_left_changed_by_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path / "run", training=replace(FEW, threads=1))
    assert torch.get_num_threads() == 1
