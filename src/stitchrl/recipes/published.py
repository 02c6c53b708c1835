"""Published settings as functions, each citing where its numbers come from: the only hyper-parameter tables.

Every public function here is a recipe; its name is what `stitchrl train --recipe` takes. Those tuned to one dataset are `method:dataset`.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, final

from stitchrl.core.errors import ConfigError
from stitchrl.core.goals import GoalDrawing
from stitchrl.core.settings import nearest
from stitchrl.experiment import Preprocessing


@final
@dataclass(frozen=True)
class Recipe:
    """An algorithm with settings, preprocessing and a batch size that were published together."""

    algorithm: str
    settings: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    goals: GoalDrawing | None = None  # None: as the algorithm would draw them
    batch_size: int = 256


def bc_locomotion() -> Recipe:
    """Deterministic behaviour cloning on standardised observations; CORL's any_percent_bc."""
    return Recipe("bc", {"distribution": "deterministic"}, Preprocessing(standardize_observations=True))


def filtered_bc() -> Recipe:
    """Behaviour cloning of the tenth of the *episodes* with the highest return (10 % BC; Chen et al., 2021, arXiv:2106.01345, section 5.1).

    CORL takes a tenth of the episodes too, ranked by discounted returns; the paper as many of the best as hold a tenth of the steps.
    """
    return Recipe("bc", {}, Preprocessing(standardize_observations=True, best_episodes=0.1))


def td3_bc_locomotion() -> Recipe:
    """TD3+BC, arXiv:2106.06860, table 3 and the authors' code: observations standardised with epsilon 1e-3."""
    return Recipe("td3_bc", {"alpha": 2.5}, Preprocessing(standardize_observations=True, observation_epsilon=1e-3))


def td3_bc_antmaze() -> Recipe:
    """TD3+BC in AntMaze as CORL runs it (arXiv:2210.07105): 1 subtracted from the sparse reward."""
    told = td3_bc_locomotion()
    return replace(told, preprocessing=replace(told.preprocessing, reward_shift=-1.0))


def iql_locomotion() -> Recipe:
    """IQL, arXiv:2110.06169, appendix B: expectile 0.7, inverse temperature 3, rewards scaled by 1000 / range of the logged returns."""
    return Recipe("iql", {"expectile": 0.7, "inverse_temperature": 3.0}, Preprocessing(return_range=1000.0))


def iql_pointmaze() -> Recipe:
    """IQL for maze2d as CORL runs it (its paper has none): expectile 0.7, inverse temperature 3, rewards as they are."""
    settings = {"expectile": 0.7, "inverse_temperature": 3.0}
    return Recipe("iql", settings, Preprocessing(standardize_observations=True, observation_epsilon=1e-3))


def iql_antmaze() -> Recipe:
    """IQL, arXiv:2110.06169, appendix B: expectile 0.9, inverse temperature 10, 1 subtracted from the sparse reward."""
    return Recipe("iql", {"expectile": 0.9, "inverse_temperature": 10.0}, Preprocessing(reward_shift=-1.0))


def cql_locomotion() -> Recipe:
    """CQL, arXiv:2006.04779, with the settings of the authors' repository: weight 5, no Lagrange multiplier, three layers."""
    settings = {"conservatism": 5.0, "hidden": (256, 256, 256), "actor_learning_rate": 1e-4, "critic_learning_rate": 3e-4}
    return Recipe("cql", settings)


def cql_antmaze() -> Recipe:
    """CQL for AntMaze as CORL runs it: Lagrange gap 0.8, max-target backup, critics of five layers, rewards 10 r - 5.

    Their multiplier begins at e and multiplies a weight of 5.
    """
    settings = {
        "conservatism": 5 * math.e,
        "lagrange_gap": 0.8,
        "max_target_backup": True,
        "hidden": (256,) * 3,
        "critic_hidden": (256,) * 5,
        "actor_learning_rate": 1e-4,
    }
    return Recipe("cql", settings, Preprocessing(reward_scale=10.0, reward_shift=-5.0))


def bc_atari() -> Recipe:
    """Behaviour cloning from stacked frames: DQN's network (doi:10.1038/nature14236), d3rlpy's learning rate and batches."""
    return Recipe("bc", {"hidden": (512,), "learning_rate": 1e-3}, batch_size=100)


