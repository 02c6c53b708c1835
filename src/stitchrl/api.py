"""The Python face: the same words as the command. `import stitchrl` loads none of this until a name is used."""

from __future__ import annotations

import os
import signal
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

import numpy as np

from stitchrl import agent, algorithms
from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalDrawing, drawing_of
from stitchrl.core.records import Logging
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation, check_task
from stitchrl.evaluation.playing import play
from stitchrl.evaluation.recorded_task import options_of, task_for, task_of
from stitchrl.evaluation.rollout import Rollout
from stitchrl.experiment import Preprocessing, Result, run_experiment
from stitchrl.experiment import plan as plan_run
from stitchrl.recipes import datasets, published
from stitchrl.report.run import write_run_report
from stitchrl.training.learner import Training
from stitchrl.training.progress import Progress

if TYPE_CHECKING:
    from stitchrl.evaluation.asked_returns import AskedReturns
    from stitchrl.evaluation.seen_plans import SeenPlans
    from stitchrl.evaluation.selection import Selection
    from stitchrl.evaluation.trust_report import Trust
    from stitchrl.fine_tuning.continuation import OnlinePhase


def load(data: str | Path, **options: Any) -> Dataset:
    """Returns a dataset: a built-in one by name, or a file or directory; `options` are those of its reader. Raises DataError, ConfigError."""
    if not isinstance(data, str | os.PathLike):
        raise ConfigError(f"data is {type(data).__name__}; expected the name of a dataset, a path, or a Dataset where one is taken")
    return datasets.load(str(data), **options)


def load_policy(path: str | Path) -> Agent:
    """Returns the policies of a run directory or of its `policy/`; raises CheckpointError."""
    return agent.load(_path(path, "path"))


def train(
    algorithm: str,
    data: str | Path | Dataset,
    *,
    run: str | Path,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Any] | None = None,
    training: Training | Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    goals: GoalDrawing | Mapping[str, Any] | None = None,
    recipe: str | None = None,
    logging: Logging | Mapping[str, Any] | None = None,
    environment: str | None = None,
    environment_options: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
) -> Result:
    """Returns the result of one run, written to the directory `run`.

    `settings` are fields of the algorithm's config, `training={"steps": 10_000}` and the like those of the engine. `environment` is where
    to evaluate; None stays offline. Its options are those of the log's own environment of that id unless told. `goals={"hindsight": True}`
    learns to reach the states of the log. `recipe` names published settings, over which `settings`, `preprocessing`, `goals` and the batch
    size of `training` have their say. Progress and alarms go to stderr, unless `logging={"quiet": True}`. `allow_change` names what may
    differ on `resume`, as `("training.steps",)`.
    Raises ConfigError, DataError, CheckpointError, DivergenceError.
    """
    path, kind = _path(run, "run"), algorithms.find(algorithm)[0]
    told = published.Recipe(algorithm) if recipe is None else published.recipe_of(algorithm, recipe)
    for name, given in {"settings": settings, "training": training, "preprocessing": preprocessing, "goals": goals}.items():
        if recipe is not None and not isinstance(given, Mapping | None):
            raise ConfigError(
                f"{name} is a {type(given).__name__}, which says all, and so does recipe {recipe!r}; give the fields to change: a dict"
            )
    own = {**told.settings, **(settings or {})} if settings is None or isinstance(settings, Mapping) else settings
    made = plan_run(
        algorithm, settings=own, seeds=seeds,
        training=_of(Training, training, "training", Training(batch_size=told.batch_size)),
        preprocessing=_of(Preprocessing, preprocessing, "preprocessing", told.preprocessing),
        evaluation=_of(Evaluation, evaluation, "evaluation"), goals=_of(GoalDrawing, goals, "goals", told.goals or drawing_of(kind.batch)),
        recipe=recipe,
    )  # fmt: skip
    dataset = data if isinstance(data, Dataset) else load(data)
    source = str(dataset.metadata.get("name", "in memory")) if isinstance(data, Dataset) else str(data)
    if environment is None and environment_options is not None:
        raise ConfigError(
            "environment_options are given and environment is None: the run stays offline; name the environment, or leave them out"
        )
    options = options_of(dataset.metadata, environment) if environment_options is None else environment_options
    records = _of(Logging, logging, "logging", Logging())
    with Progress(f"{algorithm} on {dataset.metadata.get('name', source)}", quiet=records.quiet) as progress:
        result = run_experiment(
            made, dataset, path=path, source=source, environment=environment, environment_options=options, logging=records,
            resume=resume, overwrite=overwrite, allow_change=allow_change, show=progress, warn=progress.warning(),
        )  # fmt: skip
    write_run_report(path)
    _tell_stop(path, result)
    return result


