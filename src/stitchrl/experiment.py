"""One experiment: data, algorithm, training and evaluation become one run directory of plain files."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch

from stitchrl import algorithms
from stitchrl.agent import Agent
from stitchrl.core.alarms import Alarm, AlarmChange, alarms_of
from stitchrl.core.batch import Transitions
from stitchrl.core.errors import ConfigError, DivergenceError
from stitchrl.core.goals import GoalDrawing, check_drawing, drawing_of, with_goal
from stitchrl.core.randomness import stream_seed
from stitchrl.core.records import Logging, Records
from stitchrl.core.settings import Positive, Rate, Share, check_settings, read_settings, refuse_changed, to_json
from stitchrl.core.spec import Spec
from stitchrl.core.version import VERSION
from stitchrl.core.windows import Windows
from stitchrl.data import transforms as scales
from stitchrl.data.dataset import Dataset
from stitchrl.data.finite_values import check_rewards
from stitchrl.data.goal_rows import for_pairs, goal_rows_of
from stitchrl.data.sampling import Rows, rows_of
from stitchrl.evaluation.judge import Evaluation, Judge
from stitchrl.evaluation.recorded_task import kept, named_by
from stitchrl.evaluation.value_sanity import Probe, limits_of, probe_of
from stitchrl.training import checkpoint, compilation, run_directory
from stitchrl.training.crash_report import crash_report
from stitchrl.training.learner import Learner, Training, operations
from stitchrl.training.log_checks import check_log
from stitchrl.training.run_doctor import RunDoctor
from stitchrl.training.trainer import Learning, listening, train

HELD_OUT_SEED = 20_200_406  # whatever a run's seeds: all runs of a log leave out the same episodes
Show = Callable[[int, int, float, dict[str, list[float]]], None]  # step, steps, steps a second, metrics
Warn = Callable[[Alarm], None]


@final
@dataclass(frozen=True)
class Preprocessing:
    """Changes of the log before learning; what they measured is saved with the policy."""

    standardize_observations: bool = False
    """(x - mean) / (std + epsilon) for each dimension"""
    observation_epsilon: Positive = 1e-3
    return_range: Positive | None = None
    """scale rewards so that the range of the logged returns is this (IQL on locomotion: 1000)"""
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    """r * scale + shift"""
    reward_bound: Positive | None = None
    """rewards beyond this size, in the log's units, are cut to it (Atari: 1)"""
    terminal_reward: float | None = None
    """what a step that ends the task earns, in place of the log's reward and in its units (Trajectory Transformer on locomotion: -100)"""
    actions_outside: Literal["refuse", "clip", "keep"] = "refuse"
    """of logged actions outside the task's bounds: stop, clip them (what most environments did with them), or learn from them as they are"""
    best_episodes: Rate = 1.0
    """keep this share of the episodes, those of the highest return (filtered behaviour cloning: 0.1)"""
    held_out: Share = 0.0
    """share of the episodes (of the groups, where the log has them) that are not learned from: `stitchrl trust` judges the policy on them"""


@final
@dataclass(frozen=True)
class Result:
    """What a run ended with. `signal` is set if one stopped it before its last step."""

    path: Path
    agent: Agent
    step: int
    metrics: dict[str, list[float]]
    evaluation: dict[str, Any] | None
    signal: int | None = None
    alarms: tuple[Alarm, ...] = ()


@final
@dataclass(frozen=True)
class Plan:
    """All that decides a run's numbers."""

    algorithm: str
    settings: Any
    seeds: tuple[int, ...]
    training: Training = field(default_factory=Training)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    evaluation: Evaluation = field(default_factory=Evaluation)
    goals: GoalDrawing = field(default_factory=GoalDrawing)
    recipe: str | None = None  # the name of the published settings that these began from: told, and of no effect