def _filtered_bc(game: str) -> Recipe:
    """10 % BC from stacked frames: `bc_atari` on the tenth of the episodes with the highest return; frames are scaled by the network."""
    return replace(bc_atari(), preprocessing=Preprocessing(best_episodes=0.1))


def cql_atari() -> Recipe:
    """CQL from stacked frames, arXiv:2006.04779, appendix F (1 % of the frames: weight 4, 5e-5, batches of 32), with plain, not quantile, values.

    Rewards are cut to ±1, and the target network is a copy made every 2,000 steps, as there.
    """
    settings = {"hidden": (512,), "conservatism": 4.0, "critic_learning_rate": 5e-5, "target_rate": 1.0, "target_every": 2_000}
    return Recipe("cql", settings, Preprocessing(reward_bound=1.0), batch_size=32)


def cql_pointmaze() -> Recipe:
    """CQL for maze2d as CORL runs it: Lagrange gap 5, whose multiplier begins at e and multiplies a weight of 10; observations standardised."""
    settings = {
        "conservatism": 10 * math.e, "lagrange_gap": 5.0, "hidden": (256, 256, 256), "actor_learning_rate": 3e-5,
        "temperature_learning_rate": 3e-5, "critic_learning_rate": 3e-4,
    }  # fmt: skip
    return Recipe("cql", settings, Preprocessing(standardize_observations=True, observation_epsilon=1e-3))


def bcq_locomotion() -> Recipe:
    """BCQ, arXiv:1812.02900, with the settings of the authors' repository: ten candidates, twins of 400 and 300 units, batches of 100."""
    settings = {"sampled_actions": 10, "acting_candidates": 100, "minimum_weight": 0.75, "perturbation_bound": 0.05, "learning_rate": 1e-3}
    return Recipe("bcq", settings, batch_size=100)


def bcq_discrete() -> Recipe:
    """Discrete BCQ, arXiv:1910.01708, with what the authors' repository takes for tasks that are not Atari: threshold 0.3, batches of 64."""
    return Recipe("bcq", {"threshold": 0.3, "learning_rate": 3e-4, "hidden": (256, 256)}, batch_size=64)


def bcq_atari() -> Recipe:
    """Discrete BCQ from stacked frames, arXiv:1910.01708, with what the authors' repository takes for Atari: 6.25e-5, batches of 32, rewards cut
    to ±1, a target copied every 8,000 steps."""
    settings = {"threshold": 0.3, "learning_rate": 6.25e-5, "hidden": (512,), "target_rate": 1.0, "target_every": 8_000}
    return Recipe("bcq", settings, Preprocessing(reward_bound=1.0), batch_size=32)


def sac_n() -> Recipe:
    """SAC-N, arXiv:2110.01548, where CORL has no number of critics: ten, the fewest it has (HalfCheetah's)."""
    return Recipe("edac", {"ensemble": 10, "diversity": 0.0})


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


def awac_locomotion() -> Recipe:
    """AWAC for MuJoCo as CORL runs it: lambda 1/3 with clipped weights, three layers, standardised observations."""
    settings = {"temperature": 1 / 3, "weights": "clipped", "actor_weight_decay": 0.0, "hidden": (256, 256, 256)}
    return Recipe("awac", settings, Preprocessing(standardize_observations=True, observation_epsilon=1e-3))


def awac_pointmaze() -> Recipe:
    """AWAC for maze2d as CORL runs it: as for MuJoCo, with lambda 0.1."""
    told = awac_locomotion()
    return replace(told, settings=told.settings | {"temperature": 0.1})


def awac_antmaze() -> Recipe:
    """AWAC for AntMaze as CORL runs it: as for maze2d, with 1 subtracted from the sparse reward."""
    told = awac_pointmaze()
    return replace(told, preprocessing=replace(told.preprocessing, reward_shift=-1.0))


def awac_d3rlpy() -> Recipe:
    """AWAC as d3rlpy reproduces its paper (arXiv:2006.09359): lambda 1, normalised weights, four layers, batches of 1,024."""
    return Recipe("awac", {"temperature": 1.0, "hidden": (256,) * 4}, batch_size=1024)


