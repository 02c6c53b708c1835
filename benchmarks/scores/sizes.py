"""A method's score by the size of its network: the `sequences` suite's own runs, all settings but the width as there.

OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/sizes.py --runs /tmp/sizes     # adds lines to raw/sizes.jsonl, writes SIZES.md
.venv/bin/python benchmarks/scores/sizes.py --table                                 # the page from the raw lines alone
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.intervals import interval
from stitchrl.report.benchmark_rows import key_of, read_raw

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "sizes.jsonl", HERE / "SIZES.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("/tmp/sizes"))
    parser.add_argument("--log", default="halfcheetah/medium-replay")
    parser.add_argument("--method", default="decision_transformer")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    a = parser.parse_args()
    if not a.table:
        run(a.log, a.method, a.widths, a.seeds, a.runs)
    PAGE.write_text(page(read_raw(RAW)), encoding="utf-8")


def run(log: str, method: str, widths: list[int], seeds: int, runs: Path) -> None:
    """Makes the runs that are not there yet, and adds their lines to the raw file."""
    from control_record import append_row

    from stitchrl.recipes import benchmark_schedule
    from stitchrl.recipes.benchmark_runs import jobs_of
    from stitchrl.recipes.benchmark_suites import suite

    whole = suite("sequences")
    task = next(task for task in whole.tasks if task.dataset == log)
    jobs = []
    for width in widths:
        size = task.size(method)
        sizes = {**task.sizes, method: replace(size, settings={**size.settings, "width": width})}
        jobs += jobs_of(replace(whole, tasks=(replace(task, sizes=sizes),)), (method,), seeds, None)
    outcome = benchmark_schedule.run(jobs, runs, 1, lambda line: print(line, file=sys.stderr, flush=True))
    assert not outcome.failed, outcome.failed
    known = {key_of(row) for row in read_raw(RAW)}
    for row in read_raw(runs / "raw.jsonl"):
        if key_of(row) not in known:
            append_row(RAW, row | {"command": " ".join(sys.argv)})


def page(rows: Iterable[dict[str, Any]]) -> str:
    """Returns the Markdown page of the raw lines."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    dates, rng = set(), np.random.default_rng(0)
    for row in rows:
        groups.setdefault((row["dataset"], row["method"], row["config"]["settings"]["width"]), []).append(row)
        dates.add(row["date"][:10])
    lines = [
        "# By the size of the network",
        "",
        f"Written by `benchmarks/scores/sizes.py` from raw/sizes.jsonl ({max(dates)}); do not edit. The `sequences` suite's runs with other",
        "widths, nothing else changed. IQM of normalised scores over seeds and a 95 % bootstrap interval over seeds and episodes, of the last",
        "policy; seconds of a run on one core with its evaluations.",
        "",
        "| log | method | width | score | seeds | s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (log, method, width), found in sorted(groups.items()):
        score = interval([[row["last"]["scores"] for row in found]], generator=rng)
        seconds = sum(row["seconds"] for row in found) / len(found)
        lines.append(
            f"| `{log}` | `{method}` | {width} | {score.estimate:.1f} [{score.low:.1f}, {score.high:.1f}] | {len(found)} | {seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
