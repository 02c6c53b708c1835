"""`stitchrl data list · show · collect · convert · validate · report`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, final

import tyro

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.settings import Natural, check_settings
from stitchrl.data.sources.tables import TableSchema
from stitchrl.verbs.flags import options_told, parse

DataArgument = Annotated[str, tyro.conf.Positional]


@final
@dataclass(frozen=True)
class Source:
    """Which data, and for a table (CSV, Parquet) which of its columns mean what."""

    data: DataArgument
    """a built-in dataset (stitchrl data list), a Minari id, or a file or directory: Minari, D4RL HDF5, NPZ, Parquet, CSV, or one of ours"""
    schema: Path | None = None
    """JSON or TOML file with the columns of a table: observations, actions, reward, episode, time, terminal, timeout, …"""
    table: TableSchema = field(default_factory=TableSchema)
    """the same as flags"""


@final
@dataclass(frozen=True)
class Show:
    source: Annotated[Source, tyro.conf.arg(name="")]


@final
@dataclass(frozen=True)
class Convert:
    source: Annotated[Source, tyro.conf.arg(name="")]
    output: Annotated[Path, tyro.conf.arg(name="to")] = Path()
    """where to write: by suffix .npz, .hdf5, .parquet, .csv; without a suffix a directory that opens memory-mapped"""
    overwrite: bool = False
    """replace the file, or the saved dataset, that is there"""
    format: Literal["suffix", "minari"] = "suffix"
    observation_keys: tuple[str, ...] = ()
    """of a Minari log whose observations have several entries: those to put side by side, such as observation desired_goal"""
    episode_length: int | None = None
    """of NPZ and HDF5 that tell of terminals and no timeouts: the steps after which the clock ended an episode"""
    frame_stack: int | None = None
    """of a log whose observations are single grey frames: stack so many to an observation; each is stored once all the same"""


@final
@dataclass(frozen=True)
class Validate:
    source: Annotated[Source, tyro.conf.arg(name="")]
    json: Path | None = None
    """write the findings here too"""


@final
@dataclass(frozen=True)
class Report:
    source: Annotated[Source, tyro.conf.arg(name="")]
    html: Path | None = None
    json: Path | None = None
    seed: Natural = 0


@final
@dataclass(frozen=True)
class Collect:
    environment: Annotated[str, tyro.conf.Positional]
    """a Gymnasium id, or stitchrl/Gridworld-v0, stitchrl/ICU-Sepsis-v0; MODULE:ID imports your own MODULE first"""
    to: Path
    """where to write the dataset (see data convert)"""
    env_options: tuple[str, ...] = ()
    """of the environment: name=value, such as max_episode_steps=500"""
    overwrite: bool = False
    """replace what is there"""
    behaviour: tuple[str, ...] = ("random",)
    """random, waypoint (PointMaze), highway-cautious, highway-reckless, a run directory or a saved policy; several make a mixture, one an episode"""
    weights: tuple[float, ...] = ()
    """of the mixture's parts; equal unless given"""
    episodes: int | None = None
    steps: int | None = None
    epsilon: float = 0.0
    """share of uniformly random actions"""
    sigma: float = 0.0
    """standard deviation of Gaussian noise on real-valued actions, in halves of their range"""
    sampled: bool = False
    """draw a saved policy's actions instead of taking its best"""
    seed: int = 0


def list_datasets(arguments: Sequence[str]) -> int:
    """Prints the built-in datasets."""
    from stitchrl.recipes import datasets
    from stitchrl.recipes.dataset_cache import WORTH_TELLING

    @final
    @dataclass(frozen=True)
    class List:
        pass

    parse(List, arguments, "stitchrl data list", "Built-in datasets, made on first use without any download.")
    rows = [
        (name, entry.description + (f" Made in {entry.cost}." if entry.seconds > WORTH_TELLING and entry.shipped is None else ""))
        for name, entry in datasets.available().items()
    ]
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))
    return 0