def cal_ql_antmaze() -> Recipe:
    """Cal-QL, arXiv:2303.05479, with the authors' script for AntMaze: Lagrange gap 0.8, critics of four layers, rewards 10 r - 5.

    Their multiplier begins at e and multiplies a weight of 5.
    """
    settings = {
        "conservatism": 5 * math.e,
        "lagrange_gap": 0.8,
        "max_target_backup": True,
        "hidden": (256, 256),
        "critic_hidden": (256,) * 4,
    }
    return Recipe("cal_ql", settings, Preprocessing(reward_scale=10.0, reward_shift=-5.0))


# ReBRAC, arXiv:2305.09836, and CORL's configs/offline/rebrac: (beta_1, beta_2) of the actor and of the critic.
_REBRAC_PENALTIES = {
    "halfcheetah/random": (0.001, 0.1),
    "halfcheetah/medium": (0.001, 0.01),
    "halfcheetah/medium-replay": (0.01, 0.001),
    "halfcheetah/medium-expert": (0.01, 0.1),
    "halfcheetah/expert": (0.01, 0.01),
    "hopper/random": (0.001, 0.01),
    "hopper/medium": (0.01, 0.001),  # the authors' file; CORL's has 0.01 and 0.01
    "hopper/medium-replay": (0.05, 0.5),
    "hopper/medium-expert": (0.1, 0.01),
    "hopper/expert": (0.1, 0.001),  # the paper's; CORL's has 0.1 and 0.1
    "walker2d/random": (0.01, 0.0),
    "walker2d/medium": (0.05, 0.1),
    "walker2d/medium-replay": (0.05, 0.01),
    "walker2d/medium-expert": (0.01, 0.01),
    "walker2d/expert": (0.01, 0.5),
    "antmaze/umaze-play": (0.003, 0.002),  # D4RL's plain antmaze-umaze: one start
    "antmaze/umaze-diverse": (0.003, 0.001),
    "antmaze/medium-play": (0.001, 0.0005),
    "antmaze/medium-diverse": (0.001, 0.0),
    "antmaze/large-play": (0.002, 0.001),
    "antmaze/large-diverse": (0.002, 0.002),
    "pointmaze": (0.003, 0.001),  # D4RL's maze2d, all sizes
    "pen/human": (0.1, 0.5),
    "pen/cloned": (0.05, 0.5),
    "pen/expert": (0.01, 0.01),
    "door/human": (0.1, 0.1),
    "door/cloned": (0.01, 0.1),
    "door/expert": (0.05, 0.01),
    "hammer/human": (0.01, 0.5),
    "hammer/cloned": (0.1, 0.5),
    "hammer/expert": (0.01, 0.01),
    "relocate/human": (0.1, 0.01),
    "relocate/cloned": (0.1, 0.01),
    "relocate/expert": (0.05, 0.01),
}

# EDAC, arXiv:2110.01548, and CORL's configs/offline/edac: (N, eta).
_EDAC_CRITICS = {
    "halfcheetah/medium": (10, 1.0),
    "halfcheetah/medium-replay": (10, 1.0),
    "halfcheetah/medium-expert": (10, 5.0),
    "hopper/medium": (50, 1.0),
    "hopper/medium-replay": (50, 1.0),
    "hopper/medium-expert": (50, 1.0),
    "walker2d/medium": (10, 1.0),
    "walker2d/medium-replay": (10, 1.0),
    "walker2d/medium-expert": (10, 5.0),
    "pointmaze": (10, 0.1),
    "pen/human": (20, 1000.0),
    "pen/cloned": (20, 10.0),
    "pen/expert": (20, 10.0),
    "door": (50, 200.0),  # human, cloned and expert alike
    "hammer": (50, 200.0),
    "relocate": (50, 200.0),
    "antmaze": (10, 1.0),  # all sizes; it arrives nowhere there
}

# SAC-N of the same paper, CORL's configs/offline/sac_n: N.
_SAC_N_CRITICS = {
    "halfcheetah/medium": 10,
    "halfcheetah/medium-replay": 10,
    "halfcheetah/medium-expert": 10,
    "hopper/medium": 500,
    "hopper/medium-replay": 200,
    "hopper/medium-expert": 200,
    "walker2d/medium": 20,
    "walker2d/medium-replay": 20,
    "walker2d/medium-expert": 20,
    "pointmaze": 25,
    "antmaze": 25,
    "pen": 100,
    "door": 100,
    "hammer": 100,
    "relocate": 100,
}


