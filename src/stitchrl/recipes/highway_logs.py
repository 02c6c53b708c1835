"""A log of highway driving in which some drive with care and some do not: the reckless are faster, until they collide."""

from __future__ import annotations

from stitchrl.data.dataset import Dataset
from stitchrl.recipes.dataset_recipe import DatasetRecipe

ENVIRONMENT = "stitchrl/Highway-v0"
EPISODES = 150
SHARES = {"highway-cautious": 0.5, "highway-reckless": 0.3, "random": 0.2}
HIGHWAY_ENV = "1.12.1"


def recipes() -> list[DatasetRecipe]:
    """Returns `highway/mixed`."""
    return [
        DatasetRecipe(
            "highway/mixed",
            "Driving among others: half cautious drivers, a third reckless ones and some chance; a collision ends the drive and costs 5.",
            ENVIRONMENT,
            steps=2_900,
            episodes=EPISODES,
            seconds=150,
            reference={"random": -3.0, "expert": 2.7},
            make=_make,
            versions={"highway-env": HIGHWAY_ENV},
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
