"""Runs that go on in an environment: what they start from, when they learn, that a stop leaves no trace, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stitchrl
from stitchrl.core.batch import Transitions
from stitchrl.core.errors import CheckpointError, ConfigError, DataError, DivergenceError
from stitchrl.core.records import Logging
from stitchrl.core.settings import read_settings
from stitchrl.data import sources
from stitchrl.data.dataset import Dataset
from stitchrl.environments.make import make, spec_of
from stitchrl.evaluation.judge import Evaluation
from stitchrl.evaluation.recorded_task import task_of
from stitchrl.experiment import Preprocessing, Result, plan, run_experiment
from stitchrl.fine_tuning.continuation import Continuation, OnlinePhase, block_steps
from stitchrl.fine_tuning.online_phase import run_online
from stitchrl.fine_tuning.parent_run import read_parent
from stitchrl.report.records_reader import read_run
from stitchrl.report.summary import online_episodes
from stitchrl.training import checkpoint
from stitchrl.training.learner import Training
from stitchrl.verbs.finetune import finetune
from stitchrl.verbs.train import train
from tests.unit.fine_tuning.scripted_task import CLOCKED, ENDING, FORGETFUL, register_tasks

register_tasks()
QUIET = Logging(tensorboard=False, quiet=True)
TRAINING: dict[str, Any] = {"batch_size": 8, "log_every": 10, "save_every": 10, "keep_checkpoints": 10, "device": "cpu", "compile": "off"}


def chance(environment: str, episodes: int) -> Dataset:
    """A log of random actions."""
    world, rng = make(environment), np.random.default_rng(0)
    spec, rows, last, offsets = spec_of(world), [], [], [0]
    for episode in range(episodes):
        seen, over = world.reset(seed=episode)[0], False
        while not over:
            action = rng.integers(2) if environment.startswith("CartPole") else rng.uniform(-2, 2, 1).astype(np.float32)
            following, reward, terminal, timeout, _ = world.step(action)
            rows.append((seen, action, reward, terminal, timeout))
            seen, over = following, terminal or timeout
        offsets.append(len(rows))
        last.append(seen)
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    kinds = (np.float32, np.int64 if environment.startswith("CartPole") else np.float32, np.float32, bool, bool)
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    made = {name: column.astype(kind) for name, column, kind in zip(names, columns, kinds, strict=True)}
    return Dataset(spec, made, np.array(offsets), np.array(last, np.float32), {"name": "chance", "environment": environment})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of 20 steps on random actions: real-valued ones with changed scales, two seeds, and integers."""
    folder = tmp_path_factory.mktemp("runs")
    settings: dict[str, Any] = {"td3_bc": {}, "iql": {}, "bc": {}, "cql": {"sampled_actions": 2}, "q_learning": {}}
    settings["cal_ql"] = {"sampled_actions": 2, "lagrange_gap": 0.8}
    for algorithm, own in settings.items():
        environment = "CartPole-v1" if algorithm == "q_learning" else CLOCKED
        source = folder / f"{environment.replace('/', '-')}.npz"
        if not source.exists():
            sources.write(chance(environment, 12), source)
        changed = (
            {"terminal_reward": -7.0, "reward_bound": 0.5}
            if algorithm == "q_learning"
            else {"standardize_observations": True, "reward_scale": 3.0, "reward_shift": -1.0}
        )
        made = plan(
            algorithm, seeds=2 if algorithm == "iql" else 1, settings={"hidden": (8,), **own}, training=Training(steps=20, **TRAINING),
            evaluation=Evaluation(episodes=2), preprocessing=Preprocessing(**changed),
        )  # fmt: skip
        run_experiment(made, sources.read(source), path=folder / algorithm, source=str(source), environment=environment, logging=QUIET)
    return {name: folder / name for name in settings}


def go_on(run: Path, into: Path, steps: int = 40, online: dict[str, Any] | None = None, **options: Any) -> Result:
    parent = read_parent(run)
    phase = read_settings(OnlinePhase, {"warm_start": 10, **(online or {})}, "online")
    data = options.pop("data", None) or sources.read(parent.source)
    return run_online(
        parent, data, path=into, source="here", environment=task_of(run, options.pop("environment", None)).environment, online=phase,
        training=replace(parent.training, steps=steps, **options.pop("training", {})), evaluation=Evaluation(episodes=2, every=20),
        logging=QUIET, **options,
    )  # fmt: skip


