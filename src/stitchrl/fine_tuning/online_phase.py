"""The online phase of a run: a run directory of its own, whose steps are those of an environment."""

from __future__ import annotations

import dataclasses
import math
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.alarms import alarms_of
from stitchrl.core.errors import ConfigError, DivergenceError
from stitchrl.core.files import read_json, write_atomically
from stitchrl.core.records import Logging, Records
from stitchrl.core.settings import check_settings, to_json
from stitchrl.core.version import VERSION
from stitchrl.data.dataset import Dataset
from stitchrl.data.replay import Mixture, Replay
from stitchrl.data.sampling import row_width, rows_of
from stitchrl.data.transforms import learner_spec, within
from stitchrl.evaluation.judge import Evaluation, Judge, check_policy
from stitchrl.evaluation.recorded_task import kept
from stitchrl.evaluation.value_sanity import limits_of, probe_of
from stitchrl.experiment import (
    Plan,
    Result,
    RunInProgress,
    Show,
    Warn,
    device_of,
    judge_of,
    memory_limit,
    paid,
    prepare,
)
from stitchrl.fine_tuning.continuation import (
    Continuation,
    OnlinePhase,
    agent_of,
    block_steps,
    carry_over,
    check_changes,
    check_exploration,
    keep_rates,
    settings_of,
)
from stitchrl.fine_tuning.gathering import Gathering
from stitchrl.fine_tuning.parent_run import Parent
from stitchrl.report.records_reader import read_run
from stitchrl.report.summary import online_episodes
from stitchrl.training import checkpoint, compilation, run_directory
from stitchrl.training.crash_report import crash_report
from stitchrl.training.learner import Learner, Training, operations
from stitchrl.training.run_doctor import Limits, RunDoctor
from stitchrl.training.trainer import listening


def run_online(
    parent: Parent,
    dataset: Dataset,
    *,
    path: Path,
    source: str,
    environment: str,
    environment_options: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | Any = None,
    training: Training | None = None,
    online: OnlinePhase | None = None,
    evaluation: Evaluation | None = None,
    logging: Logging | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
    show: Show | None = None,
    warn: Warn | None = None,
) -> Result:
    """Returns the result of a run that goes on in an environment, written to its own directory `path`.

    `settings` are fields of the algorithm's config that the online phase changes. `training.steps` and its intervals are environment steps of
    each seed. Signals, `show`, `warn`, `resume` and what raises are as in `run_experiment`.
    """
    online, logging, options = online or OnlinePhase(), logging or Logging(), dict(environment_options or {})
    plan = parent.plan(settings or {}, training or parent.training, evaluation or parent.evaluation)
    _check(parent, plan, online, path)
    parent.check_data(dataset, source)
    before = parent.policy()
    judge = _judge(plan, dataset, before, environment, options)
    goes_on = resume and bool(checkpoint.steps(path / "checkpoints"))  # from a checkpoint of its own: the parent's may be gone
    step, tensors = (0, None) if goes_on else parent.checkpoint()
    config = describe(parent, plan, online, source, environment, options, logging, step)
    config = _as_begun(config, path) if goes_on else config
    held = run_directory.opened(path, config, resume=resume, overwrite=overwrite, allow_change=allow_change)
    with held, listening() as stop, ExitStack() as opened:
        data, _ = prepare(within(dataset, before.spec.action), plan)
        learning = continuation(plan, online, data, before, environment, options)
        opened.callback(learning.gathering.close)
        learner = learning.learner
        check_exploration(online, agent_of(learner, before))
        _take_over(learner, parent, tensors, online)
        torch.set_num_threads(compilation.threads(plan.training.threads, operations(learner)))
        seconds = checkpoint.restore(learning, path / "checkpoints", plan.training.steps) if resume else 0.0
        run_directory.begin(path, config, resume=resume, step=learning.step, steps=plan.training.steps)
        _keep_evaluations(path, parent)
        doctor, probe = RunDoctor(_limits(dataset, plan, before), plan.seeds), probe_of(learner, data, before.transforms)
        records = Records(path, logging, config, learning.step, seconds)
        opened.callback(records.close)
        run = RunInProgress(plan, before.spec, before.transforms, learner, learning, judge, records, path, show, stop, doctor, probe, warn)
        run.categories = before.categories
        _go_on(run, path)
        opened.close()
        run.agent().save(path / "policy")
        return Result(path, run.agent(), learning.step, run.metrics, run.evaluation, stop.signal, tuple(alarms_of(run.changes)))


def _check(parent: Parent, plan: Plan, online: OnlinePhase, path: Path) -> None:
    """Raises ConfigError for settings that cannot be, or a directory that holds the run itself."""
    check_settings(online, "online")
    online.check(plan.training)
    if path.resolve() == parent.path.resolve():
        raise ConfigError(f"{path}: holds the offline run; the online phase needs a directory of its own (--run)")


