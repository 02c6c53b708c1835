"""Published settings of methods that reach goals: OGBench's commands (Park et al., 2024, arXiv:2410.20092; hyperparameters.sh).

A method's own name is its settings for AntMaze's `navigate` logs; `METHOD:LOG` those for one of our logs of OGBench's kinds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from stitchrl.core.goals import GoalDrawing
from stitchrl.recipes.published import Recipe

Kind = Literal["navigate", "stitch", "explore"]
# Shares of the actor's goals that are later states of the episode; the others are any states of the log.
_ACTOR_FUTURE: dict[Kind, float] = {"navigate": 1.0, "stitch": 0.5, "explore": 0.0}
LOGS = (
    *(f"pointmaze/{size}{kind}" for size in ("", "large-") for kind in ("navigate", "stitch")),
    *(f"antmaze/{size}-{kind}" for size in ("medium", "large") for kind in ("navigate", "stitch", "explore")),
)
# Weights of cloning (of half the squared error), by task and kind: GCIQL, QRL, CRL.
_CLONING: dict[tuple[str, Kind], tuple[float, float, float]] = {
    ("pointmaze", "navigate"): (0.003, 0.0003, 0.03),
    ("pointmaze", "stitch"): (0.003, 0.0003, 0.03),
    ("antmaze", "navigate"): (0.3, 0.003, 0.1),
    ("antmaze", "stitch"): (0.3, 0.003, 0.1),
    ("antmaze", "explore"): (0.01, 0.001, 0.003),
}


_ANT = "antmaze/medium-navigate"


def gcbc(log: str = _ANT) -> Recipe:
    """Goal-conditioned behaviour cloning: goals are later states of the episode, whatever the log's kind; the mean is clipped, not squashed."""
    return Recipe("bc", {"hidden": (512, 512, 512), "distribution": "clipped"}, goals=GoalDrawing(hindsight=True), batch_size=1024)


def gcivl(log: str = _ANT) -> Recipe:
    """GCIVL: expectile 0.9, inverse temperature 10."""
    return Recipe("gcivl", {"expectile": 0.9, "inverse_temperature": 10.0}, goals=_drawing(log), batch_size=1024)


def gciql(log: str = _ANT) -> Recipe:
    """GCIQL: expectile 0.9, the critic's gradient beside cloning with weight 0.3 (0.003 on point mazes, 0.01 on explore)."""
    settings = {
        "expectile": 0.9, "actor_loss": "ddpg_bc", "bc_weight": _CLONING[_kind(log)][0], "layer_norm": True, "hidden": (512, 512, 512),
        "actor_schedule": "constant",
    }  # fmt: skip
    return Recipe("iql", settings, goals=_drawing(log), batch_size=1024)


def hiql(log: str = _ANT) -> Recipe:
    """HIQL: expectile 0.7, both inverse temperatures 3 (10 on explore), subgoals 25 steps ahead, 10 dimensions."""
    sharpness = 10.0 if _kind(log)[1] == "explore" else 3.0
    temperatures = {"high_inverse_temperature": sharpness, "low_inverse_temperature": sharpness}
    return Recipe("hiql", {"expectile": 0.7, "representation": 10} | temperatures, goals=_drawing(log), batch_size=1024)


def qrl(log: str = _ANT) -> Recipe:
    """QRL: an interval quasimetric of 512 dimensions, slack 0.05, cloning with weight 0.003 (0.0003 on point mazes, 0.001 on explore)."""
    anywhere = replace(_drawing(log), value_current=0.0, value_future=0.0, value_random=1.0)
    return Recipe("qrl", {"latent": 512, "slack": 0.05, "bc_weight": _CLONING[_kind(log)][1]}, goals=anywhere, batch_size=1024)


def crl(log: str = _ANT) -> Recipe:
    """CRL: 512 dimensions, the gradient of log Q beside cloning with weight 0.1 (0.03 on point mazes, 0.003 on explore)."""
    later = replace(_drawing(log), value_current=0.0, value_future=1.0, value_random=0.0)
    return Recipe("crl", {"latent": 512, "bc_weight": _CLONING[_kind(log)][2]}, goals=later, batch_size=1024)


METHODS = (gcbc, gcivl, gciql, hiql, qrl, crl)


def _kind(log: str) -> tuple[str, Kind]:
    """The task of one of `LOGS`, and how its walks were made."""
    task, _, name = log.partition("/")
    return task, "stitch" if name.endswith("stitch") else "explore" if name.endswith("explore") else "navigate"


def _drawing(log: str) -> GoalDrawing:
    future = _ACTOR_FUTURE[_kind(log)[1]]
    return GoalDrawing(hindsight=True, actor_future=future, actor_random=1.0 - future)