def records(path: Path) -> list[Any]:
    """All that a run wrote, but for times."""
    lines = [json.loads(line) for name in ("metrics.jsonl", "evaluations.jsonl") for line in (path / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


def same(one: Path, other: Path) -> None:
    a, b = (checkpoint.load_newest(path / "checkpoints") for path in (one, other))
    assert a[1]["step"] == b[1]["step"] and sorted(a[0]) == sorted(b[0])
    assert [name for name, value in a[0].items() if not torch.equal(value, b[0][name])] == []
    assert records(one) == records(other)
    assert (one / "policy" / "model.safetensors").read_bytes() == (other / "policy" / "model.safetensors").read_bytes()


def test_the_online_phase_begins_with_the_policy_and_the_critic_of_the_run(runs: dict[str, Path], tmp_path: Path) -> None:
    result = go_on(runs["iql"], tmp_path / "on")
    first, parent = read_run(tmp_path / "on").evaluations[0], read_run(runs["iql"]).evaluations[-1]
    assert first.step == 0 and np.array_equal(first.returns, parent.returns) and np.array_equal(first.lengths, parent.lengths)  # type: ignore[arg-type]
    assert [e.step for e in read_run(tmp_path / "on").evaluations] == [0, 20, 40] and result.step == 40
    config = json.loads((tmp_path / "on" / "config.json").read_text())
    assert config["parent"] == {"path": str(runs["iql"]), "step": 20, "online_episodes": 4}
    assert config["online"]["rows_from_log"] == 4 and config["online"]["warm_start"] == 10
    assert json.loads((tmp_path / "on" / "metrics.jsonl").read_text().splitlines()[-1])["online/updates"] == [31.0, 31.0]
    # 4 of the parent's evaluation, 3 evaluations of 2 for each of 2 seeds, and 40 steps of episodes of 4 for each
    assert online_episodes(read_run(tmp_path / "on")) == 4 + 12 + 20


def test_before_the_first_update_nothing_is_changed(runs: dict[str, Path], tmp_path: Path) -> None:
    go_on(runs["cql"], tmp_path / "on", steps=10, online={"warm_start": 10, "updates_per_round": 1}, training={"save_every": 5})
    before, _ = checkpoint.load_newest(runs["cql"] / "checkpoints")
    still, _ = checkpoint.load(tmp_path / "on" / "checkpoints" / "step_0000000005")
    moved, _ = checkpoint.load(tmp_path / "on" / "checkpoints" / "step_0000000010")
    groups = ("parameters/", "first_moments/", "second_moments/", "counts/")
    names = [name for name in before if name.startswith(groups)]
    assert names and all(torch.equal(before[name], still[name]) for name in names)
    assert int(moved["counts/critic"]) == int(before["counts/critic"]) + 1 == 21
    assert not torch.equal(moved["parameters/critic." + _first(before)], before["parameters/critic." + _first(before)])


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name.removeprefix("parameters/critic.") for name in tensors if name.startswith("parameters/critic."))


def test_changed_rewards_are_the_same_in_the_log_and_in_the_replay(runs: dict[str, Path], tmp_path: Path) -> None:
    go_on(runs["q_learning"], tmp_path / "on", steps=60)
    tensors, _ = checkpoint.load_newest(tmp_path / "on" / "checkpoints")
    parent = read_parent(runs["q_learning"])
    steps = Transitions().unpack(tensors["replay/0/rows"], parent.policy().spec)
    ends = steps.terminals == 1
    assert 0 < int(ends.sum()) < 60 == len(ends) and set(steps.rewards[ends].tolist()) == {-7.0}
    assert set(steps.rewards[~ends].tolist()) == {0.5}  # CartPole pays 1


def test_optimizers_may_begin_anew_with_a_schedule_over_the_online_updates(runs: dict[str, Path], tmp_path: Path) -> None:
    go_on(runs["iql"], tmp_path / "on", online={"optimizer": "reset", "schedule": "restart"}, training={"save_every": 40})
    found, _ = checkpoint.load_newest(tmp_path / "on" / "checkpoints")
    assert float(found["counts/actor"]) == 31.0


def test_learning_rates_stay_at_their_first_value_unless_they_fall_anew(runs: dict[str, Path], tmp_path: Path) -> None:
    """IQL's actor has learned at a rate that fell to 0 in as many offline steps: were that to go on, it would not move any more."""
    before, _ = checkpoint.load_newest(runs["iql"] / "checkpoints")
    moved = {}
    for name, online in (("kept", {}), ("anew", {"optimizer": "reset", "schedule": "restart"})):
        go_on(runs["iql"], tmp_path / name, online=online, training={"save_every": 1, "keep_checkpoints": 100})
        path = tmp_path / name / "checkpoints"
        found = [checkpoint.load(path / f"step_{step:010d}")[0] for step in range(35, 41)]
        actors = [torch.cat([v.reshape(-1) for n, v in sorted(t.items()) if n.startswith("parameters/actor")]) for t in found]
        moved[name] = [float((b - a).abs().mean()) for a, b in pairwise(actors)]
    assert float(before["counts/actor"]) > 0
    assert min(moved["kept"]) > 1e-5 and moved["anew"][-1] < 0.1 * moved["kept"][-1], moved


def test_settings_may_change_for_the_online_phase(runs: dict[str, Path], tmp_path: Path) -> None:
    result = go_on(runs["cql"], tmp_path / "on", settings={"conservatism": 0.0})
    assert result.agent.config.conservatism == 0.0 and result.agent.config.sampled_actions == 2
    result = go_on(runs["cal_ql"], tmp_path / "gap", settings={"lagrange_gap": 2.0})
    assert result.agent.config.lagrange_gap == 2.0
    with pytest.raises(ConfigError, match="conservatism would have 'multiplier' begin elsewhere, and it goes on"):
        go_on(runs["cal_ql"], tmp_path / "weight", settings={"conservatism": 0.0})


@pytest.mark.parametrize(
    ("run", "online", "environment"),
    [
        ("iql", {}, None),
        ("td3_bc", {"mixing": 0.25, "steps_per_round": 3, "updates_per_round": 2}, ENDING),
        ("cql", {"pour": True, "capacity": 9, "optimizer": "reset"}, None),
        ("q_learning", {"mixing": 0.0, "epsilon": 0.5}, None),
    ],
)
def test_a_stop_and_a_resume_leave_no_trace(
    runs: dict[str, Path], tmp_path: Path, run: str, online: dict[str, Any], environment: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"online": online, "environment": environment}
    go_on(runs[run], tmp_path / "whole", **options)
    advance = Continuation.advance

    def stopped(self: Continuation) -> None:
        advance(self)
        if self.step == 27:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Continuation, "advance", stopped)
    result = go_on(runs[run], tmp_path / "parts", **options)
    assert result.signal == signal.SIGTERM and result.step == 27
    monkeypatch.setattr(Continuation, "advance", advance)
    assert go_on(runs[run], tmp_path / "parts", resume=True, **options).step == 40
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_kill_goes_back_to_the_last_whole_checkpoint(runs: dict[str, Path], tmp_path: Path) -> None:
    """What a power cut leaves: records past the checkpoint, a torn line, a checkpoint half written."""
    go_on(runs["td3_bc"], tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (30, 40):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step_{step:010d}")
    (tmp_path / "cut" / "checkpoints" / "step_0000000030.tmp-1").mkdir()
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "loss')
    assert go_on(runs["td3_bc"], tmp_path / "cut", resume=True).step == 40
    same(tmp_path / "whole", tmp_path / "cut")


def test_a_phase_goes_on_after_its_run_was_moved_and_went_on(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs["td3_bc"], tmp_path / "before")
    go_on(tmp_path / "before", tmp_path / "whole")
    go_on(tmp_path / "before", tmp_path / "parts", steps=30)
    began = json.loads((tmp_path / "parts" / "config.json").read_text())["parent"]
    offline = (tmp_path / "parts" / "offline_evaluations.jsonl").read_bytes()
    parent = read_parent(tmp_path / "before")
    evaluation = replace(parent.evaluation, episodes=3)
    made = plan(
        "td3_bc",
        settings=parent.settings,
        training=replace(parent.training, steps=25),
        evaluation=evaluation,
        preprocessing=parent.preprocessing,
    )
    run_experiment(
        made, sources.read(parent.source), path=tmp_path / "before", source=parent.source, environment=CLOCKED, logging=QUIET, resume=True,
        allow_change=["training.steps"],
    )  # fmt: skip
    (tmp_path / "before").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "checkpoints").rename(tmp_path / "checkpoints")  # it goes on from its own
    assert go_on(tmp_path / "elsewhere", tmp_path / "parts", resume=True, allow_change=["training"]).step == 40
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["parent"] == began | {"path": str(tmp_path / "elsewhere")}
    assert (tmp_path / "parts" / "offline_evaluations.jsonl").read_bytes() == offline
    one, other = (checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts"))
    assert all(torch.equal(value, other[name]) for name, value in one.items() if name.startswith("parameters/"))
    # without a checkpoint of its own it would begin again, from another policy than it did
    (tmp_path / "checkpoints").rename(tmp_path / "elsewhere" / "checkpoints")
    shutil.rmtree(tmp_path / "parts" / "checkpoints")
    with pytest.raises(CheckpointError, match="parent.step is 25 and was 20"):
        go_on(tmp_path / "elsewhere", tmp_path / "parts", resume=True)


def test_a_run_takes_more_steps(runs: dict[str, Path], tmp_path: Path) -> None:
    """A replay that the first steps filled exactly is enlarged, and goes on behind its rows."""
    go_on(runs["td3_bc"], tmp_path / "long", steps=40)
    go_on(runs["td3_bc"], tmp_path / "short", steps=30)
    assert go_on(runs["td3_bc"], tmp_path / "short", steps=40, resume=True, allow_change=["training.steps"]).step == 40
    one, other = (checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("long", "short"))
    assert all(torch.equal(value, other[name]) for name, value in one.items() if not name.startswith("totals/"))


def test_a_world_without_memory_goes_on_and_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    go_on(runs["td3_bc"], tmp_path / "on", environment=FORGETFUL, steps=30)
    shutil.rmtree(tmp_path / "on" / "checkpoints" / "step_0000000030")
    shutil.rmtree(tmp_path / "on" / "checkpoints" / "step_0000000020")
    with pytest.warns(UserWarning, match="not exactly the uninterrupted one"):
        assert go_on(runs["td3_bc"], tmp_path / "on", environment=FORGETFUL, steps=30, resume=True).step == 30


def test_a_divergence_stops_before_its_step_and_leaves_its_batch(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DivergenceError, match=r"noticed at environment step (\d+), of the updates step (\d+): .* is not finite") as told:
        go_on(runs["td3_bc"], tmp_path / "on", settings={"learning_rate": 1e30})
    report = json.loads((tmp_path / "on" / "crash_report.json").read_text())
    words = re.search(r"environment step (\d+), of the updates step (\d+)", str(told.value))
    assert words is not None and (report["environment_step"], report["step"]) == (int(words[1]), int(words[2]))
    assert 0 < report["step"] < report["environment_step"]  # the first ten steps gather, and update nothing
    assert (tmp_path / "on" / "crash_batch.safetensors").is_file()


def test_a_table_is_read_as_the_run_read_it(tmp_path: Path) -> None:
    sources.write(chance(CLOCKED, 12), tmp_path / "log.csv")
    text = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(text.replace("obs_0", "place").replace("obs_1", "hour").replace("episode", "walk", 1))
    (tmp_path / "log.toml").write_text('observations = ["place", "hour"]\nepisode = "walk"\ntime = "time"\ntimeout = "timeout"\n')
    words = ["--data", str(tmp_path / "log.csv"), "--schema", str(tmp_path / "log.toml"), "--steps", "4", "--batch-size", "8"]
    quiet = ["--logging.quiet", "--logging.no-tensorboard"]
    assert train(["iql", *words, "--env", CLOCKED, "--settings.hidden", "8", "--run", str(tmp_path / "run"), *quiet]) == 0
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["data"]["table_schema"]
    assert recorded["observations"] == ["place", "hour"] and recorded["episode"] == "walk"
    assert finetune([str(tmp_path / "run"), "--steps", "8", "--warm-start", "4", *quiet]) == 0
    shutil.move(tmp_path / "log.csv", tmp_path / "moved.csv")
    moved: dict[str, Any] = {"data": tmp_path / "moved.csv", "into": tmp_path / "again", "steps": 8, "online": {"warm_start": 4}}
    assert stitchrl.finetune(tmp_path / "run", logging=QUIET, **moved).step == 8
    sources.write(stitchrl.load(tmp_path / "moved.csv", schema=recorded), tmp_path / "moved.npz")
    assert stitchrl.finetune(tmp_path / "run", logging=QUIET, overwrite=True, **moved | {"data": tmp_path / "moved.npz"}).step == 8


def test_updates_by_hand() -> None:
    """From step 10 on, two every third step: at 10, 13, 16."""
    online = OnlinePhase(warm_start=10, steps_per_round=3, updates_per_round=2)
    assert [online.updates(step) for step in (0, 9, 10, 12, 13, 15, 16)] == [0, 0, 2, 2, 4, 4, 6]
    assert [block_steps(OnlinePhase(updates_per_round=n)) for n in (1, 20, 64, 100, 67)] == [1, 20, 64, 50, 1]


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ({"mixing": 1.0}, "mixing is 1"),
        ({"mixing": -0.1}, "mixing is -0.1"),
        ({"mixing": 0.01}, "both parts need one"),
        ({"mixing": 0.3, "pour": True}, "a poured log has no share"),
        ({"schedule": "restart"}, "give --optimizer reset too"),
        ({"schedule": "restart", "optimizer": "reset"}, "no learning rate of 'td3_bc' falls"),
        ({"warm_start": 41}, "nothing would be learned"),
        ({"warm_start": 0}, "warm_start is 0"),
        ({"exploration_noise": -1}, "exploration_noise is -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(runs: dict[str, Path], tmp_path: Path, online: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        go_on(runs["td3_bc"], tmp_path / "on", online=online)


def test_training_and_evaluation_are_told_whole_or_in_part(runs: dict[str, Path], tmp_path: Path) -> None:
    run, own = runs["td3_bc"], read_parent(runs["td3_bc"]).training
    whole = {"training": replace(own, steps=9, save_every=5), "evaluation": Evaluation(episodes=1, every=0)}
    part = {"training": {"save_every": 5}, "evaluation": {"episodes": 1, "every": 0}}
    for name, given in (("whole", whole), ("steps", whole | {"steps": 8}), ("part", part | {"steps": 8})):
        stitchrl.finetune(run, CLOCKED, into=tmp_path / name, online={"warm_start": 2}, logging=QUIET, **given)
    told = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "steps", "part")]
    assert [x["training"]["steps"] for x in told] == [9, 8, 8] and [x["training"]["save_every"] for x in told] == [5, 5, 5]
    assert {x["training"]["batch_size"] for x in told} == {own.batch_size}
    same(tmp_path / "steps", tmp_path / "part")


