"""OGBench's mazes, walks that must be put together and large ones: learning on two levels reaches goals that one level does not."""

from __future__ import annotations

import pytest

from stitchrl.evaluation.playing import play
from stitchrl.experiment import plan
from stitchrl.recipes import datasets, published
from stitchrl.training.learner import Training
from tests.known_answers.learning import learn

pytest.importorskip("ogbench")


def reached(method: str, name: str, steps: int) -> float:
    """Returns the share of OGBench's five goals that two seeds reach, after a few of its million steps with small networks."""
    recipe = published.recipe(f"{method}:{name}")
    faster = {} if method == "gcbc" else {"target_rate": 0.05}
    made = plan(
        recipe.algorithm, settings=dict(recipe.settings) | {"hidden": (128, 128)} | faster, goals=recipe.goals, seeds=[0, 1],
        preprocessing=recipe.preprocessing, training=Training(steps=steps, batch_size=256, compile="on", threads=1),
    )  # fmt: skip
    log = datasets.load(name)
    _, agent = learn(made, log)
    found = play(agent, str(log.metadata["environment"]), episodes=50, seed=10_000, parallel=25, processes=1).successes
    assert found is not None
    return float(found.mean())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_levels_put_walks_together_where_one_does_not() -> None:
    """benchmarks/scores/GOALS.md, three seeds: HIQL 59 ± 4 (once more 57 ± 9), GCIQL 9 ± 5, GCBC 44 ± 6; OGBench's own 74, 21 and 23."""
    hiql, gciql, gcbc = (reached(method, "pointmaze/stitch", 40_000) for method in ("hiql", "gciql", "gcbc"))
    assert hiql > max(gciql, gcbc) + 0.05
    assert hiql > 0.45 and gcbc > 0.23, "not only apart, but as far as they came"


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_in_a_large_maze_two_levels_reach_more_than_one() -> None:
    """benchmarks/scores/GOALS.md, three seeds: HIQL 55 ± 4, GCIQL 31 ± 1, GCBC 28 ± 14, which is apart from neither; OGBench's own 58, 34 and 29."""
    hiql, gciql = (reached(method, "pointmaze/large-navigate", 40_000) for method in ("hiql", "gciql"))
    assert hiql > gciql + 0.05
    assert hiql > 0.4 and gciql > 0.2


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_ants_put_walks_together_on_two_levels_alone() -> None:
    """benchmarks/scores/GOALS.md, two seeds: HIQL 13 ± 5, GCIQL and GCBC 0; OGBench's own 67, 7 and 3."""
    hiql, gciql, gcbc = (reached(method, "antmaze/large-stitch", 40_000) for method in ("hiql", "gciql", "gcbc"))
    assert hiql > max(gciql, gcbc) + 0.05


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_values_put_walks_of_a_large_maze_together_where_cloning_does_not() -> None:
    """benchmarks/scores/GOALS.md, three seeds: HIQL 25 ± 6, GCIQL 23 ± 8, GCBC 0; OGBench's own 13, 31 and 7."""
    hiql, gciql, gcbc = (reached(method, "pointmaze/large-stitch", 20_000) for method in ("hiql", "gciql", "gcbc"))
    assert min(hiql, gciql) > max(gcbc + 0.05, 0.1)
    assert hiql > gciql - 0.1, "HIQL is not below GCIQL, but for what two seeds are apart"