def finetune(
    run: str | Path,
    environment: str | None = None,
    *,
    environment_options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    into: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    online: OnlinePhase | Mapping[str, Any] | None = None,
    training: Training | Mapping[str, Any] | None = None,
    evaluation: Evaluation | Mapping[str, Any] | None = None,
    data: str | Path | Dataset | None = None,
    logging: Logging | Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Sequence[str] = (),
) -> Result:
    """Returns the result of a run that goes on in an environment, written to the directory `into` (the run's own with `-finetune` at its end).

    All that is not given is as the run had it: `environment` (else its log's own) with its options, `settings` of its algorithm, `training`,
    `evaluation` and where its log is, `data`.
    `steps` are each seed's in the environment; `logging` and `allow_change` are as in `train`.
    Raises ConfigError, DataError, CheckpointError, DivergenceError (docs/finetune.md).
    """
    from stitchrl.fine_tuning.continuation import OnlinePhase
    from stitchrl.fine_tuning.online_phase import run_online
    from stitchrl.fine_tuning.parent_run import read_parent

    parent = read_parent(_path(run, "run"))
    where, options, _ = task_of(parent.path, environment, environment_options)
    learned = _of(Training, training, "training", parent.training)
    source = parent.source if data is None or isinstance(data, Dataset) else str(data)
    path = _path(into, "into") if into is not None else parent.path.resolve().parent / f"{parent.path.resolve().name}-finetune"
    records = _of(Logging, logging, "logging", Logging())
    with Progress(f"{parent.algorithm} in {where}", quiet=records.quiet) as progress:
        result = run_online(
            parent, data if isinstance(data, Dataset) else load(source, **parent.reading(source)), path=path, source=source, environment=where,
            environment_options=options, settings=settings,
            online=_of(OnlinePhase, online, "online"), training=_of(Training, None if steps is None else {"steps": steps}, "training", learned),
            evaluation=_of(Evaluation, evaluation, "evaluation", parent.evaluation), logging=records, resume=resume, overwrite=overwrite,
            allow_change=allow_change, show=progress, warn=progress.warning(),
        )  # fmt: skip
    write_run_report(path)
    _tell_stop(path, result)
    return result


def _tell_stop(path: Path, result: Result) -> None:
    if result.signal is not None:
        warnings.warn(f"{path}: stopped by a signal at step {result.step:,}; resume=True goes on", stacklevel=3)


def evaluate(
    policy: str | Path | Agent, environment: str | Dataset | None = None, *, episodes: int = 100, seed: int = 20_000, sampled: bool = False,
    epsilon: float | None = None, discount: float = 1.0, settings: Mapping[str, Any] | None = None,
    environment_options: Mapping[str, Any] | None = None, parallel: int = 10, processes: int | None = None,
) -> Rollout:  # fmt: skip
    """Returns what each seed's policy earns in `episodes` episodes of an environment: returns `[S, episodes]` and more.

    `environment` and its options are those of the run unless told; of a Dataset, its own. `sampled` draws actions in place of their mode or
    mean; policies made of noise (plans, diffusion, flows, BCQ) draw them always; a share `epsilon` of integer ones is random. `settings` of the
    algorithm are changed for acting alone, such as `{"planning": "none"}`. `parallel` environments a policy in `processes`: of actions that are
    drawn, another number of the former is another draw. Raises ConfigError, CheckpointError.
    """
    acting = _acting(policy, settings)
    where, options = task_for(policy, environment, environment_options)
    check_task(acting, where, options)
    return play(
        acting, where, sampled=sampled, epsilon=epsilon, episodes=episodes, seed=seed, discount=discount, environment_options=options,
        parallel=parallel, processes=processes,
    )  # fmt: skip


