"""Published settings of sequence models, each citing where its numbers come from; `published.recipes` lists them with the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stitchrl.experiment import Preprocessing
from stitchrl.recipes.published import Recipe

# The higher of the two returns that the Decision Transformer's authors ask for on D4RL's locomotion logs, in the task's units.
ASKED = {
    f"{body}/{quality}": target
    for body, target in (("halfcheetah", 12_000.0), ("hopper", 3_600.0), ("walker2d", 5_000.0))
    for quality in ("medium", "medium-replay", "medium-expert")
}

_GYM: dict[str, Any] = {
    "context": 20, "width": 128, "layers": 3, "heads": 1, "activation": "relu", "dropout": 0.1, "return_scale": 1000.0,
    "learning_rate": 1e-4, "weight_decay": 1e-4, "warmup_steps": 10_000, "clip_norm": 0.25,
}  # fmt: skip


def decision_transformer_locomotion() -> Recipe:
    """Decision Transformer, arXiv:2106.01345, table 8, and the authors' code (batches of 64, 100,000 steps); asks for the log's best."""
    return Recipe("decision_transformer", dict(_GYM), Preprocessing(standardize_observations=True, observation_epsilon=1e-6), batch_size=64)


def decision_transformer_on(dataset: str) -> Recipe:
    """The same, asked for what the authors ask for on this log."""
    told = decision_transformer_locomotion()
    return replace(told, settings=told.settings | {"target_return": ASKED[dataset]})


def decision_transformer_atari() -> Recipe:
    """Decision Transformer on frames, arXiv:2106.01345, table 9, and the authors' code, which takes batches of 128; asks for the log's best.

    They ask for 90 in Breakout, 2,500 in Qbert, 20 in Pong (whose context is 50, its batches 512) and 1,450 in Seaquest
    (their code: 14,000 in Qbert, 1,150 in Seaquest). Their cosine ends at a tenth of the rate, ours at 0.
    """
    settings = {
        "context": 30, "width": 128, "layers": 6, "heads": 8, "activation": "gelu", "dropout": 0.1, "return_scale": 1.0,
        "learning_rate": 6e-4, "weight_decay": 0.1, "betas": (0.9, 0.95), "warmup_steps": 3, "schedule": "cosine", "clip_norm": 1.0,
        "longest_episode": 27_000,
    }  # fmt: skip
    return Recipe("decision_transformer", settings, batch_size=128)


# What the Trajectory Transformer's authors change for one of D4RL's locomotion logs (config/offline.py of their code).
PLANS: dict[str, dict[str, Any]] = {
    **{f"halfcheetah/{quality}": {"horizon": 5, "beam_width": 32} for quality in ("medium", "medium-replay")},
    "halfcheetah/medium-expert": {"beam_width": 32},
    "walker2d/medium-expert": {"horizon": 5},
    "walker2d/medium-replay": {"horizon": 20, "beam_width": 32, "action_choices": 40, "dropped_mass": 0.0},
}


def trajectory_transformer_locomotion() -> Recipe:
    """Trajectory Transformer, arXiv:2106.02039, and the authors' code (50 passes through a million steps in batches of 256, 80 on medium-replay)."""
    settings = {
        "bins": 100, "discretization": "quantile", "sequence": 10, "width": 128, "layers": 4, "heads": 4, "dropout": 0.1, "action_weight": 5.0,
        "beam_width": 128, "horizon": 15, "expansion": 2, "dropped_mass": 0.6, "context": 5, "learning_rate": 6e-4,
    }  # fmt: skip
    return Recipe("trajectory_transformer", settings, Preprocessing(terminal_reward=-100.0))


def trajectory_transformer_on(dataset: str) -> Recipe:
    """The same with what the authors change for this log."""
    told = trajectory_transformer_locomotion()
    return replace(told, settings=told.settings | PLANS[dataset])


def trajectory_transformer_small() -> Recipe:
    """The same, not published, of a size for a CPU: half the width, three layers, 32 beams of 5 transitions that read nothing anew.

    Ends of the task cost nothing here: in mazes they are what is wanted.
    """
    told = trajectory_transformer_locomotion()
    small = {"width": 64, "layers": 3, "heads": 4, "beam_width": 32, "horizon": 5, "context": 10, "slide": 5, "warmup_steps": 500}
    return Recipe(told.algorithm, told.settings | small, batch_size=64)
