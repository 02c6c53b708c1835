"""How right every estimator is on tasks solved exactly: bias, RMSE, the coverage of its 95 % interval, and how often it refuses.

    OMP_NUM_THREADS=1 nice -n 10 python benchmarks/trust/truth_table.py --replications 200     # writes or goes on with raw/truth.jsonl
    python benchmarks/trust/truth_table.py --table                                             # writes TRUTH.md from it

One line of raw/truth.jsonl is one log and one target policy: the exact value and, for each estimator, [value, low, high], or the number
of the reason why not, which a line of its own tells when it first occurs.
Log and estimates of replication r of a task depend on (task, r) alone, so that runs can stop, go on and be shared out. Lines of other code
are not made anew: remove the raw file when the estimators changed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from truth_tasks import TruthTask, tasks

from stitchrl.core.errors import DataError
from stitchrl.core.version import VERSION

HERE = Path(__file__).parent
RAW, TABLE = HERE / "raw" / "truth.jsonl", HERE / "TRUTH.md"
TARGETS = ("same", "near", "far")
FEW = 20  # admitted replications below which a coverage says nothing
LEVEL = 0.95


def main() -> None:
    """Runs what is missing, or writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(tasks()), choices=list(tasks()))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=TARGETS)
    parser.add_argument("--replications", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first replication")
    parser.add_argument("--quick", action="store_true", help="fewer draws, one seed and fewer steps of fitted values, as `trust --quick`")
    parser.add_argument("--raw", type=Path, default=RAW)
    parser.add_argument("--table", action="store_true", help="write TRUTH.md from the raw lines instead")
    parser.add_argument("--output", type=Path, default=TABLE)
    options = parser.parse_args()
    if options.table:
        options.output.write_text(table(read(options.raw)), encoding="utf-8")
        return
    run(options)


def run(options: argparse.Namespace) -> None:
    """Appends a line for each replication that the raw file lacks; replications outermost, so that a stopped run is a smaller whole."""
    import torch

    torch.set_num_threads(1)
    before = read(options.raw)
    known = {(x["task"], x["target"], x["replication"]) for x in before if "task" in x}
    reasons = {x["words"]: x["reason"] for x in before if "reason" in x}
    made = {name: tasks()[name]() for name in options.tasks}
    options.raw.parent.mkdir(parents=True, exist_ok=True)
    with options.raw.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"run": _provenance(torch.__version__)}) + "\n")
        for replication in range(options.first, options.first + options.replications):
            for name, task in made.items():
                missing = [x for x in options.targets if (name, x, replication) not in known]
                for target in missing:
                    for line in lines_of(task, target, replication, reasons, options.quick):
                        file.write(json.dumps(line, separators=(",", ":")) + "\n")
                    file.flush()


def lines_of(task: TruthTask, target: str, replication: int, reasons: dict[str, int], quick: bool) -> list[dict[str, Any]]:
    """Returns the line of one log and one target, its estimates beside the truth, after one for each reason not yet in `reasons`.

    Where the library raised an error instead of an answer, the line says so under `raised`.
    """
    from stitchrl.evaluation.estimates import estimates

    seed = [zlib.crc32(task.name.encode()), replication]
    log = task.sample(task.episodes, np.random.default_rng(seed))
    policy, truth, _ = task.targets[target]
    begun = time.perf_counter()
    line: dict[str, Any] = {"task": task.name, "target": target, "replication": replication, "truth": round(truth, 6)}
    try:
        found = estimates(log, policy, discount=task.discount, clock="continues", level=LEVEL, seed=replication, quick=quick)
    except DataError as error:
        return [{**line, "seconds": 0.0, "raised": str(error)[:160], "estimates": {}}]
    seconds = time.perf_counter() - begun
    new: list[dict[str, Any]] = []
    told: dict[str, list[float] | int] = {}
    for estimate in found:
        if estimate.value is not None and estimate.interval is not None:
            told[estimate.name] = [float(f"{x:.4g}") for x in (estimate.value, estimate.interval.low, estimate.interval.high)]
            continue
        words = re.sub(r"\d[\d,.]*(e[+-]?\d+)?", "#", estimate.reason or "").removeprefix("not estimable: ")[:100]
        if words not in reasons:
            reasons[words] = len(reasons)
            new.append({"reason": reasons[words], "words": words})
        told[estimate.name] = reasons[words]
    return [*new, {**line, "seconds": round(seconds, 1), "estimates": told}]


def _provenance(torch_version: str) -> dict[str, str]:
    versions = {"stitchrl": VERSION, "python": platform.python_version(), "numpy": np.__version__, "torch": torch_version}
    command = " ".join([Path(sys.executable).name, *sys.argv])
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False, cwd=HERE)
    versions["commit"] = asked.stdout.strip() or "unknown"
    return {"command": command, "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"), "machine": platform.machine(), **versions}