def plan(
    algorithm: str,
    *,
    settings: Any = None,
    seeds: int | Sequence[int] = 1,
    training: Training | None = None,
    preprocessing: Preprocessing | None = None,
    evaluation: Evaluation | None = None,
    goals: GoalDrawing | None = None,
    recipe: str | None = None,
) -> Plan:
    """Returns a checked plan; `settings` is the algorithm's config or a mapping of some of its fields; `seeds` a number of seeds or their list.
    `goals` are drawn as the algorithm would unless told: not at all, for one that knows of none. `recipe` is only a name, for the records.

    Raises ConfigError naming the setting that is unknown, of the wrong type, or out of range.
    """
    found, kind = algorithms.find(algorithm)
    if settings is None or isinstance(settings, Mapping):
        settings = read_settings(kind, settings or {}, algorithm)
    elif not isinstance(settings, kind):
        raise ConfigError(f"settings are a {type(settings).__name__}; '{algorithm}' expects {kind.__name__}")
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ConfigError(f"seeds are {seeds!r}; expected a number of at least 1, or different integers of at least 0")
    for number in numbers:
        stream_seed(number, "indices")  # raises for one that is no seed
    parts = (training or Training(), preprocessing or Preprocessing(), evaluation or Evaluation(), goals or drawing_of(found.batch))
    made = Plan(algorithm, settings, numbers, *parts, recipe)
    for part, where in zip((settings, *parts), (algorithm, "training", "preprocessing", "evaluation", "goals"), strict=True):
        check_settings(part, where)
    if made.preprocessing.reward_scale == 0:
        raise ConfigError("preprocessing.reward_scale is 0: no reward would be left to learn from; expected another number")
    # what cannot go on in an environment, of those that learn from single steps, clones
    check_drawing(made.goals, found.batch, algorithm, clones=isinstance(found.batch, Transitions) and not found.fine_tunes)
    if made.goals.hindsight:
        changed = ("return_range", "reward_scale", "reward_shift", "reward_bound", "terminal_reward")
        refuse_changed(made.preprocessing, changed, "with goals, whose rewards are their own")
    if isinstance(found.batch, Windows):
        if made.evaluation.epsilon:
            refuse_changed(made.evaluation, ("epsilon",), f"on '{algorithm}', which acts on what it did before")
        unheard = ("reward_bound", "terminal_reward") if found.asked else ("reward_bound",)
        refuse_changed(made.preprocessing, unheard, f"on what the environment pays '{algorithm}' while it acts")
    return made


def prepare(dataset: Dataset, plan: Plan) -> tuple[Dataset, list[scales.Affine]]:
    """Returns the log and the transforms that a plan learns from; raises DataError for values that are not finite."""
    p = plan.preprocessing
    check_log(dataset, plan.algorithm, plan.settings, to_goals=plan.goals.hindsight, terminal_reward=p.terminal_reward)
    if p.held_out:
        dataset = split_held_out(dataset, p.held_out)[0]
    dataset = scales.bounded_actions(dataset, p.actions_outside)
    transforms = scales.scale_actions(dataset)
    if p.standardize_observations:
        transforms.append(scales.standardize_observations(dataset, p.observation_epsilon))
    if p.return_range is not None:  # of all episodes, before any is left out
        transforms.append(scales.scale_returns(dataset, p.return_range))
    if (p.reward_scale, p.reward_shift) != (1.0, 0.0):
        transforms.append(scales.affine_rewards(p.reward_scale, p.reward_shift))
    check_rewards(dataset, transforms)
    if p.best_episodes < 1:
        count = max(1, round(p.best_episodes * dataset.episodes))
        if (returns := dataset.returns()).min() == returns.max():
            raise ConfigError(f"best_episodes is {p.best_episodes:g}, and all episodes earned {returns[0]:g}: none is better; leave it out")
        best = np.argsort(-returns, kind="stable")[:count]
        dataset = dataset.select(np.sort(best))
    changed = paid(dataset, plan)  # last: episodes and scales are chosen by what was earned
    if changed is not dataset:
        check_rewards(changed, transforms)
    return changed, transforms


def paid(dataset: Dataset, plan: Plan) -> Dataset:
    """Returns the log with the rewards that are learned from, before their scale; where these are its own, the log itself."""
    p = plan.preprocessing
    return scales.changed_rewards(dataset, p.reward_bound, p.terminal_reward)


def judge_of(plan: Plan, dataset: Dataset, environment: str | None, options: Mapping[str, Any]) -> Judge:
    """Returns who plays a run's policies in the environment; raises ConfigError where it is none for what the log holds, or cannot be had.

    Warns of how to judge where there is none to judge in.
    """
    if environment is None and (odd := [f.name for f in fields(Evaluation) if getattr(plan.evaluation, f.name) != f.default]):
        told = ", ".join(f"{name} {getattr(plan.evaluation, name)}" for name in odd)
        warnings.warn(f"evaluation ({told}) is not used: there is no environment to evaluate in; name one (--env)", stacklevel=3)
    own = plan.preprocessing.reward_bound is None and plan.preprocessing.terminal_reward is None
    return Judge(plan.evaluation, dataset, environment, options, plan.settings, plan.seeds, to_goals=plan.goals.hindsight, own_rewards=own)


