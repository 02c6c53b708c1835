"""Atari from demonstrations: Breakout and Pong played by small agents of our own, logged as frames.

The agents see the places of ball and paddle (environments/atari_positions.py). Breakout's are our online Q-learning
(benchmarks/behaviours/locomotion.py trained them, ship.py shipped them), Pong's a controller whose numbers were searched
(environments/pong_controllers.py). What is logged is what others learn from: four stacked grey frames of 84 x 84 pixels
(environments/atari.py), stored once each.
"""

from __future__ import annotations

from functools import partial

from stitchrl.data.dataset import Dataset
from stitchrl.environments.atari_positions import GAMES, Game
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.fingerprints import ATARI, FINGERPRINTS, ROLLED_OUT

MIXTURES = {"mixed": {"expert": 0.4, "medium": 0.4, "random": 0.2}, "expert": {"expert": 1.0}}
_TEXTS = {
    "mixed": "a good player, one half as good and random actions, by the game",
    "expert": "a good player, a tenth of its actions random",
}
STEPS: dict[Game, dict[str, int]] = {"breakout": {"mixed": 12_000, "expert": 8_000}, "pong": {"mixed": 16_000, "expert": 8_000}}
_PARALLEL: dict[Game, int] = {"breakout": 4, "pong": 8}  # games at a time: Pong's are long, and each has one behaviour
EPSILON = 0.1  # of the agents' actions are random: what goes wrong is seen to be mended
_BYTES = 84 * 84 + 40  # of a step
# random: 40 games of uniformly random actions; expert: the shipped agent without random actions (benchmarks/behaviours/results.jsonl)
REFERENCES: dict[Game, dict[str, float]] = {"breakout": {"random": 1.15, "expert": 26.9}, "pong": {"random": -20.4, "expert": 8.2}}


def recipes() -> list[DatasetRecipe]:
    """Returns `breakout/{mixed,expert}` and `pong/{mixed,expert}`."""
    return [
        DatasetRecipe(
            f"{game}/{level}",
            f"Atari's {game.capitalize()}, frames: {_TEXTS[level]}.",
            GAMES[game],
            steps=STEPS[game][level],
            episodes=None,
            seconds=round(STEPS[game][level] / 500),
            reference=REFERENCES[game],
            make=partial(_make, game, level, 701 + 10 * i + j),
            fingerprint=FINGERPRINTS.get(f"{game}/{level}"),
            versions=ATARI,
            revision=ROLLED_OUT if game == "breakout" else 1,  # Pong's players are no networks
            megabytes=STEPS[game][level] * _BYTES / 1e6,
        )
        for i, game in enumerate(REFERENCES)
        for j, level in enumerate(MIXTURES)
    ]


def _make(game: Game, level: str, seed: int) -> Dataset:
    from stitchrl.environments.behaviours import MixtureBehaviour, NoisyBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make, spec_of
    from stitchrl.recipes.named_behaviours import behaviour

    environment = make(GAMES[game])
    spec = spec_of(environment)
    parts = []
    for name, share in MIXTURES[level].items():
        inner = behaviour(name if name == "random" else f"{game}-{name}", spec, environment)
        parts.append((share, inner if name == "random" else NoisyBehaviour(inner, spec, epsilon=EPSILON)))
    environment.close()
    return collect(
        GAMES[game],
        MixtureBehaviour(parts),
        steps=STEPS[game][level],
        seed=seed,
        parallel=_PARALLEL[game],
        name=f"{game}/{level}",
        reference=REFERENCES[game],
    )
