"""How fast the diffusers plan and what their plans earn, by sampler and number of steps: one trained policy, its sampler changed.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/speed/planning.py RUN --episodes 10 --chains ddpm:1000 dpm_solver++:20

RUN is a run of decision_diffuser or diffuser with an environment. Adds a line for each chain to raw/planning.jsonl and writes PLANNING.md
from all of them (no RUN: only that). Speed: a new plan for each of N environments at every step, processor seconds of one thread, for the
machine is shared. Score: episodes in which a plan is followed for `--replan-every` steps.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stitchrl import __version__
from stitchrl.agent import Agent, load
from stitchrl.core.intervals import interval, mean
from stitchrl.environments.make import make
from stitchrl.evaluation.acting_settings import acting_with
from stitchrl.evaluation.playing import play
from stitchrl.evaluation.references import normalized_score, reference_for

FOLDER = Path(__file__).parent
RAW, PAGE = FOLDER / "raw" / "planning.jsonl", FOLDER / "PLANNING.md"
CHAINS = ("ddpm:1000", "ddpm:100", "ddim:20", "dpm_solver++:20", "dpm_solver++:10", "dpm_solver++:5", "dpm_solver++:20:5")
LEAST_SECONDS = 0.5  # of a measurement


def of_chain(words: str) -> dict[str, Any]:
    """Returns the settings that `sampler:steps` or `sampler:steps:warm_start_steps` names."""
    sampler, steps, *warm = words.split(":")
    return {"sampler": sampler, "sampling_steps": int(steps), "warm_start_steps": int(warm[0]) if warm else 0}


def actions_per_second(agent: Agent, observations: np.ndarray) -> float:
    """Returns how many environments are planned for in a processor second; a warm start is measured on its second plan and later."""
    seen = observations[None]
    agent.reset()
    agent.act(seen)
    began, count = time.process_time(), 0
    while count == 0 or time.process_time() - began < LEAST_SECONDS:
        agent.act(seen)
        count += len(observations)
    return count / (time.process_time() - began)


def measured(run: Path, words: str, environments: list[int], episodes: int, replan_every: int) -> dict[str, Any]:
    """Returns the line of one chain."""
    config = json.loads((run / "config.json").read_text())
    id, options = config["environment"]["id"], config["environment"]["options"] or {}
    world = make(id, **options)
    first = np.stack([np.asarray(world.reset(seed=i)[0]) for i in range(max(environments))])
    world.close()
    agent = acting_with(load(run), of_chain(words) | {"replan_every": 1})
    speed = {str(n): actions_per_second(agent, first[:n]) for n in environments}
    line: dict[str, Any] = {
        "chain": words,
        "actions_per_second": speed,
        "environment": id,
        "episodes": episodes,
        "replan_every": replan_every,
    }
    if episodes:
        agent = acting_with(agent, {"replan_every": replan_every})
        began = time.process_time()
        found = play(agent, id, episodes=episodes, parallel=episodes, processes=1, seed=20_000, environment_options=options)
        reference = reference_for(id, {"reference": config["data"].get("reference")})
        returns = found.returns.reshape(-1)
        scores = returns if reference is None else normalized_score(returns, reference)
        line |= {"scores": np.asarray(scores).tolist(), "returns": returns.tolist(), "rollout_cpu_seconds": time.process_time() - began}
    commit = subprocess.run(
        ["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False, cwd=FOLDER
    ).stdout.strip()
    about = {"version": __version__, "commit": commit, "torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    done = max((int(path.name.partition("_")[2]) for path in (run / "checkpoints").glob("step_*")), default=config["training"]["steps"])
    learned = {"algorithm": config["algorithm"], "steps": done, "settings": config["settings"], "data": config["data"].get("name")}
    return line | {"date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M"), **about, "run": learned}


def page(lines: list[dict[str, Any]]) -> str:
    """Returns the page's text: a section for each algorithm, of the last line of each chain."""
    text = [
        "# Planning speed of the diffusers, by sampler",
        "",
        "Written by `benchmarks/speed/planning.py` from raw/planning.jsonl; do not edit. One trained policy each, its sampler changed after",
        "learning. Actions a processor second, a new plan for each at every step, one thread. The score is the mean over episodes with a 95 %",
        "interval over them (their number), plans drawn anew and followed for a few steps; 0: random actions, 100: the reference expert.",
    ]
    for algorithm in dict.fromkeys(line["run"]["algorithm"] for line in lines):
        text += section(algorithm, [line for line in lines if line["run"]["algorithm"] == algorithm])
    return "\n".join(text) + "\n"


def section(algorithm: str, lines: list[dict[str, Any]]) -> list[str]:
    """Returns the Markdown lines of one algorithm."""
    latest = {line["chain"]: line for line in lines}
    last = lines[-1]
    settings = last["run"]["settings"]
    environments = [int(n) for n in last["actions_per_second"]]
    most = str(environments[-1])
    chains = sorted(latest, key=lambda words: (words not in CHAINS, CHAINS.index(words) if words in CHAINS else 0, words))
    base = latest[chains[0]]["actions_per_second"]
    rows = []
    for words in chains:
        line = latest[words]
        sampler, steps, *warm = words.split(":")
        name = f"{sampler}, {steps} steps" + (f", warm start from {warm[0]}" if warm else "")
        speed = line["actions_per_second"]
        score = "–"
        if "scores" in line:
            found = interval([np.asarray(line["scores"])], mean, generator=np.random.default_rng(0))
            score = f"{found.estimate:.1f} [{found.low:.1f}, {found.high:.1f}] ({line['episodes']})"
        cells = [f"{speed[str(n)]:,.2f}" if speed[str(n)] < 10 else f"{speed[str(n)]:,.0f}" for n in environments]
        rows.append(f"| {name} | {' | '.join(cells)} | {speed[most] / base[most]:,.1f} | {score} |")
    heads = " | ".join(f"{n} environment{'s' if n > 1 else ''}" for n in environments)
    return [
        "",
        f"## {algorithm}",
        "",
        f"{last['date']} UTC, {last['machine']}, torch {last['torch']}, stitchrl {last['version']} at {last['commit']}. `{last['run']['data']}`, "
        f"{last['run']['steps']:,} steps of learning, horizon {settings['horizon']}, width {settings['width']}, "
        f"{settings['diffusion_steps']:,} steps of diffusion; plans followed for {last['replan_every']} steps.",
        "",
        f"| sampler | {heads} | × {chains[0].replace(':', ', ')} ({most}) | score |",
        "|---|" + "---:|" * (len(environments) + 2),
        *rows,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--chains", nargs="*", default=list(CHAINS))
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--environments", type=int, nargs="*", default=[1, 10, 50])
    parser.add_argument("--replan-every", type=int, default=8)
    a = parser.parse_args()
    torch.set_num_threads(1)
    for words in a.chains if a.run else []:
        line = measured(a.run, words, a.environments, a.episodes, a.replan_every)
        with RAW.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(words, line["actions_per_second"], np.mean(line.get("scores", [np.nan])), flush=True)
    PAGE.write_text(page([json.loads(text) for text in RAW.read_text().splitlines()]), encoding="utf-8")


if __name__ == "__main__":
    main()