def plan(
    policy: str | Path | Agent, observations: np.ndarray, *, settings: Mapping[str, Any] | None = None, sampled: bool = False
) -> SeenPlans:
    """Returns what a policy that plans (its first seed) would do where episodes begin with observations `[N, *O]`: states, their scores, and
    how the best came about.

    `settings` as in `evaluate`; `sampled` draws the plans' noise anew. Raises ConfigError for a policy that makes no plans, CheckpointError.
    """
    from stitchrl.evaluation.seen_plans import seen_plans

    return seen_plans(_acting(policy, settings), np.asarray(observations), sampled=sampled)


def asked_returns(
    policy: str | Path | Agent, environment: str | Dataset | None = None, targets: Sequence[float] | None = None, *, episodes: int = 20,
    seed: int = 20_000, sampled: bool = False, environment_options: Mapping[str, Any] | None = None,
) -> AskedReturns:  # fmt: skip
    """Returns what a return-conditioned policy earns where it is asked for each of the targets (docs/algorithms/decision_transformer.md).

    `environment` and its options are as in `evaluate`. `targets` are in the task's units of reward; None: six from the lowest
    to the highest return of the log. Raises ConfigError, CheckpointError.
    """
    from stitchrl.evaluation.asked_returns import asked_returns as ask

    acting = _acting(policy, None)
    where, options = task_for(policy, environment, environment_options)
    check_task(acting, where, options)
    return ask(acting, where, targets, episodes=episodes, seed=seed, sampled=sampled, environment_options=options)


def _acting(policy: str | Path | Agent, settings: Mapping[str, Any] | None) -> Agent:
    from stitchrl.evaluation.acting_settings import acting_with

    acting = policy if isinstance(policy, Agent) else load_policy(policy)
    return acting_with(acting, settings) if settings else acting


def trust(
    policy: str | Path | Agent,
    data: str | Path | Dataset,
    *,
    seed: int | None = None,
    sampled: bool = False,
    discount: float | None = None,
    clock: Literal["auto", "continues", "ends"] = "auto",
    level: float = 0.95,
    random_seed: int = 0,
    quick: bool = False,
    subgroups: Sequence[str] = (),
    loggers: str = "infos/policy_id",
    return_range: tuple[float, float] | None = None,
    largest_weight: float | None = None,
    before: str | Path | Agent | None = None,
    command: str | None = None,
) -> Trust:
    """Returns what a log says of a policy, and how far to believe it: verdict, checks, estimates with intervals (docs/trust.md).

    `seed` is one of the policy's (the first unless told). `discount` is the learner's unless told. Where the log is the one that the run learned
    from, the episodes that the run held out are judged on; it says so where there are none. `return_range` and `largest_weight` are what is known
    of an episode's discounted return and of its weight. `before` is another policy, judged on the same episodes with the same discount: its numbers
    and the paired difference stand beside the first one's. Raises DataError, ConfigError, CheckpointError.
    """
    from stitchrl.evaluation.before_after import with_before  # these load scipy and more, which training does not need
    from stitchrl.evaluation.trust_report import Question
    from stitchrl.evaluation.trust_report import trust as judge
    from stitchrl.trust_sides import discount_of, side_of

    both = [policy] if before is None else [policy, before]
    agents = [one if isinstance(one, Agent) else load_policy(one) for one in both]
    dataset = data if isinstance(data, Dataset) else load(data)
    own = getattr(agents[0].config, "discount", None)
    used = discount if discount is not None else own if own is not None else float(dataset.metadata.get("discount") or discount_of(dataset))
    sides = [side_of(one, acting, dataset, seed, sampled) for one, acting in zip(both, agents, strict=True)]
    # what a run holds out of a log is part of what it would hold out were it to hold out more: the smallest part is held out of all
    judged_on = min((side.judged_on for side in sides), key=lambda held_out: held_out.episodes)
    found: list[Trust] = []
    for side in sides:
        question = Question(
            float(used), clock, level, random_seed, quick, tuple(subgroups), loggers, side.trained_on, side.provenance,
            path=None if side.run is None else str(side.run), command=command, return_range=return_range, largest_weight=largest_weight,
            **side.sanity,
        )  # fmt: skip
        found.append(judge(judged_on, side.target, question, other=found[0] if found else None))
    return found[0] if before is None else with_before(*found)