def split_held_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Returns the episodes to learn from, and those held out: always the same ones of a log, whole groups where it has them."""
    return dataset.split(1 - share, HELD_OUT_SEED, by="group" if "groups" in dataset.columns else "episode")


def device_of(name: str) -> torch.device:
    """Returns the device; `auto` is CUDA where there is one. Raises ConfigError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("it is neither the CPU nor CUDA")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device '{name}' cannot be used ({str(error).splitlines()[0][:150]}); use cpu, cuda or auto") from None
    return device


def make_learner(plan: Plan, dataset: Dataset, transforms: list[scales.Affine]) -> Learner:
    """Returns a learner on the device with the log's rows there, or streamed to it where they are too many."""
    algorithm, _ = algorithms.find(plan.algorithm)
    device = device_of(plan.training.device)
    spec, seen = as_acting(plan, dataset, transforms)
    kind, limit = algorithm.batch_of(plan.settings), memory_limit(device)
    rows: Rows
    if plan.goals.hindsight:
        rows = goal_rows_of(dataset, kind, plan.goals, getattr(plan.settings, "discount", 0.99), transforms, device, limit)
    else:
        rows = rows_of(dataset, kind, transforms, device, limit)
    return Learner(algorithm, plan.settings, scales.learner_spec(spec, seen), rows, plan.seeds, plan.training, device)


def as_acting(plan: Plan, dataset: Dataset, transforms: list[scales.Affine]) -> tuple[Spec, list[scales.Affine]]:
    """Returns the spaces and transforms of the policy: the log's, with a goal beside the observation where it reaches goals."""
    return (with_goal(dataset.spec), for_pairs(transforms, dataset.spec)) if plan.goals.hindsight else (dataset.spec, transforms)


