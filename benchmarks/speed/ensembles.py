"""What critics cost: the time of a step of EDAC and of SAC-N with 10, 100 and 500 critics, beside their matrix products alone.

`python benchmarks/speed/ensembles.py` appends to raw/ensembles.jsonl and writes ENSEMBLES.md. Batch 256, 17 observations, 6 actions, three
hidden layers of 256, one thread, not compiled. The machine is shared: processor seconds of this process are what is compared, the wall clock
stands beside them.

The floor of one critic's step, as products [m, k] @ [k, n], all critics as one batched product:
    target              forward
    learning            forward, gradients of all weights, gradients of the inputs of all layers but the first
    diversity (EDAC)    the gradient in the action: inputs of all layers, in the first of the action alone; then its own two gradients, in the
                        weights and in what came down to each layer (but the last, whose incoming gradient is its own weight)
    under the actor     forward, gradients of all inputs, in the first layer of the action alone
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from stitchrl.algorithms.edac import EDAC, EDACConfig
from stitchrl.core.spec import Box, Spec
from stitchrl.data.sampling import DeviceRows, row_width
from stitchrl.training.learner import Learner, Training

FOLDER = Path(__file__).parent
RAW, PAGE = FOLDER / "raw" / "ensembles.jsonl", FOLDER / "ENSEMBLES.md"
BATCH, OBSERVATIONS, ACTIONS, HIDDEN = 256, 17, 6, (256, 256, 256)
SPEC = Spec(Box((OBSERVATIONS,)), Box((ACTIONS,), (-1.0,), (1.0,)))
Product = tuple[int, int, int]


def products(diversity: bool) -> list[Product]:
    """Returns the matrix products of one critic in one step."""
    sizes = [OBSERVATIONS + ACTIONS, *HIDDEN, 1]
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    forward = [(BATCH, i, o) for i, o in pairs]
    weights = [(i, BATCH, o) for i, o in pairs]
    inputs = [(BATCH, o, i) for i, o in pairs[1:]]
    down = [(BATCH, o, i) for i, o in [(ACTIONS, HIDDEN[0]), *pairs[1:-1]]]  # from the top hidden layer to the action
    found = forward + forward + weights + inputs + forward + inputs + [(BATCH, HIDDEN[0], ACTIONS)]
    if diversity:
        found += down + [(i, BATCH, o) for _, o, i in down] + [(BATCH, i, o) for _, o, i in down]
    return found


def floor_seconds(critics: int, diversity: bool) -> float:
    """Returns processor seconds of the products alone, on buffers that exist already."""
    seconds, known = 0.0, {}
    for shape in products(diversity):
        if shape not in known:
            m, k, n = shape
            one, two, out = torch.randn(critics, m, k), torch.randn(critics, k, n), torch.empty(critics, m, n)
            torch.bmm(one, two, out=out)
            times = []
            for _ in range(2):
                start = time.process_time()
                torch.bmm(one, two, out=out)
                times.append(time.process_time() - start)
            known[shape] = min(times)
        seconds += known[shape]
    return seconds


def measure(critics: int, diversity: float, steps: int) -> dict[str, Any]:
    """Returns the raw line of one ensemble: seconds of each step after two that warm up."""
    rows = DeviceRows(torch.randn(10_000, row_width(EDAC.batch, SPEC), generator=torch.Generator().manual_seed(0)).clamp(-1, 1))
    settings = Training(steps=1_000, batch_size=BATCH, compile="off", threads=1)
    learner = Learner(
        EDAC, EDACConfig(ensemble=critics, diversity=diversity, hidden=HIDDEN), SPEC, rows, (0,), settings, torch.device("cpu")
    )
    wall, processor = [], []
    for step in range(steps + 1):
        before = time.perf_counter(), time.process_time()
        learner.advance()
        if step:
            wall.append(time.perf_counter() - before[0])
            processor.append(time.process_time() - before[1])
    learner.check()
    del learner
    gflop = critics * sum(2 * m * k * n for m, k, n in products(diversity > 0)) / 1e9
    floor = floor_seconds(critics, diversity > 0)
    return {"critics": critics, "diversity": diversity, "gflop": gflop, "floor": floor, "processor": processor, "wall": wall}


def page(lines: list[dict[str, Any]]) -> str:
    """Returns the text of ENSEMBLES.md for the lines of one run."""
    first = lines[0]
    machine = f"{first['date']}; {first['machine']}, load {first['load']:.1f}"
    about = f"{machine}; 1 thread, not compiled; torch {first['torch']}, stitchrl at {first['commit']}"
    text = [
        "# What critics cost\n",
        "Written by `benchmarks/speed/ensembles.py` from `raw/ensembles.jsonl` (its last run); do not edit. One step of EDAC (`diversity` 1)",
        "and of SAC-N (`diversity` 0): batch 256, 17 observations, 6 actions, three hidden layers of 256. *floor*: the step's matrix products alone,",
        "as batched products on buffers that exist. Seconds are of this process's processor time, the least of the steps; the wall clock",
        "beside them also counts what the rest of the machine took.\n",
        "What is sought is a step whose time grows far less than its critics until the arithmetic is the limit. On one thread of a CPU that is at",
        "once: from 2 critics to 10 a step grows 3.4 to 3.9 times for 5 times the arithmetic, at 10 it stands at 0.8 of the floor, and from there on",
        "it costs what its products cost, at 500 nearly twice that. Many critics nearly for free are for a GPU, where this was not measured.\n",
        f"{about}. Command: `{first['command']}`.\n",
        "| method | critics | GFLOP | floor, s | step, s | of the floor | step ÷ step with 10 | wall, s | steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in sorted(lines, key=lambda x: (-x["diversity"], x["critics"])):
        step, ten = (
            min(line["processor"]),
            next(min(x["processor"]) for x in lines if x["critics"] == 10 and x["diversity"] == line["diversity"]),
        )
        name = "EDAC" if line["diversity"] else "SAC-N"
        text.append(
            f"| {name} | {line['critics']} | {line['gflop']:.2f} | {line['floor']:.3f} | {step:.3f} | {line['floor'] / step:.2f} "
            f"| {step / ten:.1f} | {min(line['wall']):.2f} | {len(line['processor'])} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--critics", type=int, nargs="+", default=[10, 2, 100, 500])
    parser.add_argument("--diversity", type=float, nargs="+", default=[1.0, 0.0])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, cwd=FOLDER, check=False
    ).stdout.strip()
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), platform.machine()
    )
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{model}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "command": "python benchmarks/speed/ensembles.py",
    }
    lines = []
    for diversity in chosen.diversity:
        for critics in chosen.critics:
            lines.append(measure(critics, diversity, steps=max(2, min(10, 200 // critics))) | about)
            with RAW.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            PAGE.write_text(page(lines), encoding="utf-8") if any(x["critics"] == 10 for x in lines) else None
            print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
