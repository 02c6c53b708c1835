"""What policies earn beside what they are asked for: several target returns of a return-conditioned policy, all in one rollout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from stitchrl.agent import Agent
from stitchrl.core.errors import ConfigError
from stitchrl.data.transforms import return_scale
from stitchrl.evaluation.playing import Player
from stitchrl.evaluation.rollout import rollout
from stitchrl.evaluation.slots import Environment

TARGETS = 6  # asked for where none are named, from the log's lowest return to its highest


@final
@dataclass(frozen=True)
class AskedReturns:
    """Returns in the task's units, undiscounted: `asked [G]`, and of each seed and target those of its episodes, `returns [S, G, episodes]`."""

    asked: np.ndarray
    returns: np.ndarray
    lengths: np.ndarray  # [S, G, episodes] steps
    logged: tuple[float, float] | None  # lowest and highest return of the log's episodes; None where the policy does not know
    seeds: tuple[int, ...]
    seconds: float

    def record(self, environment: str) -> dict[str, Any]:
        """Returns it as plain JSON values."""
        return {
            "environment": environment,
            "seeds": list(self.seeds),
            "episodes": self.returns.shape[2],
            "asked": self.asked.tolist(),
            "returns": self.returns.tolist(),
            "lengths": self.lengths.tolist(),
            "logged": None if self.logged is None else list(self.logged),
            "rollout_seconds": self.seconds,
        }


def asked_returns(
    agent: Agent,
    environment: Environment,
    targets: Sequence[float] | None = None,
    *,
    episodes: int = 10,
    sampled: bool = False,
    parallel: int = 10,
    seed: int = 0,
    **options: Any,
) -> AskedReturns:
    """Returns what each seed's policy earns where it is asked for each of the targets, in the same episodes for all of them.

    targets: in the task's units of reward; None: six from the lowest to the highest return of the log. `options` are those of `rollout`.
    Raises ConfigError for a policy that cannot be asked, and where its rewards were shifted.
    """
    scale, logged = _scale(agent), _logged(agent)
    if targets is None and logged is None:
        raise ConfigError(f"a policy of '{agent.name}' does not know the returns of its log; name the targets")
    try:
        asked = np.linspace(*logged, TARGETS) if targets is None and logged is not None else np.asarray(targets, np.float64)
    except (TypeError, ValueError):
        asked = np.zeros(0)
    if asked.ndim != 1 or not asked.size or not np.isfinite(asked).all():
        raise ConfigError(f"the targets are {targets}; expected a list of at least one finite return")
    width = min(parallel, episodes)
    player = Player(agent, sampled, len(asked), seed=seed)
    try:
        _ask(agent, torch.from_numpy(np.repeat(asked * scale, width)))
        found = rollout(
            player, environment, seeds=[seed for seed in agent.seeds for _ in asked], episodes=episodes, parallel=parallel, earned=player.earned,
            seed=seed, **options,
        )  # fmt: skip
    finally:
        _ask(agent, None)
    shape = (len(agent.seeds), len(asked), episodes)
    return AskedReturns(asked, found.returns.reshape(shape), found.lengths.reshape(shape), logged, agent.seeds, found.seconds)


def _ask(agent: Agent, returns: torch.Tensor | None) -> None:
    try:
        agent.policy.ask(returns)
    except TypeError:
        raise ConfigError(f"a policy of '{agent.name}' cannot be asked for a return; evaluate it without targets") from None


def _scale(agent: Agent) -> float:
    """What a return is multiplied by before the policy hears of it."""
    scale = return_scale(agent.transforms)
    if scale is None:
        raise ConfigError(
            "the policy learned from shifted rewards, whose returns grow with an episode's length: no target has a meaning in the task's units; "
            "train without --preprocessing.reward-shift"
        )
    return scale


def _logged(agent: Agent) -> tuple[float, float] | None:
    """The lowest and highest return of the log's episodes in the task's units, where the policy holds them as a constant."""
    held = [value for name, value in agent.parameters.items() if name.rpartition(".")[2] == "logged_returns"]
    if not held:
        return None
    low, high = sorted((held[0].reshape(-1, 2)[0].double().cpu().numpy() / _scale(agent)).tolist())
    return low, high
