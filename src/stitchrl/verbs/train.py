"""`stitchrl train ALGORITHM --data D`: one run directory."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, final

import tyro

from stitchrl import algorithms
from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalDrawing, drawing_of
from stitchrl.core.records import Logging
from stitchrl.core.settings import nearest
from stitchrl.data.sources.tables import TableSchema
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import Preprocessing
from stitchrl.training.learner import Training
from stitchrl.verbs.flags import last_told, options_told, parse

PROG = "stitchrl train"
Settings = TypeVar("Settings")


@final
@dataclass(frozen=True)
class Train(Generic[Settings]):
    """Flags of `train`; the settings are those of the algorithm."""

    data: str
    """a built-in dataset (stitchrl data list), the id of one that Minari has downloaded, or a file or directory"""
    settings: Settings
    schema: Path | None = None
    """JSON or TOML file with the columns of a table (CSV, Parquet)"""
    table: TableSchema = field(default_factory=TableSchema)
    """the same as flags"""
    recipe: str | None = None
    """published settings as defaults of --settings, --preprocessing, --goals and --batch-size"""
    training: tyro.conf.OmitArgPrefixes[Training] = field(default_factory=Training)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    goals: GoalDrawing = field(default_factory=GoalDrawing)
    evaluation: Evaluation = field(default_factory=Evaluation)
    logging: Logging = field(default_factory=Logging)
    env: str = "auto"
    """environment to evaluate in; auto: the one the data name, if any; none: stay offline; MODULE:ID imports your own MODULE first"""
    env_options: tuple[str, ...] = ()
    """of that environment, in place of those that the log keeps for it: name=value, such as max_episode_steps=500"""
    seeds: int = 1
    """how many seeds to train at once"""
    first_seed: int = 0
    seed_list: tuple[int, ...] = ()
    """these seeds instead"""
    run: str | None = None
    """run directory; default runs/ALGORITHM-DATA"""
    resume: bool = False
    """go on from the newest complete checkpoint"""
    overwrite: bool = False
    """replace the run that is there"""
    allow_change: tuple[str, ...] = ()
    """settings that may differ on --resume, such as settings.learning_rate"""
    print_config: bool = False
    """print the resolved settings and stop"""


def train(arguments: Sequence[str]) -> int:
    """Trains an algorithm on a log."""
    names = algorithms.names()
    if not arguments or arguments[0].startswith("-"):
        asked = bool(arguments) and arguments[0] in ("-h", "--help")
        if not asked:
            raise ConfigError(f"{PROG}: name an algorithm first: {', '.join(names)}")
        print(
            f"usage: {PROG} ALGORITHM --data DATA [options]\n\nalgorithms: {', '.join(names)}\n\n{PROG} ALGORITHM --help tells its options"
        )
        return 0
    name, rest = arguments[0], list(arguments[1:])
    if name not in names:
        raise ConfigError(f"unknown algorithm '{name}'.{nearest(name, names)}")
    return _train(name, rest)


def _train(name: str, rest: list[str]) -> int:
    from stitchrl.recipes import published

    default = _defaults(name, rest)
    fitting = sorted(recipe for recipe, make in published.recipes().items() if make().algorithm == name)
    told = f" Recipes: {', '.join(fitting)}." if fitting else ""
    about = f"Train {name} on a fixed log, into a run directory.{told}"
    a = parse(Train[type(default.settings)], rest, f"{PROG} {name}", about, default=default)  # type: ignore[misc]
    if a.print_config:
        print_config(name, a)
        return 0
    return _run(name, a)


def print_config(name: str, a: Any) -> None:
    """Prints the resolved flags of an algorithm's run."""
    from stitchrl.core.files import to_json_line

    shown = {"algorithm": name, **dataclasses.asdict(a)}
    print("\n".join(f"{key}: {value if isinstance(value, str) else to_json_line(value)}" for key, value in shown.items()))


def _run(name: str, a: Any) -> int:
    from stitchrl.experiment import plan, run_experiment
    from stitchrl.recipes import datasets
    from stitchrl.report.run import write_run_report
    from stitchrl.training.progress import Progress
    from stitchrl.verbs.data import table_options

    if a.seeds < 1:
        raise ConfigError(f"{PROG}: --seeds is {a.seeds}; expected the number of seeds to train, at least 1")
    if a.seed_list and (a.seeds, a.first_seed) != (1, 0):
        raise ConfigError(f"{PROG}: --seed-list names the seeds; leave --seeds and --first-seed out")
    seeds = tuple(a.seed_list) if a.seed_list else tuple(range(a.first_seed, a.first_seed + a.seeds))
    made = plan(
        name, settings=a.settings, seeds=seeds, training=a.training, preprocessing=a.preprocessing, evaluation=a.evaluation, goals=a.goals,
        recipe=a.recipe,
    )  # fmt: skip
    dataset = datasets.load(a.data, **table_options(a.schema, a.table))
    _tell_reading(a.data, dataset)
    environment, options = environment_of(dataset, a.env, options_told(a.env_options))
    path = Path(a.run) if a.run else Path("runs") / f"{name}-{_plain(str(dataset.metadata.get('name', Path(a.data).stem)))}"
    with Progress(f"{name} on {dataset.metadata.get('name', a.data)}", quiet=a.logging.quiet) as progress:
        result = run_experiment(
            made, dataset, path=path, source=a.data, environment=environment, environment_options=options, logging=a.logging,
            resume=a.resume, overwrite=a.overwrite, allow_change=a.allow_change, show=progress, warn=progress.warning(),
        )  # fmt: skip
    write_run_report(path)
    if result.signal is not None:
        return told_stop(path, result)
    if not a.logging.quiet:
        _tell(path, result)
        _tell_trust(path, a, dataset, result.agent)
    return 0


