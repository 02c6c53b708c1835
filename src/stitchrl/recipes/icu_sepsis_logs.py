"""Logs of ICU-Sepsis, an MDP estimated from real intensive-care records, whose every policy has an exactly known value.

The mixed log ships with the package, so that the quickstart begins at once; the tests make it anew and compare. After a change:
`sources.npz.write(recipe.make(), recipe.shipped, compressed=True)`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from stitchrl.data.dataset import Dataset
from stitchrl.environments.make import ICU_SEPSIS
from stitchrl.recipes.dataset_recipe import DatasetRecipe

REFERENCE = {"random": 0.780071, "expert": 0.875142}  # exact survival under uniformly random and under optimal treatment


def recipes() -> list[DatasetRecipe]:
    """Returns `icu-sepsis/{expert,mixed,random}`."""
    return [
        DatasetRecipe(
            "icu-sepsis/expert",
            "Sepsis treatment, 5,000 stays under the best policy with 10% random doses: imitation suffices.",
            ICU_SEPSIS,
            steps=54_482,
            episodes=5_000,
            seconds=3,
            reference=REFERENCE,
            make=partial(_make, "icu-sepsis/expert", 5_000, 101),
            fingerprint="11352b7470e9312b6848cd0127db3840edc86e6e5650bed1540b9d774c4dc775",
        ),
        DatasetRecipe(
            "icu-sepsis/mixed",
            "Sepsis treatment, 10,000 stays under four policies: clinicians, their commonest dose, a good policy, chance. Made for comparing.",
            ICU_SEPSIS,
            steps=96_233,
            episodes=10_000,
            seconds=3,
            reference=REFERENCE,
            make=partial(_make, "icu-sepsis/mixed", 10_000, 102),
            fingerprint="38a8ec76b218fea03b5ac60c094c0248d595d8b4605c08092d22166b9fcd610f",
            shipped=Path(__file__).parent / "shipped" / "icu-sepsis-mixed.npz",
        ),
        DatasetRecipe(
            "icu-sepsis/random",
            "Sepsis treatment, 5,000 stays under uniformly random doses: every pair is thinly covered.",
            ICU_SEPSIS,
            steps=47_738,
            episodes=5_000,
            seconds=3,
            reference=REFERENCE,
            make=partial(_make, "icu-sepsis/random", 5_000, 103),
            fingerprint="913d69d8e8547b7671b54160317dcd46a93c00b9d15b6c4576396747a9f62d56",
        ),
    ]


def _make(name: str, episodes: int, seed: int) -> Dataset:
    import numpy as np

    from stitchrl.environments.behaviours import MixtureBehaviour, TabularBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.tasks.icu_sepsis import icu_sepsis
    from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, solve, uniform_policy

    task = icu_sepsis()
    random = TabularBehaviour(uniform_policy(task.mdp), "uniformly random doses")
    if name.endswith("random"):
        return collect(ICU_SEPSIS, random, episodes=episodes, seed=seed, name=name, reference=REFERENCE)
    good = TabularBehaviour(epsilon_policy(greedy_policy(solve(task.mdp)[1]), 0.1), "the best policy with 10% random doses")
    if name.endswith("expert"):
        return collect(ICU_SEPSIS, good, episodes=episodes, seed=seed, name=name, reference=REFERENCE)
    # Four policies, so that the commonest action of the log is not the best one: else imitation could not be beaten. Two of them are
    # concentrated, so that the best action is seen often enough to be known as such; 25 × 713 pairs get 95,000 steps, most of them few.
    clinicians = TabularBehaviour(task.clinicians, "clinicians")
    habit = TabularBehaviour(np.eye(task.mdp.actions)[task.clinicians.argmax(1)], "the clinicians' commonest dose")
    mixture = MixtureBehaviour([(0.2, clinicians), (0.4, habit), (0.25, good), (0.15, random)])
    return collect(ICU_SEPSIS, mixture, episodes=episodes, seed=seed, name=name, reference=REFERENCE)
