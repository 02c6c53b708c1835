"""What a plan of the Trajectory Transformer costs with the cache of keys and values and without it.

`python benchmarks/speed/beam_search.py` appends to raw/beam_search.jsonl and writes BEAM_SEARCH.md. A model of the paper's size (17
observations, 6 actions, reward and return: 25 tokens a transition; 4 layers, 4 heads, width 128) with random weights, one thread, not
compiled. Without the cache each token is predicted from the whole window anew, as in the authors' code. The machine is shared: processor seconds
of this process are what is compared, the wall clock stands beside them. Both ways of each row draw the same numbers, and find the same plans.
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
from torch import Tensor

from stitchrl.nn.beam_search import Plans, Search, plan_by_value
from stitchrl.nn.decoding import CachedDecoder, PlainDecoder
from stitchrl.nn.token_transformer import TokenTransformer
from stitchrl.training.compilation import keep_freed_memory

FOLDER = Path(__file__).parent
RAW, PAGE = FOLDER / "raw" / "beam_search.jsonl", FOLDER / "BEAM_SEARCH.md"
OBSERVATIONS, ACTIONS, BINS, SEQUENCE = 17, 6, 100, 10
# beams, horizon, transitions read at most, how many of them leave when it is full; repeats with the cache, and without (0: too long)
CASES = ((32, 5, 5, 1, 3, 1), (128, 5, 5, 1, 2, 1), (128, 15, 5, 1, 1, 0), (32, 5, 10, 5, 3, 1))
BATCHES = (1, 4, 16)  # environments planned for at once


def model() -> TokenTransformer:
    """Returns a model whose laws are far enough from uniform that beams differ."""
    torch.manual_seed(0)
    made = TokenTransformer((BINS,) * (OBSERVATIONS + ACTIONS + 2), SEQUENCE, 128, 4, 4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return made


@torch.inference_mode()
def planned(
    kind: type, law: TokenTransformer, environments: int, beams: int, horizon: int, context: int, slide: int
) -> tuple[float, float, Plans]:
    """Returns processor and wall seconds of one plan for each environment, begun with as much of the past as fits, and the plans."""
    generator = torch.Generator().manual_seed(1)
    search = Search(OBSERVATIONS, ACTIONS, beams, horizon)
    past = torch.randint(BINS, (environments, (context - slide) * search.places + OBSERVATIONS), generator=generator)
    noise = torch.rand(environments, *search.noise_shape(), generator=generator)
    numbers = torch.randn(BINS, generator=generator)

    def mean(logits: Tensor) -> Tensor:
        return logits.softmax(-1)[..., :BINS] @ numbers

    processor, wall = time.process_time(), time.perf_counter()
    plans = plan_by_value(kind(law, past, context, slide), past[:, -OBSERVATIONS:], search, mean, mean, noise)
    return time.process_time() - processor, time.perf_counter() - wall, plans


def least(kind: type, law: TokenTransformer, repeats: int, *size: int) -> tuple[float, float, Plans]:
    """Returns the least seconds of several repeats, and the plans."""
    found = [planned(kind, law, *size) for _ in range(repeats)]
    return min(x[0] for x in found), min(x[1] for x in found), found[0][2]


def measure() -> dict[str, Any]:
    """Returns one run's record."""
    torch.set_num_threads(1)
    keep_freed_memory()
    law = model()
    planned(CachedDecoder, law, 1, 4, 2, 5, 1)  # first calls are slower
    rows = []
    for beams, horizon, context, slide, repeats, without in CASES:
        seconds, wall, plans = least(CachedDecoder, law, repeats, 1, beams, horizon, context, slide)
        row: dict[str, Any] = {
            "beams": beams,
            "horizon": horizon,
            "context": context,
            "slide": slide,
            "cached": seconds,
            "cached_wall": wall,
        }
        if without:
            plain, plain_wall, others = least(PlainDecoder, law, without, 1, beams, horizon, context, slide)
            difference = float((plans.scores - others.scores).abs().max())
            row |= {"plain": plain, "plain_wall": plain_wall, "score_difference": difference}
            row["same_plans"] = float((plans.tokens == others.tokens).all(-1).all(-1).float().mean())
        rows.append(row)
        print(json.dumps(row), flush=True)
    batches = []
    for environments in BATCHES:
        seconds, wall, _ = least(CachedDecoder, law, 2, environments, 32, 5, 10, 5)
        batches.append({"environments": environments, "cached": seconds, "cached_wall": wall})
        print(json.dumps(batches[-1]), flush=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit, "torch": torch.__version__, "processor": processor_name(),
        "cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows, "batches": batches,
    }  # fmt: skip


def processor_name() -> str:
    """Returns the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def page(record: dict[str, Any]) -> str:
    """Returns the page of one run."""
    lines = [
        "# What a plan costs", "",
        "Written by `benchmarks/speed/beam_search.py` from `raw/beam_search.jsonl` (its last run); do not edit. One plan of the Trajectory",
        "Transformer by beam search for one environment: 25 tokens a transition (17 observations, 6 actions, reward, return), 4 layers, 4 heads,",
        "width 128, two continuations of each beam, random weights. *context*: transitions read at most; *slide*: how many of them leave when it",
        "is full, after which the others are read anew (the authors' 5 and 1). *without*: each token from the whole window anew, as in the",
        "authors' code. Processor seconds, the least of the repeats; the wall clock of the same also counts what the rest of the machine took.",
        "*same*: the share of plans that both find token by token; *apart*: the largest difference of scores by rank.", "",
        f"{record['time'][:16].replace('T', ' ')} UTC; {record['processor']}, {record['cores']} cores, load {record['load']:.1f}; 1 thread, "
        f"not compiled; torch {record['torch']}, stitchrl at {record['commit']}. Command: `python benchmarks/speed/beam_search.py`.", "",
        "| beams | horizon | context | slide | with, s | without, s | times faster | wall, s | same | apart |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in record["rows"]:
        told = [f"{row['plain']:.1f}", f"{row['plain'] / row['cached']:.1f}"] if "plain" in row else ["", ""]
        walls = f"{row['cached_wall']:.2f}" + (f", {row['plain_wall']:.1f}" if "plain" in row else "")
        agreed = [f"{row['same_plans']:.3f}", f"{row['score_difference']:.0e}"] if "plain" in row else ["", ""]
        size = [row["beams"], row["horizon"], row["context"], row["slide"]]
        lines.append("| " + " | ".join(map(str, [*size, f"{row['cached']:.2f}", *told, walls, *agreed])) + " |")
    lines += [
        "", "## Many environments at once", "",
        "32 beams, horizon 5, context 10, slide 5, with the cache.", "", "| environments | s | plans/s | wall, s |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in record["batches"]:
        rate = row["environments"] / row["cached"]
        lines.append(f"| {row['environments']} | {row['cached']:.2f} | {rate:.1f} | {row['cached_wall']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="write the page from the last run alone")
    if not parser.parse_args().table:
        with RAW.open("a", encoding="utf-8") as file:
            file.write(json.dumps(measure()) + "\n")
    PAGE.write_text(page(json.loads(RAW.read_text(encoding="utf-8").splitlines()[-1])), encoding="utf-8")


if __name__ == "__main__":
    main()