def test_noise_that_would_not_be_taken_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    for run, online, words in (
        ("iql", {"epsilon": 0.3}, "epsilon is 0.3, and has no effect on 'iql', whose actions are sampled"),
        ("cql", {"exploration_noise": 0.3}, "exploration_noise is 0.3"),
        ("td3_bc", {"epsilon": 0.3}, "epsilon is 0.3, and has no effect on real-valued actions"),
        ("q_learning", {"exploration_noise": 0.3}, "has no effect on integer actions"),
    ):
        with pytest.raises(ConfigError, match=words):
            go_on(runs[run], tmp_path / "on", online=online)


def test_noise_is_that_of_the_policy_which_acts(runs: dict[str, Path], tmp_path: Path) -> None:
    go_on(runs["iql"], tmp_path / "on", settings={"distribution": "deterministic"}, online={"exploration_noise": 0.3}, steps=12)
    with pytest.raises(ConfigError, match="epsilon is 0.3, and has no effect on real-valued actions"):
        go_on(runs["iql"], tmp_path / "refused", settings={"distribution": "deterministic"}, online={"epsilon": 0.3})


def test_weights_are_not_read_by_another_network(runs: dict[str, Path], tmp_path: Path) -> None:
    """Of the same shapes, and with norms left out: step 0 would be another policy, and another critic, than the run's."""
    with pytest.raises(
        ConfigError, match=r"actor_loss would make another network of 'actor.mlp' \(norm_after True, and was False, activation gelu"
    ):
        go_on(runs["iql"], tmp_path / "on", settings={"actor_loss": "ddpg_bc"})
    parent = read_parent(runs["iql"])
    judged: dict[str, Any] = {"source": parent.source, "environment": CLOCKED, "logging": QUIET}
    for algorithm, words in (("iql", "layer_norm would make another network of"), ("rebrac", "which the online phase's networks lack")):
        made = plan(algorithm, settings={"hidden": (8,), "layer_norm": True}, training=Training(steps=20, **TRAINING))
        normed = tmp_path / algorithm
        run_experiment(made, sources.read(parent.source), path=normed, **judged)
        with pytest.raises(ConfigError, match=words):
            go_on(normed, tmp_path / "on", settings={"layer_norm": False})
        less = replace(made, settings=replace(made.settings, layer_norm=False), training=replace(made.training, steps=30))
        judged |= {"resume": True, "allow_change": ["settings.layer_norm", "training.steps"]}
        with pytest.raises(CheckpointError, match=r"the checkpoint has 'parameters/.*norms.*', which these settings' networks lack"):
            run_experiment(less, sources.read(parent.source), path=normed, **judged)
        judged |= {"resume": False, "allow_change": ()}