def _tell_reading(data: str, dataset: Any) -> None:
    """Says what the reader left out or decided that may be wrong: what `stitchrl data validate` warns of, before hours are spent on it."""
    from stitchrl.data.episode_checks import check_reading

    for finding in check_reading(dataset):
        if finding.severity == "warning":
            print(f"{data}: {finding.message}; `stitchrl data validate` tells what to do", file=sys.stderr)


def _tell_trust(path: Path, a: Any, dataset: Any, agent: Any) -> None:
    """Prints the command that judges the policy from its log, where there is one."""
    from stitchrl.core.spec import is_image

    unread = is_image(dataset.spec.observation) or dataset.metadata.get("rewards_missing") or "goals" in dataset.columns
    read = TableSchema.from_file(a.schema) if a.schema else TableSchema()
    if unread or a.goals.hindsight or agent.remembers or a.table != read:
        return
    schema = ["--schema", str(a.schema)] if a.schema else []
    print(f"how far to trust it: {shlex.join(['stitchrl', 'trust', str(path), '--data', a.data, *schema])}")


def told_stop(path: Path, result: Any) -> int:
    """Returns the exit code of a run that a signal stopped, and says how to go on."""
    kept = "the checkpoint is complete, go on" if result.step else "nothing is learned yet, start"
    print(f"{path}: stopped by a signal at step {result.step:,}; {kept} with --resume", file=sys.stderr)
    return 128 + int(result.signal)


def _defaults(name: str, rest: list[str]) -> Train[Any]:
    """The flags that are not given: an algorithm's own, or those that `--recipe NAME` or `--recipe=NAME` sets."""
    from stitchrl.core.settings import read_settings
    from stitchrl.recipes import published

    kind, config = algorithms.find(name)
    asked = last_told(rest, "--recipe")
    if asked is None:
        return Train(data=tyro.MISSING, settings=config(), goals=drawing_of(kind.batch))
    if not asked:
        raise ConfigError(f"--recipe needs a name.{nearest('', sorted(published.recipes()))}")
    found = published.recipe_of(name, asked)
    settings, goals = read_settings(config, found.settings, asked), found.goals or drawing_of(kind.batch)
    training = Training(batch_size=found.batch_size)
    return Train(data=tyro.MISSING, settings=settings, training=training, preprocessing=found.preprocessing, goals=goals)


def environment_of(dataset: Any, asked: str, told: dict[str, Any] | None = None) -> tuple[str | None, dict[str, Any]]:
    """Returns the environment's id and options to evaluate in, or None: `auto` takes the one that the data name; `told` options have their say."""
    from stitchrl.evaluation.recorded_task import check_named, named_by, options_of

    own = named_by(dataset.metadata)
    if asked == "none" or (asked == "auto" and own is None):
        if told is not None:
            reason = "--env none stays offline" if asked == "none" else "the data name no environment; name it with --env"
            raise ConfigError(f"{PROG}: --env-options {', '.join(told)} are given without an environment: {reason}, or leave them out")
        return None, {}
    environment = asked if own is None or asked != "auto" else check_named(own["id"])
    return environment, options_of(dataset.metadata, environment) if told is None else told


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.") or "data"


def _tell(path: Path, result: Any) -> None:
    line, words = result.evaluation, ["not evaluated (no environment)"]
    if line is not None:
        per_seed = [sum(r) / len(r) for r in line["returns"]]
        words = [f"return {sum(per_seed) / len(per_seed):.4g} (seeds: {', '.join(f'{x:.4g}' for x in per_seed)})"]
        for key, text in (("normalized", "normalised score"), ("exact_value", "exact value"), ("believed_value", "believed value")):
            if line.get(key):
                values = [sum(v) / len(v) if isinstance(v, list) else v for v in line[key]]
                words.append(f"{text} {sum(values) / len(values):.4g}")
    for alarm in result.alarms:
        words.append(f"ALARM: {alarm.sentence}")
    print(f"{path}: {result.step:,} steps; {'; '.join(words)}\nreport: {path / 'report.html'}")
