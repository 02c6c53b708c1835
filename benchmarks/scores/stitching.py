"""Who stitches: methods on logs whose best way no episode took, with intervals over seeds.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/scores/stitching.py gridworld/stitch bc decision_transformer iql cql --seeds 5

Adds a line for each seed to raw/stitching.jsonl and writes STITCHING.md from all of them (no method: only that).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from control_record import append_row, read_rows

HERE = Path(__file__).parent
RAW, PAGE = HERE / "raw" / "stitching.jsonl", HERE / "STITCHING.md"
SMALL: dict[str, Any] = {"hidden": (64, 64)}
# settings, engine settings, preprocessing: small networks for small tasks, each learned until its loss is level
GRID: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "bc": ("bc", SMALL, {"steps": 3_000}, {}),
    "filtered_bc": ("bc", SMALL, {"steps": 3_000}, {"best_episodes": 0.1}),
    "iql": (
        "iql",
        SMALL | {"learning_rate": 1e-3, "expectile": 0.95, "inverse_temperature": 10.0, "discount": 0.95},
        {"steps": 6_000},
        {"reward_scale": 10.0},
    ),
    "cql": ("cql", SMALL | {"critic_learning_rate": 1e-3, "conservatism": 1.0, "discount": 0.95}, {"steps": 6_000}, {"reward_scale": 10.0}),
    "decision_transformer": (
        "decision_transformer",
        {"context": 20, "width": 64, "layers": 2, "heads": 2, "dropout": 0.0, "return_scale": 1.0, "warmup_steps": 200, "learning_rate": 1e-3},
        {"steps": 2_000},
        {},
    ),
    "trajectory_transformer": (
        "trajectory_transformer",
        {
            "width": 48, "layers": 2, "heads": 2, "sequence": 10, "dropout": 0.0, "warmup_steps": 50, "weight_decay": 0.0, "discount": 0.99,
            "beam_width": 32, "horizon": 10, "prefix_context": False, "dropped_mass": 0.1, "learning_rate": 3e-3,
        },
        {"steps": 1_000},
        {},
    ),
    "diffuser": (
        "diffuser",
        # few steps ahead, and a value that sees the rest
        {"horizon": 4, "width": 32, "multipliers": (1, 2), "candidates": 4, "discount": 0.95, "learning_rate": 1e-3},
        {"steps": 2_000, "batch_size": 32},
        {},
    ),
}  # fmt: skip
# The ball's log wanders between cells of its own choosing; the task is to come to one cell and stay, which no episode does for long.
MAZE: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "bc": ("bc", {"hidden": (128, 128)}, {"steps": 5_000, "batch_size": 256}, {"standardize_observations": True}),
    "filtered_bc": (
        "bc", {"hidden": (128, 128)}, {"steps": 5_000, "batch_size": 256}, {"standardize_observations": True, "best_episodes": 0.1}
    ),
    "iql": (
        "iql", {"hidden": (128, 128), "learning_rate": 1e-3, "expectile": 0.9, "inverse_temperature": 10.0},
        {"steps": 60_000, "batch_size": 256}, {"standardize_observations": True},
    ),
    "cql": (
        "cql", {"hidden": (128, 128), "critic_learning_rate": 1e-3, "actor_learning_rate": 3e-4, "conservatism": 1.0},
        {"steps": 6_000, "batch_size": 128}, {"standardize_observations": True},
    ),
    "decision_transformer": (
        "decision_transformer",
        {
            "context": 20, "width": 64, "layers": 2, "heads": 2, "dropout": 0.0, "return_scale": 100.0, "warmup_steps": 300,
            "learning_rate": 1e-3, "longest_episode": 300,
        },
        {"steps": 4_000}, {"standardize_observations": True},
    ),
    "trajectory_transformer": (
        "trajectory_transformer",
        {
            "width": 64, "layers": 2, "heads": 2, "sequence": 10, "dropout": 0.0, "warmup_steps": 300, "learning_rate": 1e-3,
            "beam_width": 16, "horizon": 8, "context": 3,
        },
        {"steps": 3_000}, {},
    ),
    "diffuser": (
        "diffuser",
        {
            "horizon": 64, "width": 32, "multipliers": (1, 2, 4), "action_weight": 1.0, "goal": ((0, 4), (1, 5)), "candidates": 2,
            "replan_every": 8, "learning_rate": 1e-3, "target_rate": 0.01,
        },
        {"steps": 4_000, "batch_size": 32}, {},
    ),
}  # fmt: skip
# The ball's two ways that share a corridor: what is asked is the goal, where no logged way from the start leads.
FORK = MAZE | {
    "iql": (
        "iql", {"hidden": (128, 128), "learning_rate": 1e-3, "expectile": 0.9, "inverse_temperature": 10.0},
        {"steps": 20_000, "batch_size": 256}, {"standardize_observations": True},
    ),
    "cql": ("cql", MAZE["cql"][1], {"steps": 10_000, "batch_size": 128}, {"standardize_observations": True}),
    "trajectory_transformer": (
        "trajectory_transformer", MAZE["trajectory_transformer"][1] | {"prefix_context": False}, {"steps": 3_000}, {},
    ),
    "diffuser": (
        "diffuser",
        {
            # few steps ahead, and a value that sees the rest; the authors' 10 on the action that is done next
            "horizon": 8, "width": 32, "multipliers": (1, 2), "action_weight": 10.0, "candidates": 16, "guide_scale": 4.0, "discount": 0.99,
            "replan_every": 6, "learning_rate": 1e-3, "target_rate": 0.01,
        },
        {"steps": 8_000, "batch_size": 64}, {},
    ),
    "decision_diffuser": (
        "decision_diffuser",
        {
            "network": "dit", "width": 64, "depth": 2, "heads": 4, "horizon": 8, "prediction": "v_prediction", "next_weight": 10.0, "discount": 0.99,
            "learning_rate": 1e-3, "diffusion_steps": 100, "sampler": "dpm_solver++", "sampling_steps": 10, "replan_every": 4,
        },
        {"steps": 8_000, "batch_size": 128}, {},
    ),
    "diffusion_ql": (
        "diffusion_ql",
        {"hidden": (128, 128), "actor_learning_rate": 1e-3, "critic_learning_rate": 1e-3, "learning_schedule": "constant"},
        {"steps": 10_000, "batch_size": 256}, {"standardize_observations": True},
    ),
}  # fmt: skip
LOGS = {"gridworld/stitch": GRID, "pointmaze/umaze": MAZE, "pointmaze/fork": FORK}
# the same weights, acting otherwise
OTHERWISE: dict[str, dict[str, dict[str, Any]]] = {
    "trajectory_transformer": {
        "trajectory_transformer, greedy": {"planning": "none"},
        "trajectory_transformer, past in view": {"prefix_context": True},
    },
    "diffuser": {
        "diffuser, not guided": {"guide_scale": 0.0, "candidates": 1},
        "diffuser, not guided, best of 16": {"guide_scale": 0.0, "candidates": 16},
    },
    "decision_diffuser": {"decision_diffuser, not asked": {"guidance": 0.0}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="?", default="gridworld/stitch")
    parser.add_argument("methods", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=200)
    a = parser.parse_args()
    for method in a.methods:
        run(a.log, method, a.seeds, a.episodes)
    PAGE.write_text(page(read_rows(RAW)), encoding="utf-8")


def run(log: str, method: str, seeds: int, episodes: int) -> None:
    """Learns all seeds at once and records what each earns."""
    import torch

    from stitchrl import __version__, load
    from stitchrl.agent import Agent
    from stitchrl.evaluation.playing import play
    from stitchrl.evaluation.references import normalized_score, reference_for
    from stitchrl.experiment import Preprocessing, make_learner, plan, prepare
    from stitchrl.training.learner import Training

    torch.set_num_threads(1)
    algorithm, settings, chosen, preprocessing = LOGS[log][method]
    training: dict[str, Any] = {"compile": "off", "batch_size": 64} | chosen
    made = plan(
        algorithm, settings=settings, seeds=seeds, training=Training(threads=1, **training), preprocessing=Preprocessing(**preprocessing)
    )
    dataset, began = load(log), time.perf_counter()
    data, transforms = prepare(dataset, made)
    learner = make_learner(made, data, transforms)
    for _ in range(made.training.steps):
        learner.advance()
    learner.check()
    learned = time.perf_counter() - began
    environment, options = str(dataset.metadata["environment"]), dict(dataset.metadata["environment_options"] or {})
    reference = reference_for(environment, dataset.metadata)
    assert reference is not None
    told: dict[str, Any] = {
        "log": log, "log_sha256": dataset.fingerprint(), "log_score": float(np.mean(normalized_score(dataset.returns(), reference))),
        "episodes": episodes, "settings": settings, "training": training, "preprocessing": preprocessing,
        "training_seconds": round(learned), "version": __version__, "torch": torch.__version__, "command": " ".join(sys.argv),
    }  # fmt: skip
    for name, changes in {method: {}, **OTHERWISE.get(method, {})}.items():
        learner.template.config = replace(made.settings, **changes)
        agent = Agent(algorithm, learner.template, learner.update.parameters, data.spec, transforms, made.seeds)
        found = play(agent, environment, episodes=episodes, seed=30_000, parallel=50, processes=1, environment_options=options)
        scores = normalized_score(found.returns, reference).mean(1)
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        for i, seed in enumerate(made.seeds):
            row = {"method": name, "seed": seed, "return": float(found.returns[i].mean()), "score": float(scores[i])}
            row |= {"scores": np.round(normalized_score(found.returns[i], reference), 2).tolist()}  # of each episode
            row |= {"length": float(found.lengths[i].mean()), "acting": changes, "rollout_seconds": round(found.seconds), "date": date}
            append_row(RAW, row | told)
        print(log, name, np.round(scores, 1), f"{learned:.0f} s + {found.seconds:.0f} s", flush=True)


def page(rows: list[dict[str, Any]]) -> str:
    """Returns the Markdown page of the raw lines."""
    from stitchrl.core.intervals import interval

    last = {(r["log"], r["method"], r["seed"]): r for r in rows}
    lines = [
        "# Who stitches",
        "",
        f"Written by `benchmarks/scores/stitching.py` from raw/stitching.jsonl ({max(r['date'][:10] for r in rows)}); do not edit.",
        "Normalised scores: 0 is random actions, 100 the best policy there is (in the mazes: a controller that knows the goal, which a policy may",
        "outrun). IQM over seeds, and a 95 % bootstrap interval over seeds and episodes (over seeds alone in `pointmaze/umaze`).",
        "The log's own score is its episodes' mean; no episode of it took the best way. On `pointmaze/fork` 45 is the lesser prize, where all logged",
        "ways from the start lead. raw/stitching_before.jsonl has rows of planners made with one draw of noise for all steps, of greedy decoding",
        "that was drawn, of the fork's first map, and of a Diffuser too little learned to move there; raw/stitching_guidance.jsonl has what else was",
        "tried with the Diffuser's weights (there 47.5 and more are at the goal).",
        "",
        "| log | its own score | method | score | seeds | seconds of training, all seeds |",
        "|---|---:|---|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (log, method, _), r in last.items():
        groups.setdefault((log, method), []).append(r)
    rng = np.random.default_rng(0)
    for (log, method), found in sorted(groups.items(), key=lambda g: (g[0][0], -np.mean([r["score"] for r in g[1]]))):
        # earlier lines have each seed's mean alone
        whole = all("scores" in r for r in found)
        score = interval([[r["scores"] if whole else r["score"] for r in found]], generator=rng)
        cells = [
            f"`{log}`",
            f"{found[0]['log_score']:.1f}",
            f"`{method}`",
            f"{score.estimate:.1f} [{score.low:.1f}, {score.high:.1f}]",
        ]
        lines.append("| " + " | ".join([*cells, str(len(found)), str(found[0]["training_seconds"])]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