def show(arguments: Sequence[str]) -> int:
    """Prints what a dataset holds."""
    from stitchrl.data.finite_values import lacks_rewards

    dataset = _load(parse(Show, arguments, "stitchrl data show", "Size, spaces, columns and origin of a dataset.").source)
    lengths, returns = dataset.lengths, dataset.returns()
    earned = f"return {returns.mean():.4g} ± {returns.std():.4g}, from {returns.min():.4g} to {returns.max():.4g}"
    lines = [
        f"{dataset.metadata.get('name', 'unnamed')}: {len(dataset):,} steps in {dataset.episodes:,} episodes",
        f"episodes of {lengths.min()} to {lengths.max()} steps",
        f"observation {_space(dataset.spec.observation)}, action {_space(dataset.spec.action)}",
        "return not known: no rewards" if lacks_rewards(dataset) else earned,
        f"ends: {int(dataset.terminals.sum()):,} terminals, {int(dataset.timeouts.sum()):,} timeouts",
        "columns: " + ", ".join(f"{name} {list(column.shape)} {column.dtype}" for name, column in dataset.columns.items()),
        f"sha256 {dataset.fingerprint()}",
    ]
    known = {key: value for key, value in dataset.metadata.items() if key != "name" and value}
    print("\n".join([*lines, *(f"{key}: {value}" for key, value in known.items())]))
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Reads one format and writes another."""
    a = parse(Convert, arguments, "stitchrl data convert", "Read one format, write another.")
    if a.output == Path():
        raise ConfigError("stitchrl data convert: --to is missing: where to write, for example --to log.npz")
    _check_free(a.output, a.overwrite, a.format)
    told = {"observation_keys": a.observation_keys or None, "episode_length": a.episode_length}
    dataset = _load(a.source, **{name: value for name, value in told.items() if value is not None})
    if a.frame_stack is not None:
        from stitchrl.data.frame_stacks import stack_frames

        dataset = stack_frames(dataset, a.frame_stack)
    _write(dataset, a.output, a.format, a.overwrite)
    print(f"{a.output}: {len(dataset):,} steps in {dataset.episodes:,} episodes")
    return 0


def validate(arguments: Sequence[str]) -> int:
    """Prints what is wrong in a log; returns 1 if anything makes it unusable."""
    from stitchrl.data.doctor import examine
    from stitchrl.data.findings import findings_to_json
    from stitchrl.report.dataset_page import findings_text

    a = parse(
        Validate, arguments, "stitchrl data validate", "What is wrong in a log, by episode, step and column. Exit code 1 if it is unusable."
    )
    dataset = _load(a.source)
    found = findings_to_json(examine(dataset))
    _write_json(a.json, found)
    print(findings_text(found, colour=sys.stdout.isatty()))
    return 1 if found["errors"] else 0


def report(arguments: Sequence[str]) -> int:
    """Prints the analysis of a log, and writes it as JSON and HTML."""
    a = parse(Report, arguments, "stitchrl data report", "Returns, coverage, quality and advice, as text, JSON and HTML.")
    from stitchrl.core.files import check_writable, write_atomically

    check_writable(a.json, "--json")
    check_writable(a.html, "--html")
    check_settings(a, "stitchrl data report")
    described, found = analysis(_load(a.source), a.seed)
    from stitchrl.report.dataset_page import dataset_page, dataset_text

    _write_json(a.json, {"report": described, "findings": found})
    if a.html is not None:
        write_atomically(a.html, dataset_page(described, found).encode())
    print(dataset_text(described, found))
    for file in (a.json, a.html):
        if file is not None:
            print(file)
    return 0


def collect(arguments: Sequence[str]) -> int:
    """Rolls behaviours out in an environment and writes the log."""
    from stitchrl.environments.collect import collect as collect_log
    from stitchrl.environments.make import make, spec_of

    a = parse(Collect, arguments, "stitchrl data collect", "An environment and a behaviour policy become a dataset.")
    _check_free(a.to, a.overwrite)
    options = options_told(a.env_options) or {}
    with closing(make(a.environment, **options)) as environment:
        behaviour = _behaviour(a, spec_of(environment), environment)
    dataset = collect_log(a.environment, behaviour, options=options, episodes=a.episodes, steps=a.steps, seed=a.seed, name=a.to.stem)
    _write(dataset, a.to, "suffix", a.overwrite)
    print(f"{a.to}: {len(dataset):,} steps in {dataset.episodes:,} episodes, mean return {dataset.returns().mean():.4g}")
    return 0


def analysis(dataset: Any, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the description and the findings of a log as plain JSON values."""
    from stitchrl.data.doctor import examine
    from stitchrl.data.findings import findings_to_json
    from stitchrl.data.statistics import describe

    findings = examine(dataset)
    return describe(dataset, seed=seed, findings=findings).to_json(), findings_to_json(findings)


def _behaviour(a: Collect, spec: Any, environment: Any) -> Any:
    from stitchrl.environments.behaviours import MixtureBehaviour, NoisyBehaviour
    from stitchrl.recipes.named_behaviours import behaviour

    parts = [behaviour(name, spec, environment, sampled=a.sampled) for name in a.behaviour]
    if a.weights and len(a.weights) != len(parts):
        raise ConfigError(f"--weights has {len(a.weights)} numbers and --behaviour {len(parts)} parts; give one weight for each")
    weights = a.weights or (1.0,) * len(parts)
    whole = parts[0] if len(parts) == 1 else MixtureBehaviour(list(zip(weights, parts, strict=True)))
    return NoisyBehaviour(whole, spec, epsilon=a.epsilon, sigma=a.sigma) if a.epsilon or a.sigma else whole


def _load(source: Source, **options: Any) -> Any:
    from stitchrl.recipes import datasets

    return datasets.load(source.data, **table_options(source.schema, source.table), **options)


def table_options(schema: Path | None, table: TableSchema) -> dict[str, Any]:
    """Returns the reader's options for a table, whose flags begin as the file of its schema has them; none where neither was given."""
    return {} if schema is None and table == TableSchema() else {"schema": table}


def _check_free(path: Path, overwrite: bool, kind: str = "suffix") -> None:
    """Raises ConfigError where something is at the path already, or nothing can be: told before the work that is to be written there."""
    from stitchrl.data import sources

    if path.exists() and not overwrite:
        raise ConfigError(f"{path}: exists already; choose another name (--to), or replace it with --overwrite")
    if kind == "suffix":
        sources.check_known(path)
    parent = next(x for x in path.absolute().parents if x.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(
            f"{path}: cannot be written, since {parent} is {'read-only' if parent.is_dir() else 'a file'}; choose another place (--to)"
        )


def _write(dataset: Any, path: Path, kind: str, overwrite: bool) -> None:
    from stitchrl.data import sources

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "minari":
            from stitchrl.data.sources import minari

            minari.write(dataset, path)
        else:
            sources.write(dataset, path, **({} if path.suffix else {"overwrite": overwrite}))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


def _write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        from stitchrl.core.files import write_json

        write_json(path, value)


def _space(space: Any) -> str:
    return f"discrete({space.n})" if hasattr(space, "n") else f"box{list(space.shape)}"
