"""Published settings as functions, each citing where its numbers come from: the only hyper-parameter tables.

Every public function here is a recipe; its name is what `stitchrl train --recipe` takes.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, final

from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalDrawing
from stitchrl.core.settings import nearest
from stitchrl.experiment import Preprocessing


@final
@dataclass(frozen=True)
class Recipe:
    """An algorithm with settings and preprocessing that were published together."""

    algorithm: str
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    goals: GoalDrawing | None = None  # None: as the algorithm would draw them


def bc_locomotion() -> Recipe:
    """Deterministic behaviour cloning on standardised observations; CORL's any_percent_bc."""
    return Recipe("bc", {"distribution": "deterministic"}, Preprocessing(standardize_observations=True))


def filtered_bc() -> Recipe:
    """Behaviour cloning of the tenth of the episodes with the highest return (10 % BC; Chen et al., 2021, arXiv:2106.01345, section 5.1)."""
    return Recipe("bc", {}, Preprocessing(standardize_observations=True, best_episodes=0.1))


def td3_bc_locomotion() -> Recipe:
    """TD3+BC, arXiv:2106.06860, table 3 and the authors' code: observations standardised with epsilon 1e-3."""
    return Recipe("td3_bc", {"alpha": 2.5}, Preprocessing(standardize_observations=True, observation_epsilon=1e-3))


def iql_locomotion() -> Recipe:
    """IQL, arXiv:2110.06169, appendix B: expectile 0.7, inverse temperature 3, rewards scaled by 1000 / range of the logged returns."""
    return Recipe("iql", {"expectile": 0.7, "inverse_temperature": 3.0}, Preprocessing(return_range=1000.0))


def iql_antmaze() -> Recipe:
    """IQL, arXiv:2110.06169, appendix B: expectile 0.9, inverse temperature 10, 1 subtracted from the sparse reward."""
    return Recipe("iql", {"expectile": 0.9, "inverse_temperature": 10.0}, Preprocessing(reward_shift=-1.0))


def cql_locomotion() -> Recipe:
    """CQL, arXiv:2006.04779, with the settings of the authors' repository: weight 5, no Lagrange multiplier, three layers."""
    settings = {"conservatism": 5.0, "hidden": (256, 256, 256), "actor_learning_rate": 1e-4, "critic_learning_rate": 3e-4}
    return Recipe("cql", settings)


def cql_antmaze() -> Recipe:
    """CQL for AntMaze as CORL runs it: Lagrange gap 0.8, max-target backup, five-layer nets, rewards 10 r - 5."""
    settings = {"conservatism": 5.0, "lagrange_gap": 0.8, "max_target_backup": True, "hidden": (256,) * 5, "actor_learning_rate": 1e-4}
    return Recipe("cql", settings, Preprocessing(reward_scale=10.0, reward_shift=-5.0))


def bcq_locomotion() -> Recipe:
    """BCQ, arXiv:1812.02900, with the settings of the authors' repository, which takes batches of 100: ten candidates, twins of 400 and 300 units."""
    settings = {"sampled_actions": 10, "acting_candidates": 100, "minimum_weight": 0.75, "perturbation_bound": 0.05, "learning_rate": 1e-3}
    return Recipe("bcq", settings)


def bcq_discrete() -> Recipe:
    """Discrete BCQ, arXiv:1910.01708, with what the authors' repository takes for tasks that are not Atari, in batches of 64: threshold 0.3."""
    return Recipe("bcq", {"threshold": 0.3, "learning_rate": 3e-4, "hidden": (256, 256)})


def fql_antmaze() -> Recipe:
    """Flow Q-learning, arXiv:2502.02538, on D4RL's AntMaze (umaze, medium): weight 10 of the distillation, 1 subtracted from the sparse reward."""
    return Recipe("fql", {"distillation": 10.0}, Preprocessing(reward_shift=-1.0))


def fql_antmaze_large() -> Recipe:
    """Flow Q-learning, arXiv:2502.02538, on D4RL's large AntMaze: weight 3 of the distillation, 1 subtracted from the sparse reward."""
    return Recipe("fql", {"distillation": 3.0}, Preprocessing(reward_shift=-1.0))


def fql_pen() -> Recipe:
    """Flow Q-learning, arXiv:2502.02538, on D4RL's pen (human, cloned): weight 10,000 of the distillation, the smaller of the two critics."""
    return Recipe("fql", {"distillation": 10_000.0, "target_value": "minimum"})


def sac_online() -> Recipe:
    """SAC, arXiv:1812.05905, table 1, with one temperature learned: what makes our continuous datasets."""
    return Recipe("sac", {"hidden": (256, 256)})


def recipe(name: str) -> Recipe:
    """Returns a recipe by name; raises ConfigError naming the nearest."""
    known = recipes()
    if name not in known:
        raise ConfigError(f"unknown recipe '{name}'.{nearest(name, sorted(known))}")
    return known[name]()


def recipes() -> dict[str, Callable[[], Recipe]]:
    """Returns all recipes by name."""
    members = inspect.getmembers(sys.modules[__name__], inspect.isfunction)
    return {
        name: f
        for name, f in members
        if f.__module__ == __name__ and inspect.signature(f).return_annotation == "Recipe" and name != "recipe"
    }
