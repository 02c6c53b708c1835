"""`stitchrl quickstart`: the main job on an embedded log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from stitchrl.verbs.flags import parse


@final
@dataclass(frozen=True)
class Quickstart:
    run: Path = Path("runs/quickstart")
    """where the runs and the report go; what an earlier quickstart left there is replaced"""
    seeds: int = 4
    steps: int = 3_000
    quiet: bool = False


def quickstart(arguments: Sequence[str]) -> int:
    """Inspects a log, trains four algorithms, and shows what each believes and what it is worth."""
    a = parse(
        Quickstart, arguments, "stitchrl quickstart", "The main job on an embedded log: inspect, train, compare belief with truth, report."
    )
    from stitchrl.core.files import write_atomically
    from stitchrl.recipes import datasets
    from stitchrl.recipes import sepsis_comparison as recipe
    from stitchrl.report import belief
    from stitchrl.report.dataset_page import dataset_page, dataset_text
    from stitchrl.report.run import write_run_report
    from stitchrl.training.progress import Progress
    from stitchrl.verbs.data import analysis

    began = time.perf_counter()
    dataset = datasets.load(recipe.DATA)
    a.run.mkdir(parents=True, exist_ok=True)
    described, findings = analysis(dataset)
    write_atomically(a.run / "data.html", dataset_page(described, findings).encode())
    print(dataset_text(described, findings))
    with Progress("quickstart", quiet=a.quiet) as progress:
        paths = recipe.run_methods(dataset, a.run, a.seeds, a.steps, progress.titled, progress.warning)
    for path in paths:
        write_run_report(path)
    known = recipe.anchors(dataset)
    beliefs = belief.read_beliefs(paths)
    heading, rows = belief.belief_rows(beliefs, known.random, known.log, known.best)
    most = 1.0  # a stay's return is 1 for survival and 0 for death
    facts = {"dataset": recipe.DATA, "episodes": dataset.episodes, "steps": len(dataset), "sha256": dataset.fingerprint()}
    page = belief.belief_page(beliefs, known.random, known.log, known.best, most, facts, paths)
    write_atomically(a.run / "report.html", page.encode())
    print(f"\nSurvival rate, {a.seeds} seeds each: what each method believes of its policy, and what that policy is worth (exact)\n")
    print(_table(heading, rows))
    print("\n" + "\n".join(belief.story(beliefs, known.log, most)))
    print(f"\n{time.perf_counter() - began:.0f} s; report: {a.run / 'report.html'}, the log: {a.run / 'data.html'}")
    return 0


def _table(heading: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [heading, *rows]) for i in range(len(heading))]
    lines = [
        [cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in [heading, *rows]
    ]
    return "\n".join("  " + "   ".join(line) for line in lines)
