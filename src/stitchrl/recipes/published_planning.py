"""Published settings of planners by diffusion, each citing where its numbers come from; `published.recipes` lists them with the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from stitchrl.experiment import Preprocessing
from stitchrl.recipes.published import Recipe

# What Diffuser's authors change for one of D4RL's locomotion logs (config/locomotion.py of their code).
DIFFUSER_PLANS: dict[str, dict[str, Any]] = {
    **{
        f"halfcheetah/{quality}": {"horizon": 4, "multipliers": (1, 4, 8), "guide_scale": 1e-3, "unguided_steps": 4}
        for quality in ("medium", "medium-replay", "medium-expert")
    },
    "hopper/medium-expert": {"guide_scale": 1e-4, "unguided_steps": 4},
}
# Target and guidance of CleanDiffuser's Decision Diffuser (configs/dd/mujoco of its code) on D4RL's locomotion logs.
ASKED: dict[str, tuple[float, float]] = {
    "halfcheetah/medium-expert": (0.95, 1.2), "halfcheetah/medium": (1.1, 3.2), "halfcheetah/medium-replay": (0.95, 1.4),
    "hopper/medium-expert": (0.95, 1.2), "hopper/medium": (0.7, 4.4), "hopper/medium-replay": (0.6, 6.0),
    "walker2d/medium-expert": (1.0, 1.2), "walker2d/medium": (0.75, 6.0), "walker2d/medium-replay": (0.75, 2.4),
}  # fmt: skip
# Small enough for a CPU: ours, not published.
_SMALL: dict[str, Any] = {
    "horizon": 32, "width": 16, "multipliers": (1, 2, 4), "target_rate": 0.01, "learning_rate": 1e-3, "replan_every": 8,
}  # fmt: skip


def diffuser_locomotion() -> Recipe:
    """Diffuser, arXiv:2205.09991, and the authors' code (a million steps in batches of 64): trajectories of 32 steps, 20 steps of diffusion.

    Their code adds attention on HalfCheetah, plans with values of discount 0.997, and takes 100 from the reward where the task ends.
    """
    settings = {
        "horizon": 32, "diffusion_steps": 20, "width": 32, "multipliers": (1, 2, 4, 8), "action_weight": 10.0, "discount": 0.997,
        "guide_scale": 0.1, "guide_unit": "returns", "guide_steps": 2, "unguided_steps": 2, "candidates": 64,
        "learning_rate": 2e-4, "target_every": 10,
    }  # fmt: skip
    return Recipe("diffuser", settings, Preprocessing(terminal_reward=-100.0), batch_size=64)


def diffuser_on(dataset: str) -> Recipe:
    """The same with what the authors change for this log."""
    told = diffuser_locomotion()
    return replace(told, settings=told.settings | DIFFUSER_PLANS[dataset])


def diffuser_pointmaze() -> Recipe:
    """Diffuser as in Maze2D, arXiv:2205.09991 (config/maze2d.py of the authors' code, umaze): 128 states, 64 steps, ending at the goal.

    Two million steps. The authors plan once, without a value, and follow the states by a controller; here actions are done, and plans made anew.
    """
    settings = {
        "horizon": 128,
        "diffusion_steps": 64,
        "multipliers": (1, 4, 8),
        "action_weight": 1.0,
        "goal": ((0, 4), (1, 5)),
        "candidates": 8,
        "replan_every": 8,
        "target_every": 10,
    }
    return Recipe("diffuser", settings, batch_size=64)


def diffuser_small() -> Recipe:
    """Diffuser for a CPU: a tenth of the authors' network, 8 candidates, a plan in 8 steps."""
    return Recipe("diffuser", _SMALL | {"candidates": 8}, batch_size=64)


def decision_diffuser_locomotion() -> Recipe:
    """Decision Diffuser, arXiv:2211.15657, and the authors' code (a million steps in batches of 64); returns there are divided by 400 on Hopper.

    Their code takes 100 from the reward where the task ends.
    """
    settings = {
        "horizon": 100, "diffusion_steps": 200, "width": 128, "multipliers": (1, 4, 8), "condition_dropout": 0.25, "guidance": 1.2,
        "target": 0.9, "temperature": 0.5, "hidden": (256, 256), "learning_rate": 2e-4, "target_every": 10,
    }  # fmt: skip
    return Recipe("decision_diffuser", settings, Preprocessing(terminal_reward=-100.0), batch_size=64)


def decision_diffuser_on(dataset: str) -> Recipe:
    """Decision Diffuser as CleanDiffuser has it (arXiv:2406.09509): a transformer, 32 states, 20 steps of DDIM, guidance tuned to each log.

    A million steps in batches of 64. Targets are shares of its own scales of returns (1,200, 1,000 and 1,000 on Hopper), here of the log's
    range. It standardises states (here: scaled by range), diffuses in continuous time by a linear schedule (here: the 20 steps of a cosine),
    lowers both rates by a cosine and stops the inverse dynamics, of 512 units, after 200,000 steps.
    """
    target, guidance = ASKED[dataset]
    settings: dict[str, Any] = {
        "horizon": 32, "diffusion_steps": 20, "network": "dit", "width": 320, "depth": 2, "heads": 10, "discount": 0.997, "next_weight": 10.0,
        "temperature": 0.5, "sampler": "ddim", "target_rate": 1e-4, "hidden": (512, 512),
    }  # fmt: skip
    told = settings | {"target": target, "guidance": guidance}
    return Recipe("decision_diffuser", told, Preprocessing(terminal_reward=-100.0), batch_size=64)


def decision_diffuser_small() -> Recipe:
    """Decision Diffuser for a CPU: 100 steps of diffusion, sampled in 10, a plan in 8 steps."""
    settings = _SMALL | {"diffusion_steps": 100, "sampler": "dpm_solver++", "sampling_steps": 10}
    return Recipe("decision_diffuser", settings, batch_size=64)