def _judge(plan: Plan, dataset: Dataset, before: Agent, environment: str, options: Mapping[str, Any]) -> Judge:
    """Returns who plays the policies in the environment; raises ConfigError where they cannot act there."""
    judge = judge_of(plan, dataset, environment, options)
    assert judge.task is not None
    check_policy(before, judge.task, environment)
    return judge


def _take_over(learner: Learner, parent: Parent, tensors: Mapping[str, Tensor] | None, online: OnlinePhase) -> None:
    """Gives the learner what the parent learned, unless it has `None` to give: then the phase has its own."""
    check_changes(learner.template, parent.settings, online, str(parent.path))
    if tensors is not None:
        carry_over(learner, tensors, online, str(parent.path))


def _as_begun(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The description with what the parent was when the phase began: one that goes on from its own checkpoint asks nothing of what it is now."""
    recorded = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    before = recorded.get("parent") if isinstance(recorded, dict) else None
    return config | {"parent": before | {"path": config["parent"]["path"]}} if isinstance(before, dict) else config


def _keep_evaluations(path: Path, parent: Parent) -> None:
    """Puts the offline phase's evaluations beside the new ones, so that both can be shown from the directory alone."""
    offline, kept = parent.path / "evaluations.jsonl", path / "offline_evaluations.jsonl"
    if offline.is_file() and not (checkpoint.steps(path / "checkpoints") and kept.is_file()):
        write_atomically(kept, offline.read_bytes())


def _go_on(run: RunInProgress, path: Path) -> None:
    """Judges what the run is worth before it goes on, unless that was done, and takes its steps."""
    try:
        if run.steps.step == 0 and run.records.evaluation_of(0) is None:
            run.evaluate(0)
        run.train()
    except DivergenceError as error:
        told = DivergenceError(f"noticed at environment step {run.steps.step:,}, of the updates {error}")
        crash_report(path, run.learner, told, run.steps.step)
        raise told from None


def continuation(
    plan: Plan, online: OnlinePhase, data: Dataset, source: Agent, environment: str, options: Mapping[str, Any]
) -> Continuation:
    """Returns a learner with first weights, its mixture of log and replays, and the stages that fill them."""
    kind, _ = algorithms.find(plan.algorithm)
    device, batch = device_of(plan.training.device), kind.batch_of(plan.settings)
    inner = learner_spec(source.spec, source.transforms)
    replays = [Replay(min(online.capacity, plan.training.steps), row_width(batch, inner), device) for _ in plan.seeds]
    log = rows_of(data, batch, source.transforms, device, memory_limit(device))
    rows = Mixture(log, replays, online.rows_from_log(plan.training.batch_size))
    training = dataclasses.replace(plan.training, steps=online.updates(plan.training.steps))
    learner = Learner(kind, plan.settings, inner, rows, plan.seeds, training, device, block_steps(online))
    keep_rates(learner, online, plan.algorithm)
    gathering = Gathering(
        agent_of(learner, source), environment, options, batch, replays, exploration_noise=online.exploration_noise, epsilon=online.epsilon,
        reward_bound=plan.preprocessing.reward_bound, terminal_reward=plan.preprocessing.terminal_reward,
    )  # fmt: skip
    return Continuation(learner, gathering, online, plan.training)


def describe(
    parent: Parent,
    plan: Plan,
    online: OnlinePhase,
    source: str,
    environment: str,
    options: Mapping[str, Any],
    logging: Logging,
    step: int,
) -> dict[str, Any]:
    """Returns the config.json of an online phase that begins at a run's step: the run's own, with what is changed, and what is only online."""
    device = device_of(plan.training.device)
    compiled, reason = compilation.choose(plan.training.compile, online.updates(plan.training.steps), device)
    own = {name: value for name, value in parent.config.items() if name != "changes"}  # those were of the parent's steps
    return own | {
        "version": VERSION,
        "settings": to_json(plan.settings),
        "training": to_json(plan.training) | {"compiled": compiled, "compile_reason": reason, "device_used": str(device)},
        "evaluation": to_json(plan.evaluation),
        "data": parent.config["data"] | {"source": source},
        "environment": kept({"id": environment, "options": dict(options)}),
        "logging": to_json(logging),
        "online": settings_of(online, plan.training),
        "parent": {"path": str(parent.path), "step": step, "online_episodes": online_episodes(read_run(parent.path))},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }


def _limits(dataset: Dataset, plan: Plan, before: Agent) -> Limits:
    """What the run doctor measures by; but what a log paid bounds no policy that gathers steps of its own."""
    limits = limits_of(paid(dataset, plan), plan.settings, before.transforms)
    return dataclasses.replace(limits, low=-math.inf, high=math.inf, best_logged=math.inf)