def test_a_schedule_that_would_not_run_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = {"constant": "cosine", "cosine": "constant"}[read_parent(runs["iql"]).settings.actor_schedule]
    with pytest.raises(
        ConfigError, match="actor_schedule would have the learning rate of 'actor' fall, and online it is constant: without"
    ):
        go_on(runs["iql"], tmp_path / "on", settings={"actor_schedule": other})


def test_runs_that_cannot_go_on_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'bc' has no critic .* fine-tune a run of .*cql.*iql"):
        go_on(runs["bc"], tmp_path / "on")
    with pytest.raises(CheckpointError, match="no such run directory"):
        go_on(tmp_path / "nowhere", tmp_path / "on")
    with pytest.raises(ConfigError, match="has observations box"):
        go_on(runs["td3_bc"], tmp_path / "on", environment="Pendulum-v1")
    with pytest.raises(ConfigError, match="directory of its own"):
        go_on(runs["td3_bc"], runs["td3_bc"])
    with pytest.raises(DataError, match="its fingerprint is another"):
        go_on(runs["td3_bc"], tmp_path / "on", data=chance(CLOCKED, 3))
    with pytest.raises(ConfigError, match="settings that make the networks"):
        go_on(runs["td3_bc"], tmp_path / "on", settings={"hidden": (16,)})
    bare = shutil.copytree(runs["td3_bc"], tmp_path / "bare")
    shutil.rmtree(bare / "checkpoints")
    with pytest.raises(CheckpointError, match="has no checkpoint"):
        go_on(bare, tmp_path / "bare_on")
    shutil.rmtree(bare / "policy")
    with pytest.raises(CheckpointError, match="has no policy yet"):
        go_on(bare, tmp_path / "bare_on")
    go_on(runs["td3_bc"], tmp_path / "fine", steps=12)
    with pytest.raises(ConfigError, match="was fine-tuned from"):
        go_on(tmp_path / "fine", tmp_path / "finer")
    with pytest.raises(CheckpointError, match="already holds a run"):
        go_on(runs["td3_bc"], tmp_path / "fine", steps=12)
    with pytest.raises(CheckpointError, match=r"online\.mixing is 0\.25 and was None"):
        go_on(runs["td3_bc"], tmp_path / "fine", steps=12, online={"mixing": 0.25}, resume=True)


def test_the_precision_stays(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="goes on in it"):
        go_on(runs["td3_bc"], tmp_path / "on", training={"precision": "float64"})
    assert Training().precision == "float32"