# --------------------------------------------------------------------------------------------------------------------- table


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the raw lines; a last one that was cut short is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            print(f"{path}: a line is cut short and left out", file=sys.stderr)
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """Returns the page of all tasks."""
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = defaultdict(dict)
    for line in lines:
        if "task" in line:
            cells[line["task"], line["target"]][line["replication"]] = line
    reasons = {x["reason"]: x["words"] for x in lines if "reason" in x}
    text = [_head(lines), _summary(cells)]
    for name, make in tasks().items():
        if any((name, target) in cells for target in TARGETS):
            task = make()
            text.append(f"## {name}\n\nLogged by: {task.behaviour}; {task.episodes:,} episodes a log, discount {task.discount:g}.\n")
            text += [_cell(task, x, list(cells[name, x].values()), reasons) for x in TARGETS if (name, x) in cells]
    return "\n".join(text)


def _head(lines: list[dict[str, Any]]) -> str:
    runs = [x["run"] for x in lines if "run" in x]
    last = runs[-1] if runs else {}
    versions = ", ".join(f"{name} {last[name]}" for name in ("stitchrl", "commit", "python", "numpy", "torch") if name in last)
    dates = sorted({x["date"] for x in runs})
    commands = "".join(f"    {x}\n" for x in dict.fromkeys(x["command"] for x in runs))
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "never"
    return f"""# Estimators beside the exact value

Written by `python benchmarks/trust/truth_table.py --table` from `raw/truth.jsonl`; do not edit. Run {when}; {versions}.
Seeds: replication r of a task draws its log from (task, r) and its resamples from r. Made by:

{commands}
One replication is one log. *bias*: mean estimate − truth, ± twice its standard error. *coverage*: share of {LEVEL:.0%} intervals that hold
the truth, of the replications in which the estimator was admitted (no fair sample of the logs where many are refused); **bold** where it
is outside 0.92 … 0.98 by more than two standard errors of a share of that many replications; – below {FEW} of them. *width*: mean width of
the interval. *refused*: share of replications in which the gate says "not estimable", with the commonest reason.
"""


def _summary(cells: dict[tuple[str, str], dict[int, dict[str, Any]]]) -> str:
    """Returns the table of coverage: estimators by task and target."""
    names = list(dict.fromkeys(name for lines in cells.values() for line in lines.values() for name in line["estimates"]))
    columns = [(task, target) for task in tasks() for target in TARGETS if (task, target) in cells]
    rows = ["## Coverage where admitted (share refused)\n", "| | " + " | ".join(f"{a} {b}" for a, b in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    for name in names:
        parts = []
        for key in columns:
            lines = [x for x in cells[key].values() if "raised" not in x]
            if not lines:
                parts.append("error")
                continue
            numbers = _numbers(lines, name)
            refused = 1 - len(numbers) / len(lines)
            parts.append(f"{_coverage(numbers, lines[0]['truth'])} ({refused:.0%})")
        rows.append(f"| {name} | " + " | ".join(parts) + " |")
    return "\n".join([*rows, ""])


def _cell(task: TruthTask, target: str, lines: list[dict[str, Any]], words_of: dict[int, str]) -> str:
    truth, words = lines[0]["truth"], task.targets[target][2]
    raised = [x["raised"] for x in lines if "raised" in x]
    seconds = np.median([x["seconds"] for x in lines])
    told = f" **{len(raised)} raised an error instead**, the first: {raised[0]}." if raised else ""
    rows = [f"### {task.name}, {target}: {words}\n", f"J = {truth:.5g}; {len(lines)} replications, median {seconds:.1f} s.{told}\n"]
    lines = [x for x in lines if "raised" not in x]
    rows += ["| estimator | bias | RMSE | coverage | width | refused |", "|---|---|---|---|---|---|"]
    for name in dict.fromkeys(name for line in lines for name in line["estimates"]):
        numbers = _numbers(lines, name)
        reasons = [x["estimates"][name] for x in lines if isinstance(x["estimates"].get(name), int)]
        share = f"{1 - len(numbers) / len(lines):.0%}"
        if reasons:
            share += f" ({words_of[max(set(reasons), key=reasons.count)]})"
        if not len(numbers):
            rows.append(f"| {name} | | | | | {share} |")
            continue
        errors = numbers[:, 0] - truth
        spread = f" ± {2 * errors.std(ddof=1) / np.sqrt(len(errors)):.2g}" if len(errors) > 1 else ""
        rms = np.sqrt(np.mean(errors**2))
        width = np.mean(numbers[:, 2] - numbers[:, 1])
        rows.append(f"| {name} | {errors.mean():+.3g}{spread} | {rms:.3g} | {_coverage(numbers, truth)} | {width:.3g} | {share} |")
    return "\n".join([*rows, ""])


def _numbers(lines: list[dict[str, Any]], name: str) -> np.ndarray[Any, Any]:
    """float64 `[n, 3]`: value, low and high of the replications in which the estimator was admitted."""
    found = [x["estimates"][name] for x in lines if isinstance(x["estimates"].get(name), list)]
    return np.array(found, np.float64).reshape(-1, 3)


def _coverage(numbers: np.ndarray[Any, Any], truth: float) -> str:
    if len(numbers) < FEW:
        return "–"
    share = float(np.mean((numbers[:, 1] <= truth) & (truth <= numbers[:, 2])))
    low, high = (edge + sign * 2 * np.sqrt(edge * (1 - edge) / len(numbers)) for edge, sign in ((0.92, -1), (0.98, 1)))
    return f"{share:.2f}" if low <= share <= min(high, 1) else f"**{share:.2f}**"


if __name__ == "__main__":
    main()
