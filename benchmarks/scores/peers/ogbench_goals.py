"""OGBench's own agents (arXiv:2410.20092) on our logs of its mazes, in as many steps as ours.

Each evaluation becomes one line of raw/goals_ogbench.jsonl.

Runs in an environment of its own, on a checkout of OGBench's repository (benchmarks/scores/peers/README.md), for example:
`OMP_NUM_THREADS=1 /tmp/peers-jax/bin/python benchmarks/scores/peers/ogbench_goals.py /tmp/ogbench/impls pointmaze/stitch hiql
--steps 40000 --every 20000 --width 128 --target-rate 0.05 --seeds 0 1 2`. Episodes are played and judged by our code, for both sides.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from control_record import append_row

RAW = Path(__file__).resolve().parents[1] / "raw" / "goals_ogbench.jsonl"
METHODS = ("gcbc", "gcivl", "gciql", "qrl", "crl", "hiql")
# Of OGBench's hyperparameters.sh, where they differ from its agents' own: by the log's last word, and by method and body.
OF_KINDS: dict[str, dict[str, float]] = {"stitch": {"actor_p_randomgoal": 0.5, "actor_p_trajgoal": 0.5}}
OF_METHODS: dict[str, dict[str, float]] = {
    "gciql:pointmaze": {"alpha": 0.003},
    "qrl:pointmaze": {"alpha": 0.0003},
    "crl:pointmaze": {"alpha": 0.03},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("impls", type=Path, help="the folder impls of a checkout of OGBench")
    parser.add_argument("log")
    parser.add_argument("methods", nargs="+", choices=METHODS)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--every", type=int, default=20_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--latent", type=int, default=512, help="dimensions of QRL's and CRL's latents")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--target-rate", type=float, help="of the target networks, where there are any; OGBench's 0.005 unless told")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=RAW)
    a = parser.parse_args()
    sys.path.insert(0, str(a.impls))
    for method in a.methods:
        for seed in a.seeds:
            run(method, seed, a)


def run(method: str, seed: int, a: argparse.Namespace) -> None:
    """Learns one seed, and records the share of solved tasks on the way and at the end."""
    import jax

    from stitchrl import load
    from stitchrl.evaluation.rollout import rollout

    agents, datasets = importlib.import_module("agents"), importlib.import_module("utils.datasets")
    log = load(a.log)
    made = settings(method, a)
    np.random.seed(seed)  # noqa: NPY002 (what its datasets draw from)
    data = getattr(datasets, made["dataset_class"])(datasets.Dataset.create(**columns(log)), made)
    agent = agents.agents[method].create(seed, data.dataset["observations"][:1], data.dataset["actions"][:1], made)
    began = time.perf_counter()
    for step in range(1, a.steps + 1):
        agent, _ = agent.update(data.sample(a.batch_size))
        if step % a.every and step != a.steps:
            continue

        def act(seen: np.ndarray, _: np.ndarray, agent: Any = agent) -> np.ndarray:  # [1, N, 2 x O], the goal last
            s, goal = np.split(seen[0], 2, axis=-1)
            return np.asarray(agent.sample_actions(observations=s, goals=goal, seed=jax.random.PRNGKey(0), temperature=0))[None]

        world = str(log.metadata["environment"])  # each seed in episodes of its own, which are ours of that seed
        found = rollout(act, world, episodes=a.episodes, seeds=[seed], seed=10_000, parallel=25, processes=1).successes
        assert found is not None
        row: dict[str, Any] = {
            "library": "ogbench", "log": a.log, "method": method, "step": step, "steps": a.steps, "width": a.width, "layers": a.layers,
            "seed": seed, "batch_size": a.batch_size, "standardized": False, "target_rate": made.get("tau"), "times": 1,
            "log_sha256": log.fingerprint(), "settings": {k: v for k, v in made.to_dict().items() if v is not None},
            "episodes": a.episodes, "episodes_of": seed, "success": float(found[0].mean()), "tasks": [float(found[0, k::5].mean()) for k in range(5)],
            "seconds": round(time.perf_counter() - began), "version": version("ogbench"),
            "jax": jax.__version__, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "command": " ".join(sys.argv),
        }  # fmt: skip
        append_row(a.out, row)
        print(a.log, method, seed, step, f"{100 * row['success']:.0f} %", row["tasks"], flush=True)


def settings(method: str, a: argparse.Namespace) -> Any:
    """Returns OGBench's settings of a method on a log, as its ConfigDict, with the networks, batch and rate that were asked for."""
    made = importlib.import_module(f"agents.{method}").get_config()
    kind, body = a.log.split("-")[-1].split("/")[-1], a.log.split("/")[0]
    told: dict[str, Any] = dict(OF_KINDS.get(kind, {})) if method != "gcbc" else {}
    told |= OF_METHODS.get(f"{method}:{body}", {}) | {"batch_size": a.batch_size}
    told |= {name: (a.width,) * a.layers for name in ("actor_hidden_dims", "value_hidden_dims") if name in made}
    if "latent_dim" in made:
        told["latent_dim"] = a.latent
    if a.target_rate is not None and "tau" in made:
        told["tau"] = a.target_rate
    made.update(told)
    return made


def columns(log: Any) -> dict[str, np.ndarray]:
    """Returns a log as OGBench reads its own: `terminals` at each walk's last step, whose final observation is only a next one."""
    last = np.zeros(len(log.actions), np.float32)
    last[np.asarray(log.offsets[1:]) - 1] = 1
    rows = {"observations": log.observations, "actions": log.actions, "next_observations": log.next_observations()}
    return {name: np.array(values, np.float32) for name, values in rows.items()} | {"terminals": last}


if __name__ == "__main__":
    main()
