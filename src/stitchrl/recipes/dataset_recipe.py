"""A built-in dataset: how it is made, what it is, and the hash that it must have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from stitchrl.data.dataset import Dataset


@final
@dataclass(frozen=True)
class DatasetRecipe:
    """`make` returns the same dataset each time it is called; its seed is part of it."""

    name: str
    description: str
    environment: str
    steps: int
    episodes: int | None  # None: as many as the steps make
    seconds: float  # to make it once, on one core
    reference: Mapping[str, float]  # undiscounted returns of a random policy and of an expert: a normalised score's 0 and 100
    make: Callable[[], Dataset]
    fingerprint: str | None = None  # sha256 that `Dataset.fingerprint` must give
    versions: Mapping[str, str] = field(default_factory=dict)  # packages with which the fingerprint is promised; none: with any
    shipped: Path | None = None  # a file of the package that holds it, made by `make`
    megabytes: float = 0.0  # on disk, where it is worth telling
    revision: int = 1  # raised when `make` changes, so that no old cache is taken for the new

    @property
    def cost(self) -> str:
        """What making it takes, in words: `about 50 s and 22 MB, once`."""
        disk = f" and {self.megabytes:.0f} MB" if self.megabytes >= 1 else ""
        return f"about {self.seconds:.0f} s{disk}, once"
