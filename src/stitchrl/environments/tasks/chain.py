"""A chain of states between two ends, walked one state at a time: the gambler's ruin, whose values have a closed form.

States 0 (left end) … length + 1 (right end); both ends are terminal, episodes begin in the middle. Actions: 0 left, 1 right; with
probability `slip` the other way. The right end earns 1, the left end 0, every step costs `step_cost`.
"""

from __future__ import annotations

import numpy as np

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.tabular import TabularMDP

STEP_LIMIT = 100
DISCOUNT = 0.97


def chain(length: int = 5, slip: float = 0.1, step_cost: float = 0.0, discount: float = DISCOUNT) -> TabularMDP:
    """Returns the chain of `length` inner states. Raises ConfigError for a length below 1 or a slip outside [0, 1]."""
    if length < 1 or not 0 <= slip <= 1:
        raise ConfigError(f"chain with length {length} and slip {slip}; expected a length of at least 1 and a slip from 0 to 1")
    states = length + 2
    inner = np.arange(1, length + 1)
    transition = np.zeros((states, 2, states))
    for action, move in enumerate((-1, 1)):
        transition[inner, action, inner + move] = 1 - slip
        transition[inner, action, inner - move] = slip
    reward = np.full((states, 2, states), -step_cost)
    reward[:, :, -1] += 1.0
    terminal = np.zeros(states, np.bool_)
    terminal[[0, -1]] = True
    return TabularMDP.from_dense(transition, reward, np.eye(states)[(states - 1) // 2], terminal, discount)
