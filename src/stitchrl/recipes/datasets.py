"""Datasets by name: the built-in ones, made on first use without any download, and files."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stitchrl.core.errors import ConfigError
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources.tables import TableSchema
from stitchrl.recipes import (
    antmaze_logs,
    atari_logs,
    control_logs,
    goal_maze_logs,
    gridworld_logs,
    highway_logs,
    icu_sepsis_logs,
    locomotion_logs,
    pointmaze_logs,
)
from stitchrl.recipes.dataset_recipe import DatasetRecipe

# each says `recipes() -> list[DatasetRecipe]`
_MODULES = (
    highway_logs,
    icu_sepsis_logs,
    gridworld_logs,
    pointmaze_logs,
    goal_maze_logs,
    control_logs,
    locomotion_logs,
    antmaze_logs,
    atari_logs,
)


def available() -> dict[str, DatasetRecipe]:
    """Returns the built-in datasets by name."""
    return {recipe.name: recipe for module in _MODULES for recipe in module.recipes()}


def load(name_or_path: str | Path, **options: Any) -> Dataset:
    """Returns the built-in dataset of that name, the one read from a path, or one that Minari has downloaded, by its id.

    `options` go to the file's reader. A file or directory of the same name as a built-in dataset is reached as `./name`. Built-in ones are
    kept in $STITCHRL_CACHE, by default ~/.cache/stitchrl/data. Raises ConfigError for an unknown name, DataError for what is wrong in a file.
    """
    text, known = str(name_or_path), available()
    if isinstance(name_or_path, str) and text in known:
        if options:
            raise ConfigError(f"the built-in dataset {text!r} takes no options; found {', '.join(sorted(options))}")
        from stitchrl.recipes.dataset_cache import load_built_in

        return load_built_in(known[text])
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and not text.startswith((".", "/", "~")):
        path = _downloaded(text, known)
    from stitchrl.data.sources import read

    dataset = read(path.expanduser(), **options)
    dataset.metadata.setdefault("name", path.name)  # what messages and reports call it
    dataset.metadata.pop("table_schema", None)  # of a table that this file was converted from
    if (schema := TableSchema.told_as(options.get("schema"))) is not None:
        dataset.metadata["table_schema"] = asdict(schema)  # a run records it, to read its log again
    return dataset


def _downloaded(text: str, known: Iterable[str]) -> Path:
    """Returns where Minari keeps the dataset of an id; raises ConfigError for any other name, with what it may mean."""
    from stitchrl.data.sources import minari

    path = minari.directory_of(text)
    if minari.is_id(text) and path.is_dir():
        return path
    if minari.is_id(text) and "/" in text:
        raise ConfigError(
            f"{text!r} is neither a file nor a built-in dataset, and Minari has not downloaded it (no {path}). "
            f"Get it with `minari download {text}` (pip install 'minari[hf,hdf5]'), or set MINARI_DATASETS_PATH to where it is"
        )
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
    hint = f"Did you mean {near[0]!r}?" if near else "`stitchrl data list` shows the built-in ones"
    raise ConfigError(f"{text!r} is neither a file nor a built-in dataset. {hint}")
