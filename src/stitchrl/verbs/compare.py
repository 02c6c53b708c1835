"""`stitchrl compare RUN…` and `stitchrl plot RUN…`: functions of the run directories' files alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, final

import tyro

from stitchrl.core.errors import ConfigError
from stitchrl.core.files import check_writable, write_atomically
from stitchrl.core.settings import Natural, check_settings
from stitchrl.verbs.flags import parse


@final
@dataclass(frozen=True)
class Compare:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    level: float = 0.95
    """of the intervals"""
    seed: Natural = 0
    json: Path | None = None
    html: Path | None = None


@final
@dataclass(frozen=True)
class Plot:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    to: Path = Path("plots")
    """a directory, or a .png or .svg file with --kind"""
    kind: Literal["curves", "scores", "profiles"] | None = None
    """None: all"""


def compare(arguments: Sequence[str]) -> int:
    """Prints runs side by side."""
    from stitchrl.report import comparison
    from stitchrl.report.comparison_page import comparison_page

    a = parse(Compare, arguments, "stitchrl compare", "Runs side by side: last and best scores, IQM with stratified-bootstrap intervals.")
    check_settings(a, "stitchrl compare")
    if not a.runs:
        raise ConfigError("stitchrl compare: name at least one run directory")
    check_writable(a.json, "--json")
    check_writable(a.html, "--html")
    result = comparison.compare(a.runs, level=a.level, seed=a.seed)
    print(result.text())
    if a.json is not None:
        write_atomically(a.json, result.json().encode())
    if a.html is not None:
        write_atomically(a.html, comparison_page(result).encode())
    return 0


def plot(arguments: Sequence[str]) -> int:
    """Draws runs."""
    a = parse(Plot, arguments, "stitchrl plot", "Learning curves with bands, final scores with intervals, performance profiles.")
    if not a.runs:
        raise ConfigError("stitchrl plot: name at least one run directory")
    from stitchrl.report.plots import plot as draw
    from stitchrl.report.records_reader import read_run

    for file in draw(a.runs, a.to, kind=a.kind):
        print(file)
    for path in a.runs:
        if not read_run(path).evaluations:
            print(f"! {path}: was never evaluated; only its metrics are drawn. Train with --env ID for curves", file=sys.stderr)
    return 0
