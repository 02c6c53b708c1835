"""A Gymnasium environment over a finite Markov decision process, whose exact values are therefore known."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.tabular import TabularMDP


@final
class TabularEnvironment(gymnasium.Env[int, int]):
    """Observations and actions are integers. `reset(options={"state": s})` starts elsewhere than the task does."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, mdp: TabularMDP) -> None:
        self.mdp = mdp
        self.observation_space = spaces.Discrete(mdp.states)  # type: ignore[assignment]
        self.action_space = spaces.Discrete(mdp.actions)  # type: ignore[assignment]
        self._state: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        unknown = set(options or {}) - {"state"}
        if unknown:
            raise ConfigError(f"reset option {sorted(unknown)[0]!r} is unknown; expected 'state'")
        state = (options or {}).get("state")
        if state is None:
            state = self.np_random.choice(self.mdp.states, p=self.mdp.initial)
        elif not 0 <= int(state) < self.mdp.states or self.mdp.terminal[int(state)]:
            raise ConfigError(f"reset option state={state}; expected one of {self.mdp.states} states that is not terminal")
        self._state = int(state)
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise ConfigError("step before reset, or after the episode ended; call reset first")
        if not 0 <= int(action) < self.mdp.actions:
            raise ConfigError(f"action {action} does not exist; expected 0 … {self.mdp.actions - 1}")
        row = self._state * self.mdp.actions + int(action)
        first, last = self.mdp.transition.indptr[row : row + 2]
        cumulative = np.cumsum(self.mdp.transition.data[first:last])
        outcome = first + min(int(np.searchsorted(cumulative, self.np_random.random(), side="right")), last - first - 1)
        state, reward = int(self.mdp.transition.indices[outcome]), float(self.mdp.outcome_rewards[outcome])
        ended = bool(self.mdp.terminal[state])
        self._state = None if ended else state
        return state, reward, ended, False, {}
