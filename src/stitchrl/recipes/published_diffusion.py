"""Published settings of policies that are diffusions: of chunks of actions, by a critic's gradient, by a critic's choice."""

from __future__ import annotations

from typing import Any

from stitchrl.experiment import Preprocessing
from stitchrl.recipes.published import Recipe

# Diffusion Q-learning, arXiv:2208.06193, and its authors' main.py: (eta, bound of the gradients); AntMaze also the policy's rate and backup.
DIFFUSION_QL_LOCOMOTION = {
    "halfcheetah/medium": (1.0, 9.0),
    "halfcheetah/medium-replay": (1.0, 2.0),
    "halfcheetah/medium-expert": (1.0, 7.0),
    "hopper/medium": (1.0, 9.0),
    "hopper/medium-replay": (1.0, 4.0),
    "hopper/medium-expert": (1.0, 5.0),
    "walker2d/medium": (1.0, 1.0),
    "walker2d/medium-replay": (1.0, 4.0),
    "walker2d/medium-expert": (1.0, 5.0),
}
DIFFUSION_QL_ANTMAZE = {
    "antmaze/umaze-play": (0.5, 2.0, 3e-4, False),
    "antmaze/umaze-diverse": (2.0, 3.0, 3e-4, True),
    "antmaze/medium-play": (2.0, 2.0, 1e-3, True),
    "antmaze/medium-diverse": (3.0, 1.0, 3e-4, True),
    "antmaze/large-play": (4.5, 10.0, 3e-4, True),
    "antmaze/large-diverse": (3.5, 7.0, 3e-4, True),
}


def diffusion_ql_on(dataset: str) -> Recipe:
    """Diffusion Q-learning as its authors run it on a dataset of D4RL; on AntMaze rewards are 4 r - 2."""
    settings: dict[str, Any]
    if dataset in DIFFUSION_QL_LOCOMOTION:
        weight, norm = DIFFUSION_QL_LOCOMOTION[dataset]
        return Recipe("diffusion_ql", {"value_weight": weight, "clip_norm": norm})
    weight, norm, rate, backup = DIFFUSION_QL_ANTMAZE[dataset]
    settings = {"value_weight": weight, "clip_norm": norm, "actor_learning_rate": rate, "max_target_backup": backup}
    return Recipe("diffusion_ql", settings, Preprocessing(reward_scale=4.0, reward_shift=-2.0))


def idql_locomotion() -> Recipe:
    """IDQL, arXiv:2304.10573, and its authors' offline script: expectile 0.7, 64 candidates, rewards scaled by 1000 / range of the returns."""
    return Recipe("idql", {"level": 0.7, "acting_candidates": 64}, Preprocessing(return_range=1000.0))


def idql_antmaze() -> Recipe:
    """IDQL, arXiv:2304.10573, and its authors' offline script: expectile 0.9, 64 candidates, 1 subtracted from the sparse reward."""
    return Recipe("idql", {"level": 0.9, "acting_candidates": 64}, Preprocessing(reward_shift=-1.0))


def diffusion_policy() -> Recipe:
    """Diffusion policy, arXiv:2303.04137, its convolutional network on states: chunks of 16, 8 of them done, two observations, 100 steps."""
    settings = {"horizon": 16, "observed": 2, "acted": 8, "diffusion_steps": 100, "width": 256, "multipliers": (1, 2, 4)}
    return Recipe("diffusion_policy", settings, Preprocessing(standardize_observations=True))


def diffusion_policy_small() -> Recipe:
    """The same for a CPU: a sixtieth of the weights and ten steps of a solver where it acts. Not published: ours."""
    settings = {"width": 32, "learning_rate": 1e-3, "sampler": "dpm_solver++", "sampling_steps": 10}
    return Recipe("diffusion_policy", settings, Preprocessing(standardize_observations=True))
