"""`stitchrl finetune`: a run goes on in an environment."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.records import Logging
from stitchrl.data.sources.tables import TableSchema
from stitchrl.evaluation.judge import Evaluation
from stitchrl.fine_tuning.continuation import OnlinePhase
from stitchrl.training.learner import Training
from stitchrl.verbs.flags import options_told, parse

PROG = "stitchrl finetune"
Settings = TypeVar("Settings")


@final
@dataclass(frozen=True)
class Finetune(Generic[Settings]):
    """Flags of `finetune`; all that is not given is as the run had it."""

    settings: Settings
    training: tyro.conf.OmitArgPrefixes[Training]
    evaluation: Evaluation
    online: tyro.conf.OmitArgPrefixes[OnlinePhase] = field(default_factory=OnlinePhase)
    env: str = "auto"
    """environment to go on in; auto: the one that the run was evaluated in, or else its log's own; MODULE:ID imports your own MODULE first"""
    env_options: tuple[str, ...] = ()
    """of that environment, in place of those that the run keeps for it: name=value, such as max_episode_steps=500"""
    data: str | None = None
    """where the run's log is now, if it was moved"""
    schema: Path | None = None
    """JSON or TOML file with the columns of a table (CSV, Parquet), if not those that the run recorded"""
    table: TableSchema = field(default_factory=TableSchema)
    """the same as flags"""
    logging: Logging = field(default_factory=Logging)
    run: str | None = None
    """new run directory; default: the run's own with -finetune at its end"""
    resume: bool = False
    """go on from the newest complete checkpoint of the new run"""
    overwrite: bool = False
    """replace the run that is there"""
    allow_change: tuple[str, ...] = ()
    """settings that may differ on --resume, such as training.steps"""
    print_config: bool = False
    """print the resolved settings and stop"""


@final
@dataclass(frozen=True)
class _OfTheRun:
    """Settings that only a run can tell."""


def finetune(arguments: Sequence[str]) -> int:
    """Goes on with a run in an environment."""
    if {"-h", "--help"} & set(arguments) and not Path(arguments[0]).is_dir():  # of no run: without the settings of its algorithm
        about = "Go on with a run in an environment. With the name of a run that is there, its own settings too."
        parse(Finetune[_OfTheRun], ["--help"], f"{PROG} RUN", about, default=Finetune(_OfTheRun(), Training(), Evaluation()))
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError(f"{PROG}: name a run first: {PROG} runs/NAME --env ENVIRONMENT --steps N")
    from stitchrl.fine_tuning.parent_run import read_parent
    from stitchrl.verbs.train import print_config

    parent = read_parent(Path(arguments[0]))
    default = Finetune(parent.settings, parent.training, parent.evaluation)
    about = f"Go on with {parent.path} ({parent.algorithm} on {parent.config['data']['name']}) in an environment, into a run directory of its own."
    a = parse(Finetune[type(parent.settings)], arguments[1:], f"{PROG} RUN", about, default=default)  # type: ignore[misc]
    if a.print_config:
        print_config(parent.algorithm, a)
        return 0
    return _run(parent, a)


def _run(parent: Any, a: Any) -> int:
    from stitchrl.evaluation.recorded_task import task_of
    from stitchrl.fine_tuning.online_phase import run_online
    from stitchrl.recipes import datasets
    from stitchrl.report.run import write_run_report
    from stitchrl.training.progress import Progress
    from stitchrl.verbs.data import table_options
    from stitchrl.verbs.train import told_stop

    environment, options, _ = task_of(parent.path, None if a.env == "auto" else a.env, options_told(a.env_options))
    source = a.data or parent.source
    dataset = datasets.load(source, **(table_options(a.schema, a.table) or parent.reading(source)))
    path = Path(a.run) if a.run else parent.path.resolve().parent / f"{parent.path.resolve().name}-finetune"
    with Progress(f"{parent.algorithm} in {environment}", quiet=a.logging.quiet) as progress:
        result = run_online(
            parent, dataset, path=path, source=source, environment=environment,
            environment_options=options, settings=a.settings, training=a.training, online=a.online,
            evaluation=a.evaluation, logging=a.logging, resume=a.resume, overwrite=a.overwrite, allow_change=a.allow_change, show=progress,
            warn=progress.warning(),
        )  # fmt: skip
    write_run_report(path)
    if result.signal is not None:
        return told_stop(path, result)
    if not a.logging.quiet:
        _tell(path, result)
    return 0


def _tell(path: Path, result: Any) -> None:
    from stitchrl.report.records_reader import read_run

    means = [(e.step, float(e.returns.mean())) for e in read_run(path).evaluations]
    words = "; ".join(f"return {value:.4g} at step {step:,}" for step, value in (means[:1] + means[-1:] if len(means) > 1 else means))
    alarms = "".join(f"; ALARM: {alarm.sentence}" for alarm in result.alarms)
    print(f"{path}: {result.step:,} steps in the environment; {words}{alarms}\nreport: {path / 'report.html'}", file=sys.stdout)
    print(f"in a hundred new episodes: {shlex.join(['stitchrl', 'evaluate', str(path)])}")
