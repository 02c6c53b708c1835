"""A Gymnasium environment over the linear-quadratic-Gaussian task, one state at a time."""

from __future__ import annotations

from typing import Any, final

import gymnasium
import numpy as np
from gymnasium import spaces

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.lqg import BOUND, LQG, advance

Array = np.ndarray[Any, np.dtype[Any]]


@final
class LQGEnvironment(gymnasium.Env[Array, Array]):
    """Observations float32 `[2]`, actions float32 `[1]`; an action outside the declared bounds acts as it is."""

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(self, stop: float = 0.1, discount: float = 0.97) -> None:
        self.task = LQG(stop=stop, discount=discount)
        self.observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = spaces.Box(-BOUND, BOUND, (1,), np.float32)
        self._state: Array | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        unknown = set(options or {}) - {"state"}
        if unknown:
            raise ConfigError(f"reset option {sorted(unknown)[0]!r} is unknown; expected 'state'")
        given = (options or {}).get("state")
        drawn = self.np_random.multivariate_normal(self.task.start_mean, self.task.start_covariance)
        state = drawn if given is None else np.asarray(given, np.float64)
        if state.shape != (2,) or not np.isfinite(state).all():
            raise ConfigError(f"reset option state={given}; expected two finite numbers")
        self._state = state
        return state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        if self._state is None:
            raise ConfigError("step before reset, or after the episode ended; call reset first")
        push = np.asarray(action, np.float64).reshape(-1)
        if push.shape != (1,) or not np.isfinite(push).all():
            raise ConfigError(f"action {action} is not one finite number")
        following, reward, ended = advance(self.task, self._state[None], push, self.np_random)
        self._state = None if ended[0] else following[0]
        return following[0].astype(np.float32), float(reward[0]), bool(ended[0]), False, {}
