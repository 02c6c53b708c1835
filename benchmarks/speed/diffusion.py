"""How fast a diffusion acts, by sampler and number of steps: actions a second of untrained networks of the papers' sizes.

`python benchmarks/speed/diffusion.py` appends to raw/diffusion.jsonl and writes DIFFUSION.md. One thread. The machine is shared: processor
seconds of this process are what is compared, the wall clock stands beside them. What it costs in score is in benchmarks/scores.
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

from stitchrl.algorithms.diffusion_policy import DiffusionPolicy, DiffusionPolicyConfig
from stitchrl.algorithms.idql import IDQL, IDQLConfig
from stitchrl.core.algorithm import Algorithm, build
from stitchrl.core.spec import Box, Spec

FOLDER = Path(__file__).parent
RAW, PAGE = FOLDER / "raw" / "diffusion.jsonl", FOLDER / "DIFFUSION.md"
SPEC = Spec(Box((17,)), Box((6,), (-1.0,), (1.0,)))  # HalfCheetah's and Walker2d's
CHAINS = (("ddpm", 1000), ("ddpm", 100), ("dpm_solver++", 20), ("ddim", 5))
# name, environments at once, chains
CASES = (
    ("idql", 10, CHAINS[1:]),
    ("diffusion_policy, width 32", 10, CHAINS),
    ("diffusion_policy, width 256", 1, CHAINS[1:]),
    ("diffusion_policy, width 256", 10, CHAINS[2:]),
    ("diffusion_policy, width 256", 1, CHAINS[:1]),
)


def built(name: str, sampler: Any, steps: int) -> Algorithm:
    """Returns an untrained algorithm whose schedule has as many steps as a chain of ddpm takes, or 100."""
    trained = steps if sampler == "ddpm" else 100
    if name == "idql":
        # IDQL takes all steps of its schedule: that of a solver has as many as the solver takes
        return build(IDQL, IDQLConfig(diffusion_steps=steps, schedule="cosine", sampler=sampler), SPEC, 0)
    config = DiffusionPolicyConfig(width=int(name.split()[-1]), diffusion_steps=trained, sampler=sampler, sampling_steps=steps)
    return build(DiffusionPolicy, config, SPEC, 0)


@torch.inference_mode()
def measure(name: str, environments: int, sampler: str, steps: int, repeats: int) -> dict[str, Any]:
    """Returns the raw line of one chain: processor and wall seconds of drawing what a batch of environments does next."""
    algorithm = built(name, sampler, steps)
    policy = algorithm.policy()
    observations = torch.randn(environments, 17, generator=torch.Generator().manual_seed(0))
    kind = policy.noise(environments)
    assert kind is not None
    noise = kind.draw(1, torch.Generator().manual_seed(1))[0]
    processor, wall = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        policy(observations, noise)  # of an episode's first step: a chunk is drawn
        wall.append(time.perf_counter() - before[0])
        processor.append(time.process_time() - before[1])
    acted = 1 if name == "idql" else algorithm.config.acted
    weights = sum(p.numel() for p in policy.parameters())
    found = {"network": name, "environments": environments, "sampler": sampler, "steps": steps, "acted": acted, "weights": weights}
    return found | {"processor": processor, "wall": wall}


def page(lines: list[dict[str, Any]]) -> str:
    """Returns the text of DIFFUSION.md for the lines of one run."""
    first = lines[0]
    text = [
        "# How fast a diffusion acts\n",
        "Written by `benchmarks/speed/diffusion.py` from `raw/diffusion.jsonl` (its last run); do not edit. Untrained networks, 17 observations, 6",
        "actions. *idql*: 64 candidates for each environment, one action of which is taken. *diffusion_policy*: chunks of 16 actions, 8 of which are",
        "done: actions/s = 8 × environments / seconds of a chunk. Seconds are of this process's processor time, the least of the repeats; the wall",
        "clock beside them also counts what the rest of the machine took. *ddpm 1000* has a schedule of 1,000 steps, the others of 100 (idql's: as",
        "many as the sampler takes).\n",
        f"{first['date']}; {first['machine']}, load {first['load']:.1f}; 1 thread, not compiled; torch {first['torch']}, stitchrl at "
        f"{first['commit']}. Command: `{first['command']}`.\n",
        "| network | weights | environments | sampler | steps | seconds | wall, s | actions/s | × of 100-step ddpm | repeats |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]

    def rate(line: dict[str, Any]) -> float:
        return float(line["environments"] * line["acted"] / min(line["processor"]))

    for line in sorted(lines, key=lambda x: (x["network"], x["environments"], -x["steps"])):
        same = [x for x in lines if (x["network"], x["environments"]) == (line["network"], line["environments"])]
        reference = next((rate(x) for x in same if (x["sampler"], x["steps"]) == ("ddpm", 100)), None)
        ratio = "" if reference is None else f"{rate(line) / reference:.2g}"
        text.append(
            f"| {line['network']} | {line['weights'] / 1e6:.2f} M | {line['environments']} | {line['sampler']} | {line['steps']} "
            f"| {min(line['processor']):.3g} | {min(line['wall']):.3g} | {rate(line):.3g} | {ratio} | {len(line['processor'])} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    git = ["git", "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, cwd=FOLDER, check=False).stdout.strip()
    models = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
        "command": "python benchmarks/speed/diffusion.py",
    }
    lines = []
    for name, environments, chains in CASES:
        for sampler, steps in reversed(chains):
            lines.append(measure(name, environments, sampler, steps, 2 if steps < 100 else 1) | about)
            with RAW.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            PAGE.write_text(page(lines), encoding="utf-8")
            print({k: v for k, v in lines[-1].items() if k not in about}, flush=True)


if __name__ == "__main__":
    main()
