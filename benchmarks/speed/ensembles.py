"""What critics cost: the time of a step of EDAC and of SAC-N with 10, 100 and 500 critics, beside their matrix products alone.

`python benchmarks/speed/ensembles.py` appends to raw/ensembles.jsonl and writes ENSEMBLES.md from the last line of each ensemble. 17
observations, 6 actions; networks of two sizes: the paper's, of which ten keep a core busy, and small ones, of which it takes hundreds. One
thread, not compiled. The machine is shared: processor seconds of this process are what is compared, the wall clock stands beside them.
With THP_MEM_ALLOC_ENABLE=1 before the command (PyTorch's, read when it allocates first) large tensors get large pages, told in the line.

The floor of one critic's step, as products [m, k] @ [k, n], all critics as one batched product:
    target              forward
    learning            forward, gradients of all weights, gradients of the inputs of all layers but the first
    diversity (EDAC)    the gradient in the action: inputs of all layers, in the first of the action alone; then its own two gradients, in the
                        weights and in what came down to each layer (but the last, whose incoming gradient is its own weight)
    under the actor     forward, gradients of all inputs, in the first layer of the action alone
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
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
OBSERVATIONS, ACTIONS = 17, 6
NETWORKS = {"paper": (256, (256, 256, 256)), "small": (64, (32, 32, 32))}  # batch, hidden layers
SPEC = Spec(Box((OBSERVATIONS,)), Box((ACTIONS,), (-1.0,), (1.0,)))
Product = tuple[int, int, int]


def products(network: str, diversity: bool) -> list[Product]:
    """Returns the matrix products of one critic in one step."""
    batch, hidden = NETWORKS[network]
    sizes = [OBSERVATIONS + ACTIONS, *hidden, 1]
    pairs = list(zip(sizes[:-1], sizes[1:], strict=True))
    forward = [(batch, i, o) for i, o in pairs]
    weights = [(i, batch, o) for i, o in pairs]
    inputs = [(batch, o, i) for i, o in pairs[1:]]
    down = [(batch, o, i) for i, o in [(ACTIONS, hidden[0]), *pairs[1:-1]]]  # from the top hidden layer to the action
    found = forward + forward + weights + inputs + forward + inputs + [(batch, hidden[0], ACTIONS)]
    if diversity:
        found += down + [(i, batch, o) for _, o, i in down] + [(batch, i, o) for _, o, i in down]
    return found


def floor_seconds(network: str, critics: int, diversity: bool) -> float:
    """Returns processor seconds of the products alone, on buffers that exist already."""
    seconds, known = 0.0, {}
    for shape in products(network, diversity):
        if shape not in known:
            m, k, n = shape
            one, two, out = torch.randn(critics, m, k), torch.randn(critics, k, n), torch.empty(critics, m, n)
            torch.bmm(one, two, out=out)
            times = []
            for _ in range(2 if network == "paper" else 20):
                start = time.process_time()
                torch.bmm(one, two, out=out)
                times.append(time.process_time() - start)
            known[shape] = min(times)
        seconds += known[shape]
    return seconds


def measure(network: str, critics: int, diversity: float, steps: int) -> dict[str, Any]:
    """Returns the raw line of one ensemble: seconds of each step after one that warms up."""
    batch, hidden = NETWORKS[network]
    rows = DeviceRows(torch.randn(10_000, row_width(EDAC.batch, SPEC), generator=torch.Generator().manual_seed(0)).clamp(-1, 1))
    settings = Training(steps=1_000, batch_size=batch, compile="off", threads=1)
    learner = Learner(
        EDAC, EDACConfig(ensemble=critics, diversity=diversity, hidden=hidden), SPEC, rows, (0,), settings, torch.device("cpu")
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
    gflop = critics * sum(2 * m * k * n for m, k, n in products(network, diversity > 0)) / 1e9
    floor = floor_seconds(network, critics, diversity > 0)
    told = {"network": network, "critics": critics, "diversity": diversity, "gflop": gflop, "floor": floor}
    return told | {"processor": processor, "wall": wall}


def page(lines: list[dict[str, Any]]) -> str:
    """Returns the text of ENSEMBLES.md."""
    paged = {(x["diversity"], x["critics"]): x for x in lines if x.get("huge_pages")}
    last = {(x.get("network", "paper"), x["diversity"], x["critics"]): x for x in lines if not x.get("huge_pages")}
    grown = {method: min(last["small", method, 500]["processor"]) / min(last["small", method, 2]["processor"]) for method in (1.0, 0.0)}
    large = [min(x["processor"]) / x["floor"] for (network, _, critics), x in last.items() if network == "paper" and critics >= 10]
    text = [
        "# What critics cost\n",
        "Written by `benchmarks/speed/ensembles.py` from `raw/ensembles.jsonl` (the last line of each ensemble); do not edit. One step of EDAC",
        "(`diversity` 1) and of SAC-N (`diversity` 0): 17 observations, 6 actions. *floor*: the step's matrix products alone, as batched",
        "products on buffers that exist. Seconds are of this process's processor time, the least of the steps; the wall clock beside them",
        "also counts what the rest of the machine took.\n",
        "What is sought is a step whose time grows far less than its critics until the arithmetic is the limit. Where that is depends on the",
        "networks: critics of the paper's size keep one core of a CPU busy from ten on, and from there on a step costs",
        f"{min(large):.1f} to {max(large):.1f} times its products, so that it grows with them;",
        f"of small ones 500 take {grown[1.0]:.0f} (EDAC) and {grown[0.0]:.0f} times (SAC-N) the time of 2. Large critics nearly for free are for a",
        "GPU, where this was not measured.",
    ]
    if paged:
        alike = {key: x for key, x in paged.items() if x["date"][:10] == last["paper", *key]["date"][:10]}
        spared = [1 - min(x["processor"]) / min(last["paper", *key]["processor"]) for key, x in alike.items()]
        text += [
            "\nAt 500 large critics the memory counts: a layer's numbers are 131 MB, which the C library maps anew each time, page by page. With",
            f"`THP_MEM_ALLOC_ENABLE=1` in the environment (large pages; Linux) steps take {100 * min(spared):.0f} to {100 * max(spared):.0f} % less.",
        ]
    for network, (batch, hidden) in NETWORKS.items():
        rows = [(method, critics, x) for (name, method, critics), x in last.items() if name == network]
        rows += [(*key, x) for key, x in paged.items() if network == "paper"]
        if not rows:
            continue
        text += [f"\n## Hidden layers of {hidden[0]}, batches of {batch}\n", *sorted({about(x) for _, _, x in rows}), ""]
        text += [
            "| method | critics | GFLOP | floor, ms | step, ms | of the floor | step ÷ step with 2 | critics ÷ 2 | wall, ms | steps |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for method, critics, x in sorted(rows, key=lambda row: (-row[0], row[1])):
            step, two = min(x["processor"]), min(last[network, method, 2]["processor"])
            name = ("EDAC" if method else "SAC-N") + (", large pages" if x.get("huge_pages") else "")
            text.append(
                f"| {name} | {critics} | {x['gflop']:.3g} | {shown(x['floor'])} | {shown(step)} "
                f"| {x['floor'] / step:.2f} | {step / two:.1f} | {critics // 2} | {shown(min(x['wall']))} | {len(x['processor'])} |"
            )
    return "\n".join(text) + "\n"


def shown(seconds: float) -> str:
    """Returns milliseconds to three digits."""
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


def about(line: dict[str, Any]) -> str:
    """Returns where and how a line was measured."""
    machine = f"{line['date'][:10]}; {line['machine']}, load {line['load']:.0f}"
    return f"{machine}; 1 thread, not compiled; torch {line['torch']}, stitchrl at {line['commit']}. Command: `{line['command']}`."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS), help="none: only the page")
    parser.add_argument("--critics", type=int, nargs="+", default=[2, 10, 100, 500])
    parser.add_argument("--diversity", type=float, nargs="+", default=[1.0, 0.0])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, cwd=FOLDER, check=False
    ).stdout.strip()
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), platform.machine()
    )
    machine = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{model}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "huge_pages": os.environ.get("THP_MEM_ALLOC_ENABLE") == "1",
        "command": " ".join(["python benchmarks/speed/ensembles.py", *sys.argv[1:]]),
    }
    for network, diversity, critics in itertools.product(chosen.networks, chosen.diversity, chosen.critics):
        steps = max(2, min(10, 200 // critics)) if network == "paper" else 30
        line = measure(network, critics, diversity, steps) | machine
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(network, diversity, critics, shown(min(line["processor"])), "ms", flush=True)
    PAGE.write_text(page([json.loads(line) for line in RAW.read_text(encoding="utf-8").splitlines()]), encoding="utf-8")


if __name__ == "__main__":
    main()
