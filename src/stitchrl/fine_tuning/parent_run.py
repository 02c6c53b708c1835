"""The run that goes on: its settings, scales and newest checkpoint, and whether it can."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from torch import Tensor

from stitchrl import agent, algorithms
from stitchrl.agent import Agent
from stitchrl.core.errors import CheckpointError, ConfigError, DataError
from stitchrl.core.files import read_json
from stitchrl.core.settings import read_settings
from stitchrl.core.spec import is_image
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.judge import Evaluation
from stitchrl.experiment import Plan, Preprocessing, plan
from stitchrl.training import checkpoint
from stitchrl.training.learner import Training

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Parent:
    """A run as its files have it, but for its weights: they are read when they are needed."""

    path: Path
    config: dict[str, Any]
    settings: Any
    training: Training
    evaluation: Evaluation
    preprocessing: Preprocessing

    @property
    def algorithm(self) -> str:
        return str(self.config["algorithm"])

    @property
    def source(self) -> str:
        return str(self.config["data"]["source"])

    def reading(self, source: str) -> dict[str, Any]:
        """Returns the options of `datasets.load` by which the run's log is read where it is now: the schema of a table, of the same kind of file."""
        schema = self.config["data"].get("table_schema")
        return {"schema": schema} if schema and Path(source).suffix == Path(self.source).suffix else {}

    def plan(self, settings: Mapping[str, Any] | Any, training: Training, evaluation: Evaluation) -> Plan:
        """Returns the checked plan of the online phase: the run's own, with what is given in place of its settings."""
        given = settings if not isinstance(settings, Mapping) else dataclasses.asdict(self.settings) | dict(settings)
        seeds = [int(seed) for seed in self.config["seeds"]]
        if training.precision != self.training.precision:
            raise ConfigError(f"precision is {training.precision}; {self.path} learned in {self.training.precision}, and goes on in it")
        return plan(
            self.algorithm, settings=given, seeds=seeds, training=training, preprocessing=self.preprocessing, evaluation=evaluation,
            recipe=self.config.get("recipe"),
        )  # fmt: skip

    def policy(self) -> Agent:
        """Returns the policy with its scales; raises CheckpointError where the run has none."""
        if not (self.path / "policy" / "config.json").is_file():
            raise CheckpointError(f"{self.path}: has no policy yet; let the run end, or go on with it by `stitchrl train … --resume`")
        loaded = agent.load(self.path)
        if is_image(loaded.spec.observation):
            raise ConfigError(f"{self.path}: learned from images, of which a replay does not hold enough; fine-tune a run on numbers")
        return loaded

    def checkpoint(self) -> tuple[int, dict[str, Tensor]]:
        """Returns step and tensors of the newest whole checkpoint; raises CheckpointError where there is none."""
        directory = self.path / "checkpoints"
        if not checkpoint.steps(directory):
            raise CheckpointError(
                f"{self.path}: has no checkpoint, and a policy alone has no critic to go on with; train it with --save-every, or keep checkpoints/"
            )
        tensors, extra = checkpoint.load_newest(directory)
        return int(extra["step"]), tensors

    def check_data(self, dataset: Dataset, source: str) -> None:
        """Raises DataError for a log that is not the one that the run learned from."""
        if dataset.fingerprint() != self.config["data"]["fingerprint"]:
            raise DataError(
                f"{source}: not the log that {self.path} learned from ({self.config['data']['name']}, {self.config['data']['steps']:,} steps): "
                "its fingerprint is another; give that log with --data"
            )


def read_parent(path: Path) -> Parent:
    """Returns the run in a directory; raises CheckpointError where it is none, ConfigError for an algorithm that cannot go on online."""
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such run directory; expected one written by `stitchrl train`")
    config = read_json(path / "config.json")
    if not isinstance(config, dict) or not {"format", "algorithm", "settings", "training", "seeds", "data", "evaluation"} <= set(config):
        raise CheckpointError(f"{path}/config.json: not a run's; expected a directory written by `stitchrl train`")
    _check_kinds(config, path)
    if config.get("goals"):  # none are recorded of a run without hindsight
        raise ConfigError(
            f"{path}: learned to reach goals by hindsight, which a replay does not draw; fine-tune a run without --goals.hindsight"
        )
    kind, settings = algorithms.find(config["algorithm"])
    if not kind.fine_tunes:
        able = [name for name in algorithms.names() if algorithms.find(name)[0].fine_tunes]
        raise ConfigError(
            f"{path}: '{config['algorithm']}' has no critic that could learn from an environment; fine-tune a run of {', '.join(able)}"
        )
    if "parent" in config:
        raise ConfigError(
            f"{path}: was fine-tuned from {config['parent']['path']} already; go on with it by "
            f"`stitchrl finetune {config['parent']['path']} --run {path}` "
            "with its other settings, more --steps, and --resume --allow-change training.steps"
        )
    return Parent(
        path,
        config,
        read_settings(settings, config["settings"], f"{path}/config.json"),
        _known(Training, config["training"], path),
        _known(Evaluation, config["evaluation"], path),
        _known(Preprocessing, config.get("preprocessing", {}), path),
    )


def _check_kinds(config: Mapping[str, Any], path: Path) -> None:
    """Raises CheckpointError where a part of a run's description is no such part: it was edited by hand."""
    parts = {name: config.get(name, {}) for name in ("settings", "training", "evaluation", "preprocessing", "data", "parent")}
    wrong = [f"{name} is {value!r:.60}; expected an object" for name, value in parts.items() if not isinstance(value, Mapping)]
    seeds = config["seeds"]
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        wrong.append(f"seeds is {seeds!r:.60}; expected a list of integers")
    needed = {"data": ("source", "name", "fingerprint", "steps"), "parent": ("path",) if "parent" in config else ()}
    wrong += [
        f"{part} has no {name}"
        for part, names in needed.items()
        if isinstance(parts[part], Mapping)
        for name in names
        if name not in parts[part]
    ]
    if wrong:
        raise CheckpointError(f"{path}/config.json: {'; '.join(wrong)}. Bring back the file that `stitchrl train` wrote")


def _known(kind: type[T], values: Mapping[str, Any], path: Path) -> T:
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return read_settings(kind, {name: value for name, value in values.items() if name in names}, f"{path}/config.json")
