"""Reference returns that turn a return into a normalised score: 0 is a random policy, 100 the reference expert.

The constants are facts measured by the authors of D4RL (Fu et al., 2020, arXiv:2004.07219; its file d4rl/infos.py). They were measured
in the environments of that time; Gymnasium's later versions differ in details, so scores in them are close to, not equal to, D4RL's. In its
PointMaze our own waypoint walkers score 150 to 230. Its AntMaze pays for every step at the goal unless made with `continuing_task=False`: only
then is its return D4RL's, 1 for an arrival, and has this reference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike

from stitchrl.core.errors import ConfigError


@final
@dataclass(frozen=True)
class Reference:
    """Mean undiscounted returns of a random policy and of the reference expert."""

    random: float
    expert: float
    source: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.random) and math.isfinite(self.expert)) or self.random == self.expert:
            raise ConfigError(f"reference returns are random {self.random} and expert {self.expert}; expected two different finite numbers")


_D4RL: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "door": (-56.512833, 2880.5693087298737),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
}
_ANT_MAZE = r"AntMaze_(UMaze|Medium|Large)(_Diverse_GR?)?"
_GYMNASIUM: tuple[tuple[str, str], ...] = (  # the id without its version -> D4RL's name; the first match counts
    (r"HalfCheetah", "halfcheetah"),
    (r"Hopper", "hopper"),
    (r"Walker2d", "walker2d"),
    (r"Ant", "ant"),
    (r"PointMaze_Open", "maze2d-open"),
    (r"PointMaze_UMaze", "maze2d-umaze"),
    (r"PointMaze_Medium", "maze2d-medium"),
    (r"PointMaze_Large", "maze2d-large"),
    (r"PointMaze_OpenDense", "maze2d-open-dense"),
    (r"PointMaze_UMazeDense", "maze2d-umaze-dense"),
    (r"PointMaze_MediumDense", "maze2d-medium-dense"),
    (r"PointMaze_LargeDense", "maze2d-large-dense"),
    (_ANT_MAZE, "antmaze"),
    (r"FrankaKitchen", "kitchen"),
    (r"AdroitHandPen", "pen"),
    (r"AdroitHandDoor", "door"),
    (r"AdroitHandHammer", "hammer"),
    (r"AdroitHandRelocate", "relocate"),
)
_VERSION = re.compile(r"-v\d+$")


def d4rl_reference(name: str) -> Reference | None:
    """D4RL's constants for one of its own names, such as `hopper-medium-v2` or `maze2d-large-dense-v1`; None where it has none."""
    bare = _VERSION.sub("", name.removeprefix("D4RL/"))
    for family in sorted(_D4RL, key=len, reverse=True):
        if bare == family or bare.startswith(family + "-"):
            return Reference(*_D4RL[family], source=f"D4RL {family}")
    return None


def reference_for(
    environment: str, metadata: Mapping[str, Any] | None = None, options: Mapping[str, Any] | None = None
) -> Reference | None:
    """Returns the reference of a task: what the data's metadata carry ({"reference": {"random", "expert"}}), else D4RL's, else None.

    environment: a Gymnasium id (`HalfCheetah-v5`, also `module:Id-v0`) or a D4RL name; options: those it is opened with. Data that name
    their environment carry the reference of that one alone. Raises ConfigError for metadata that hold no two numbers.
    """
    data = metadata or {}
    named, carried = data.get("environment"), data.get("reference")
    own = named is None or (named, data.get("environment_options") or {}) == (environment, dict(options or {}))
    if carried is not None and own:
        try:
            return Reference(float(carried["random"]), float(carried["expert"]), str(carried.get("source", "data")))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"metadata.reference is {carried!r}; expected {{'random': number, 'expert': number}} or null") from error
    bare = _VERSION.sub("", environment.rpartition(":")[2])
    for pattern, family in _GYMNASIUM:
        if re.fullmatch(pattern, bare):
            if pattern == _ANT_MAZE and (options or {}).get("continuing_task", True):
                return None
            return Reference(*_D4RL[family], source=f"D4RL {family}")
    return d4rl_reference(environment)


def normalized_score(returns: ArrayLike, reference: Reference) -> np.ndarray:
    """100 (x - random) / (expert - random) of undiscounted returns of any shape."""
    return np.asarray(100.0 * (np.asarray(returns, np.float64) - reference.random) / (reference.expert - reference.random))
