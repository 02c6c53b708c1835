"""The cache of built-in datasets: made once, whole or not at all, by one process; its hash is checked at every load."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stitchrl.core.errors import DataError
from stitchrl.data.dataset import Dataset
from stitchrl.data.storage import remove_leftovers
from stitchrl.recipes.dataset_recipe import DatasetRecipe

WORTH_TELLING = 5.0  # seconds


def cache_directory() -> Path:
    """Returns where datasets are kept: $STITCHRL_CACHE, or ~/.cache/stitchrl/data."""
    chosen = os.environ.get("STITCHRL_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "stitchrl" / "data"


def load_built_in(recipe: DatasetRecipe) -> Dataset:
    """Returns a built-in dataset: the shipped one, the cached one, or a new one, which is then cached.

    A damaged cache entry is made again, with a warning. Where the cache cannot be written, the dataset stays in memory, with a
    warning. Raises DataError where a shipped file is damaged.
    """
    if recipe.shipped is not None:
        return _shipped(recipe, recipe.shipped)
    directory = cache_directory() / f"{recipe.name}-{recipe.revision}"
    with ExitStack() as held:
        try:  # the cache's own errors alone: those of making a log are no reason to make it again
            held.enter_context(_locked(cache_directory(), recipe.name))
            cached = _cached(recipe, directory)
        except OSError as error:
            if (whole := _whole(directory)) is not None:  # of a cache that others made and nobody can write
                return _as_promised(recipe, whole)
            warnings.warn(
                f"{cache_directory()}: cannot be used ({error.strerror}); {recipe.name} is not kept. Set STITCHRL_CACHE", stacklevel=3
            )
            return _made(recipe)
        return _made_and_kept(recipe, directory) if cached is None else _as_promised(recipe, cached)


def promised(recipe: DatasetRecipe) -> str | None:
    """Returns the hash that making the dataset here must give, None where the installed versions promise none."""
    for package, wanted in recipe.versions.items():
        try:
            if version(package) != wanted:
                return None
        except PackageNotFoundError:
            return None
    return recipe.fingerprint


def _shipped(recipe: DatasetRecipe, path: Path) -> Dataset:
    from stitchrl.data.sources import npz

    dataset = npz.read(path)
    if dataset.fingerprint() != recipe.fingerprint:
        raise DataError(f"{path}: is not the {recipe.name} that belongs to this release (its hash differs). Install stitchrl again")
    metadata = {**dataset.metadata, "fingerprint": recipe.fingerprint}
    return Dataset(dataset.spec, dataset.columns, dataset.offsets, dataset.final_observations, metadata)


def _cached(recipe: DatasetRecipe, directory: Path) -> Dataset | None:
    """The entry, or None and nothing of it left where it is damaged, cut short or absent."""
    if directory.exists():
        try:
            return _opened(directory)
        except DataError as error:
            warnings.warn(f"{directory}: damaged ({error}); {recipe.name} is made again", stacklevel=5)
        shutil.rmtree(directory)
    remove_leftovers(directory)
    return None


def _whole(directory: Path) -> Dataset | None:
    """The entry where it can be read and is whole, else None."""
    try:
        return _opened(directory)
    except (DataError, OSError):
        return None


def _opened(directory: Path) -> Dataset:
    dataset = Dataset.open(directory)
    if dataset.fingerprint() != dataset.metadata.get("fingerprint"):
        raise DataError("its hash is not the one it was stored with")
    return dataset


def _as_promised(recipe: DatasetRecipe, dataset: Dataset) -> Dataset:
    """A cached log with the reference of now; warns where it is another than the release's, as one is that other versions made."""
    found, expected = dataset.metadata["fingerprint"], promised(recipe)
    if expected is not None and found != expected:
        warnings.warn(
            f"{recipe.name} in {cache_directory()} has the hash {found[:12]}, the release's {expected[:12]}: other versions or another machine "
            "made it, and scores may differ from the published ones; to make it anew, delete it there",
            stacklevel=4,
        )
    reference = {**(dataset.metadata.get("reference") or {}), **recipe.reference}
    metadata = {**dataset.metadata, "reference": reference}
    return Dataset(dataset.spec, dataset.columns, dataset.offsets, dataset.final_observations, metadata)


def _made_and_kept(recipe: DatasetRecipe, directory: Path) -> Dataset:
    dataset = _made(recipe)
    try:
        dataset.save(directory)
    except DataError as error:
        warnings.warn(f"{error}; {recipe.name} is not kept. Set STITCHRL_CACHE to a directory with room", stacklevel=5)
        return dataset
    return Dataset.open(directory)


def _made(recipe: DatasetRecipe) -> Dataset:
    if recipe.seconds > WORTH_TELLING:
        print(f"making {recipe.name}: {recipe.steps:,} steps, {recipe.cost}", file=sys.stderr, flush=True)
    made = recipe.make()
    found, expected = made.fingerprint(), promised(recipe)
    if expected is not None and found != expected:
        warnings.warn(
            f"{recipe.name} made here has the hash {found[:12]}, the release's {expected[:12]}: this machine computes other last digits, "
            "and scores may differ a little from the published ones",
            stacklevel=6,
        )
    return Dataset(made.spec, made.columns, made.offsets, made.final_observations, {**made.metadata, "fingerprint": found})


@contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Holds a lock that other processes wait for; the system drops it when a process dies."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name.replace('/', '-')}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
