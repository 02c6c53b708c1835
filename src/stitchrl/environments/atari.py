"""Atari 2600 games as agents see them since DQN (Mnih et al., 2015): four-fold frame skip, 84 x 84 grey pixels, four frames stacked.

Gymnasium's AtariPreprocessing and FrameStackObservation around the id's own game: sticky actions are as the id says (v5: 0.25, as
Machado et al., 2018, arXiv:1709.06009, advise). The first frame of an episode is repeated until there are enough.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stitchrl.core.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium

DEFAULTS: dict[str, Any] = {"frame_skip": 4, "frame_stack": 4, "noop_max": 30, "screen_size": 84, "terminal_on_life_loss": False}


def is_atari(id: str, options: dict[str, Any]) -> bool:
    """Returns whether an id is a game of the Arcade Learning Environment, seen by its pixels."""
    return id.startswith("ALE/") and options.get("obs_type", "rgb") != "ram"


def open_atari(id: str, options: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Returns the game; options that are not in `DEFAULTS` go to ALE, but `max_episode_steps`, which counts the agent's steps, not ALE's frames.

    Raises ConfigError for ALE's own frameskip, and what `gymnasium.make` and its wrappers raise.
    """
    import gymnasium
    from ale_py import ALEInterface, LoggerMode
    from gymnasium.wrappers import AtariPreprocessing, FrameStackObservation, TimeLimit

    ALEInterface.setLoggerMode(LoggerMode.Error)  # no banner
    if "frameskip" in options:
        raise ConfigError(
            f"environment {id!r} is seen here as agents have seen it since DQN ({', '.join(DEFAULTS)}), not with ALE's own frameskip "
            f"({options['frameskip']}), as a log of its raw frames would have it; train offline from such a log (--env none)"
        )
    chosen = DEFAULTS | {name: value for name, value in options.items() if name in DEFAULTS}
    depth = chosen.pop("frame_stack")
    rest = {name: value for name, value in options.items() if name not in DEFAULTS}
    limit = rest.pop("max_episode_steps", None)
    seen = AtariPreprocessing(gymnasium.make(id, disable_env_checker=True, frameskip=1, **rest), **chosen)
    return FrameStackObservation(seen if limit in (None, -1) else TimeLimit(seen, limit), depth)  # -1: none, as in gymnasium.make


def frame_stack(environment: gymnasium.Env[Any, Any]) -> int | None:
    """Returns of how many frames an environment's observations are stacked, the first of an episode repeated; None where they are not."""
    from gymnasium.wrappers import FrameStackObservation

    if isinstance(environment, FrameStackObservation) and environment.padding_type == "reset":
        shape = environment.observation_space.shape
        return shape[0] if shape is not None and len(shape) == 3 and environment.observation_space.dtype == "uint8" else None
    return None