def _rebrac(dataset: str) -> Recipe:
    actor, critic = _REBRAC_PENALTIES[dataset]
    settings: dict[str, Any] = {"actor_penalty": actor, "critic_penalty": critic, "hidden": (256, 256, 256)}
    if dataset.startswith("antmaze/"):
        rates = {"actor_learning_rate": 3e-4, "critic_learning_rate": 5e-5}
        return Recipe("rebrac", settings | rates | {"discount": 0.999}, Preprocessing(reward_scale=100.0))
    rate, size = (1e-3, 1024) if dataset.startswith(("halfcheetah/", "hopper/", "walker2d/")) else (3e-4, 256)
    return Recipe("rebrac", settings | {"actor_learning_rate": rate, "critic_learning_rate": rate}, batch_size=size)


def _edac(dataset: str) -> Recipe:
    ensemble, diversity = _EDAC_CRITICS[dataset]
    return Recipe("edac", {"ensemble": ensemble, "diversity": diversity})


def _sac_n(dataset: str) -> Recipe:
    return Recipe("edac", {"ensemble": _SAC_N_CRITICS[dataset], "diversity": 0.0})


def recipe(name: str) -> Recipe:
    """Returns a recipe by name; raises ConfigError naming the nearest."""
    known = recipes()
    if name not in known:
        raise ConfigError(f"unknown recipe '{name}'.{nearest(name, sorted(known))}")
    return known[name]()


def recipe_of(algorithm: str, name: str) -> Recipe:
    """Returns a recipe of an algorithm; raises ConfigError naming the nearest, or the algorithm that it is for."""
    found = recipe(name)
    if found.algorithm != algorithm:
        raise ConfigError(f"recipe '{name}' is for {found.algorithm}, not {algorithm}; train {found.algorithm} with it")
    return found


def recipes() -> dict[str, Callable[[], Recipe]]:
    """Returns all recipes by name; those tuned to a dataset as `method:dataset`, by its whole name."""
    from stitchrl.recipes import published_diffusion, published_goals, published_planning, published_sequences  # they need a Recipe first

    modules = (sys.modules[__name__], published_diffusion, published_goals, published_planning, published_sequences)
    members = [(name, f, module) for module in modules for name, f in inspect.getmembers(module, inspect.isfunction)]
    tuned: tuple[tuple[str, Callable[[str], Recipe], Iterable[str]], ...] = (
        ("filtered_bc", _filtered_bc, ("breakout", "pong")),
        ("rebrac", _rebrac, _REBRAC_PENALTIES),
        ("edac", _edac, _EDAC_CRITICS),
        ("sac_n", _sac_n, _SAC_N_CRITICS),
        ("diffusion_ql", published_diffusion.diffusion_ql_on, published_diffusion.DIFFUSION_QL_LOCOMOTION),
        ("diffusion_ql", published_diffusion.diffusion_ql_on, published_diffusion.DIFFUSION_QL_ANTMAZE),
        ("diffuser", published_planning.diffuser_on, published_planning.DIFFUSER_PLANS),
        ("decision_diffuser", published_planning.decision_diffuser_on, published_planning.ASKED),
        ("decision_transformer", published_sequences.decision_transformer_on, published_sequences.ASKED),
        ("trajectory_transformer", published_sequences.trajectory_transformer_on, published_sequences.PLANS),
        *((make.__name__, make, published_goals.LOGS) for make in published_goals.METHODS),
    )
    return {name: f for name, f, module in members if f.__module__ == module.__name__ and _is_recipe(name, f)} | {
        f"{method}:{dataset}": partial(make, dataset) for method, make, table in tuned for dataset in table
    }


def _is_recipe(name: str, f: Callable[..., Any]) -> bool:
    """Whether a function makes a recipe without being told anything, and may be called by its name."""
    signature = inspect.signature(f)
    told_nothing = all(parameter.default is not parameter.empty for parameter in signature.parameters.values())
    return not name.startswith("_") and signature.return_annotation == "Recipe" and told_nothing
