"""A log of highway driving in which some drive with care and some do not: the reckless are faster, until they collide."""

from __future__ import annotations

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.dataset_recipe import DatasetRecipe

ENVIRONMENT = "stitchrl/Highway-v0"
EPISODES = 150
SHARES = {"highway-cautious": 0.5, "highway-reckless": 0.3, "random": 0.2}
_VERSIONS = {"highway-env": "1.12.1", "numpy": "2.4.6"}
_FINGERPRINT = "0e00e496a5623c5faa3ab34aaa585ea9107b04715f008ec40edd3183ce53b511"


def recipes() -> list[DatasetRecipe]:
    """Returns `highway/mixed`."""
    return [
        DatasetRecipe(
            "highway/mixed",
            "Driving among others: half cautious drivers, the others reckless or random; a collision ends the drive and costs 5.",
            ENVIRONMENT,
            steps=2_822,
            episodes=EPISODES,
            seconds=60,
            # of 150 episodes (± 0.2), and of the log's 79 cautious ones, a tenth of whose actions are random (± 0.4)
            reference={"random": -2.2, "expert": 1.7},
            make=_make,
            fingerprint=_FINGERPRINT,
            versions=_VERSIONS,
            revision=2,  # before, observations had a processor's last digits
        )
    ]


def _make() -> Dataset:
    from stitchrl.environments.behaviours import MixtureBehaviour, NoisyBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.make import make, spec_of
    from stitchrl.recipes.named_behaviours import behaviour

    environment = make(ENVIRONMENT)
    spec = spec_of(environment)
    parts = []
    for name, share in SHARES.items():
        inner = behaviour(name, spec, environment)
        parts.append((share, inner if name == "random" else NoisyBehaviour(inner, spec, epsilon=0.1)))
    environment.close()
    reference = recipes()[0].reference
    return collect(ENVIRONMENT, MixtureBehaviour(parts), episodes=EPISODES, seed=601, name="highway/mixed", reference=reference)