def select(
    runs: str | Path | Agent | Sequence[str | Path | Agent],
    data: str | Path | Dataset,
    *,
    selector: str = "default",
    top: int = 3,
    discount: float | None = None,
    clock: Literal["continues", "ends"] = "continues",
    sampled: bool = False,
    quick: bool = False,
    against_recorded: bool = False,
    level: float = 0.95,
    seed: int = 0,
) -> Selection:
    """Returns which of these policies to use, judged by a log alone: every seed of every run, and the logged behaviour (docs/selection.md).

    The words are those of `stitchrl select`. A policy without its run has no critic and no history. Raises DataError, ConfigError, CheckpointError.
    """
    from stitchrl.candidates import Asked, select_runs  # loads scipy and more, which training does not need

    several = [runs] if isinstance(runs, str | Path | Agent) else list(runs)
    asked = Asked(selector, top, discount, clock, sampled, quick, against_recorded, level, seed)
    in_memory = isinstance(data, Dataset)
    dataset = data if isinstance(data, Dataset) else load(data)
    return select_runs(several, dataset, asked, source=str(dataset.metadata.get("name", "in memory")) if in_memory else str(data))


@final
class Estimator:
    """An algorithm with fit and predict: `stitchrl.IQL(expectile=0.8).fit(dataset, steps=10_000).predict(observations)`."""

    def __init__(self, algorithm: str, **settings: Any) -> None:
        self.algorithm = algorithm
        self.settings = settings
        self.agent: Agent | None = None
        plan_run(algorithm, settings=settings)  # a wrong setting is told now, not at fit

    def fit(
        self, dataset: str | Path | Dataset, *, steps: int = 10_000, seeds: int | Sequence[int] = 1, batch_size: int = 256,
        preprocessing: Preprocessing | Mapping[str, Any] | None = None, goals: GoalDrawing | Mapping[str, Any] | None = None, **training: Any,
    ) -> Estimator:  # fmt: skip
        """Returns itself, trained on a log; keeps no files. `preprocessing` and `goals` as in `train`; `training`: further settings of the engine.

        A signal that stops it early leaves nothing to go on from: KeyboardInterrupt, or SystemExit of another than SIGINT.
        """
        with tempfile.TemporaryDirectory() as directory:
            result = train(
                self.algorithm, dataset, run=Path(directory) / "run", seeds=seeds, settings=self.settings, preprocessing=preprocessing, goals=goals,
                training={"steps": steps, "batch_size": batch_size, "save_every": steps, **training}, logging=Logging(tensorboard=False, quiet=True),
            )  # fmt: skip
        if result.signal is not None:
            raise KeyboardInterrupt if result.signal == signal.SIGINT else SystemExit(128 + result.signal)
        self.agent = result.agent
        return self

    def predict(self, observations: np.ndarray, *, sampled: bool = False) -> np.ndarray:
        """Returns actions `[N, *A]` of the first seed for observations `[N, *O]`; raises ConfigError before `fit`."""
        if self.agent is None:
            raise ConfigError(f"{self.algorithm}: predict was called before fit")
        return self.agent.predict(observations, sampled=sampled)

    def save(self, directory: str | Path) -> None:
        """Writes the policy, to be read by `load_policy`; raises ConfigError before `fit`."""
        if self.agent is None:
            raise ConfigError(f"{self.algorithm}: save was called before fit")
        self.agent.save(Path(directory))


def estimator_named(name: str) -> Any:
    """Returns a function that makes the Estimator of an algorithm by its class's name, such as IQL or TD3BC; None if there is none."""
    for algorithm in algorithms.names():
        if algorithm.replace("_", "") == name.lower() and name[0].isupper():
            return lambda **settings: Estimator(algorithm, **settings)
    return None


def _path(value: Any, name: str) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{name} is {value!r}; expected the path of a directory")
    return Path(value)


def _of(kind: Any, values: Any, name: str, unless: Any = None) -> Any:
    """The settings of a kind, with those of `unless` in place of what is not given."""
    if values is None:
        return unless
    if isinstance(values, kind):
        return values
    from stitchrl.core.settings import read_settings

    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is {values!r}; expected a mapping of settings or {kind.__name__}")
    return read_settings(kind, {**({} if unless is None else asdict(unless)), **values}, name)
