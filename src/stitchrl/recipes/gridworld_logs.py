"""Logs of small grid worlds: one map under behaviours of different quality, and one where the best way must be stitched together."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from stitchrl.data.dataset import Dataset
from stitchrl.environments.make import GRIDWORLD
from stitchrl.recipes.dataset_recipe import DatasetRecipe
from stitchrl.recipes.joined_logs import joined

# Exact undiscounted returns within the clock of 100 steps, of uniformly random actions and of the optimal policy; the tests solve for them.
CLIFF_REFERENCE = {"random": -1.0059854, "expert": 0.7595190}
STITCH_REFERENCE = {"random": -1.0383016, "expert": 0.6540038}
STITCH_OPTIONS: dict[str, Any] = {"map": "stitch", "slip": 0.02, "step_cost": 0.02, "prizes": {"g": 0.6}}

# Shares of the behaviours. Noise around one policy would leave it the commonest action everywhere, and imitation unbeatable:
# worse logs mix different policies instead. timid: far around the cliff; astray: to the small prize in the wrong corner.
_MIXTURES: dict[str, Mapping[str, float]] = {
    "expert": {"expert": 1.0},
    "medium": {"timid": 0.5, "astray": 0.5},
    "mixed": {"expert": 0.15, "timid": 0.3, "astray": 0.35, "random": 0.2},
    "random": {"random": 1.0},
}
# level -> what it is, episodes, steps, hash
_LEVELS = {
    "expert": (
        "Slippery grid with a cliff, the optimal policy with 5% random moves: imitation suffices.",
        200,
        2803,
        "f02f72a4d6b59e512db8800dd6b2782529d0db6dcfb186bf9f974cbe94aa88bc",
    ),
    "medium": (
        "Slippery grid with a cliff, a timid policy and one that goes to the wrong prize.",
        500,
        7150,
        "bbb197a222d594ddd047be94df35e7b548cc2240e328e80d1982a51305e09eea",
    ),
    "mixed": (
        "Slippery grid with a cliff, four policies from optimal to random.",
        1_000,
        12_375,
        "b8eed485f7dc46abea4cce2d28ad9e056f236b3b20f9a958839ee034e5d5b87e",
    ),
    "random": (
        "Slippery grid with a cliff, random moves: nearly all covered, nearly all bad.",
        500,
        4765,
        "fdd6e2e88df9f60c1d958becac8e88f82e45a3521efc454a7696538a5ac5b47d",
    ),
}


def recipes() -> list[DatasetRecipe]:
    """Returns `gridworld/{expert,medium,mixed,random,stitch}`."""
    found = [
        DatasetRecipe(
            f"gridworld/{level}",
            text,
            GRIDWORLD,
            steps=steps,
            episodes=episodes,
            seconds=0.2,
            reference=CLIFF_REFERENCE,
            make=partial(_cliff, level, episodes, 201 + i),
            fingerprint=fingerprint,
        )
        for i, (level, (text, episodes, steps, fingerprint)) in enumerate(_LEVELS.items())
    ]
    stitch = DatasetRecipe(
        "gridworld/stitch",
        "Two ways that cross: no episode goes from the start to the goal, and the best ones lead to the lesser prize.",
        GRIDWORLD,
        steps=4_776,
        episodes=300,
        seconds=0.2,
        reference=STITCH_REFERENCE,
        make=_stitch,
        fingerprint="dc014e8ab28c51fbaa649764436fddcf86e87bfdabbbd85cd0c55b316c07297b",
    )
    return [*found, stitch]


def _cliff(level: str, episodes: int, seed: int) -> Dataset:
    from stitchrl.environments.behaviours import MixtureBehaviour, TabularBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.tasks.gridworld import gridworld
    from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, solve, uniform_policy

    world = gridworld()
    # each is optimal, but for another world than this one
    afraid, confused = gridworld(prizes={"C": -5.0}, slip=0.5), gridworld(prizes={"G": -1.0, "g": 1.0})
    best, timid, astray = (greedy_policy(solve(x.mdp)[1]) for x in (world, afraid, confused))
    tables = {
        "expert": (epsilon_policy(best, 0.05), "the optimal policy with 5% random moves"),
        "timid": (epsilon_policy(timid, 0.1), "a timid policy with 10% random moves"),
        "astray": (epsilon_policy(astray, 0.1), "a policy to the small prize with 10% random moves"),
        "random": (uniform_policy(world.mdp), "random moves"),
    }
    mixture = MixtureBehaviour([(share, TabularBehaviour(*tables[name])) for name, share in _MIXTURES[level].items()])
    return collect(GRIDWORLD, mixture, episodes=episodes, seed=seed, name=f"gridworld/{level}", reference=CLIFF_REFERENCE)


def _stitch() -> Dataset:
    import numpy as np

    from stitchrl.environments.behaviours import TabularBehaviour
    from stitchrl.environments.collect import collect
    from stitchrl.environments.tasks.gridworld import gridworld
    from stitchrl.environments.tasks.tabular import epsilon_policy, greedy_policy, solve

    options = STITCH_OPTIONS
    near, far = (gridworld(**{**options, "prizes": prizes}) for prizes in ({"g": 0.6, "G": -1.0}, {"g": -1.0}))
    row = np.arange(near.mdp.states) // near.shape[1]
    # Noise where it cannot lead the first log past the junction: none in its row, some in the corridor below.
    to_g = greedy_policy(solve(near.mdp)[1])
    to_g = np.where((row >= 5)[:, None], epsilon_policy(to_g, 0.06), to_g)
    to_goal = greedy_policy(solve(far.mdp)[1])
    to_goal = np.where((row < 4)[:, None], epsilon_policy(to_goal, 0.2), epsilon_policy(to_goal, 0.06))
    near_log, far_log = TabularBehaviour(to_g, "from S to the near prize"), TabularBehaviour(to_goal, "from B to the goal")
    name, reference = "gridworld/stitch", STITCH_REFERENCE
    first = collect(GRIDWORLD, near_log, episodes=200, seed=0, options=options, name=name, reference=reference)
    start = {**options, "start": "B"}
    second = collect(GRIDWORLD, far_log, episodes=100, seed=100, options=start)
    provenance = {"parts": [first.metadata["provenance"], {**second.metadata["provenance"], "environment_options": start}]}
    return joined([first, second], provenance=provenance)