def memory_limit(device: torch.device) -> int:
    """Returns the bytes that a packed log may take: half of what is free."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] // 2)
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)


def run_experiment(
    plan: Plan,
    dataset: Dataset,
    *,
    path: Path,
    source: str,
    environment: str | None = None,
    environment_options: Mapping[str, Any] | None = None,
    logging: Logging | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
    show: Show | None = None,
    warn: Warn | None = None,
) -> Result:
    """Returns the result of a run, written to its directory `path`; with `resume`, continued from the newest complete checkpoint.

    `show(step, steps, steps_per_second, metrics)` is told of every line of metrics, `warn(alarm)` of each alarm of the run doctor when it
    first rises. A signal (SIGINT, SIGTERM) saves a checkpoint and ends the run early; a second one ends it at once. Raises DivergenceError
    after writing crash_report.json; CheckpointError, DataError, ConfigError.
    """
    logging = logging or Logging()
    judge = judge_of(plan, dataset, environment, environment_options or {})
    bounded = dataset if judge.task is None else scales.within(dataset, judge.task.action)
    data, transforms = prepare(bounded, plan)
    spec, seen = as_acting(plan, bounded, transforms)
    config = describe(plan, dataset, spec, transforms, source, environment, environment_options or {}, logging)
    with run_directory.opened(path, config, resume=resume, overwrite=overwrite, allow_change=allow_change), listening() as stop:
        learner = make_learner(plan, data, transforms)
        learner.template.policy()  # what could not act is refused before it learns
        torch.set_num_threads(compilation.threads(plan.training.threads, operations(learner)))
        seconds = checkpoint.restore(learner, path / "checkpoints", plan.training.steps) if resume else 0.0
        run_directory.begin(path, config, resume=resume, step=learner.step, steps=plan.training.steps)
        limits = limits_of(paid(dataset, plan), plan.settings, transforms, to_goals=plan.goals.hindsight)
        doctor, probe = RunDoctor(limits, plan.seeds), probe_of(learner, data, transforms)
        records = Records(path, logging, config, learner.step, seconds)
        run = RunInProgress(plan, spec, seen, learner, learner, judge, records, path, show, stop, doctor, probe, warn)
        run.categories = dataset.metadata.get("categories")
        try:
            run.train()
        except DivergenceError as error:
            crash_report(path, learner, error)
            raise
        finally:
            run.records.close()
        run.agent().save(path / "policy")
        return Result(path, run.agent(), learner.step, run.metrics, run.evaluation, stop.signal, tuple(alarms_of(run.changes)))


@final
@dataclass
class RunInProgress:
    """What happens beside the steps of a run."""

    plan: Plan
    spec: Spec
    transforms: list[scales.Affine]
    learner: Learner
    steps: Learning  # what the loop advances: the learner itself, or one that also acts
    judge: Judge
    records: Records
    path: Path
    show: Show | None
    stop: Callable[[], bool]
    doctor: RunDoctor
    probe: Probe | None
    warn: Warn | None
    changes: list[AlarmChange] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    evaluation: dict[str, Any] | None = None
    categories: Mapping[str, Sequence[str]] | None = None

    def train(self) -> None:
        every, last = self.plan.evaluation.every or self.plan.training.steps, self.plan.training.steps
        step = self.steps.step
        self.changes = self.doctor.replay(self.records.metrics_so_far())  # of a run that goes on: nothing is told twice
        self.evaluation = self.records.evaluation_of(step)
        if step and (step % every == 0 or step == last) and self.evaluation is None:
            self.evaluate(step)  # the one that a signal cut short
        train(self.steps, log=self.log, save=self.save, evaluate=self.evaluate, evaluate_every=every, stop=self.stop)

    def agent(self) -> Agent:
        learner = self.learner
        parameters, seeds = learner.update.parameters, self.plan.seeds
        return Agent(self.plan.algorithm, learner.template, parameters, self.spec, self.transforms, seeds, self.categories)

    def log(self, step: int, steps_per_second: float, metrics: dict[str, list[float]]) -> None:
        if self.probe is not None:
            metrics = metrics | self.probe.read_all(self.learner)
        self.examine(step, metrics)
        self.records.metrics(step, steps_per_second, metrics)
        self.metrics = metrics
        if self.show is not None:
            self.show(step, self.plan.training.steps, steps_per_second, metrics)

    def examine(self, step: int, metrics: dict[str, list[float]]) -> None:
        """Writes what the run doctor says of a line of metrics, and tells of alarms that were never told."""
        changes, known = self.doctor.judge(step, metrics), {c.name for c in self.changes}
        self.changes += changes
        if changes or not self.metrics:  # an empty file from the first line on
            self.records.alarms([c.to_json() for c in changes])
        for alarm in alarms_of(changes):
            if self.warn is not None and alarm.name not in known:
                self.warn(alarm)

    def save(self, step: int) -> None:
        keep = self.plan.training.keep_checkpoints
        checkpoint.save(self.path / "checkpoints", step, self.steps.tensors(), {"seconds": self.records.seconds}, keep)

    def evaluate(self, step: int) -> None:
        line = self.judge.judge(self.agent(), self.learner, step, self.records.seconds, self.stop)
        if line is not None:
            self.records.evaluation(line)
            self.evaluation = line


def describe(
    plan: Plan,
    dataset: Dataset,
    spec: Spec,
    transforms: list[scales.Affine],
    source: str,
    environment: str | None,
    environment_options: Mapping[str, Any],
    logging: Logging,
) -> dict[str, Any]:
    """Returns a run's config.json."""
    device = device_of(plan.training.device)
    compiled, reason = compilation.choose(plan.training.compile, plan.training.steps, device)
    metadata = dataset.metadata
    return {
        "format": 1,
        "version": VERSION,
        "algorithm": plan.algorithm,
        "recipe": plan.recipe,
        "settings": to_json(plan.settings),
        "seeds": list(plan.seeds),
        "training": to_json(plan.training) | {"compiled": compiled, "compile_reason": reason, "device_used": str(device)},
        "preprocessing": to_json(plan.preprocessing),
        "evaluation": to_json(plan.evaluation),
        "goals": to_json(plan.goals) if plan.goals.hindsight else None,
        "data": {
            "source": source,
            "name": str(metadata.get("name", source)),
            "fingerprint": dataset.fingerprint(),
            "steps_fingerprint": dataset.steps_fingerprint(),
            "groups_fingerprint": dataset.groups_fingerprint(),
            "episodes": dataset.episodes,
            "steps": len(dataset),
            "transforms": [t.description for t in transforms],
            **{name: metadata.get(name) for name in ("reference", "table_schema")},
            "environment": kept(named_by(metadata)),
        },
        "spec": spec.to_json(),
        "environment": None if environment is None else kept({"id": environment, "options": dict(environment_options)}),
        "logging": to_json(logging),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
