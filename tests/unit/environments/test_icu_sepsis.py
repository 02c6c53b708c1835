"""ICU-Sepsis against the published task: exact values, and the package's own environment."""

import warnings

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError
from stitchrl.environments.make import ICU_SEPSIS, make, mdp_of, spec_of
from stitchrl.environments.tasks.icu_sepsis import VALUES, icu_sepsis
from stitchrl.environments.tasks.tabular import policy_value, solve, uniform_policy


def test_known_exact_values() -> None:
    task = icu_sepsis()
    assert policy_value(task.mdp, uniform_policy(task.mdp)) == pytest.approx(VALUES["uniform"], abs=1e-5)
    assert policy_value(task.mdp, task.clinicians) == pytest.approx(VALUES["clinicians"], abs=1e-5)
    values, _ = solve(task.mdp)
    assert task.mdp.initial @ values == pytest.approx(VALUES["optimum"], abs=1e-5)


def test_rewards_are_survival_alone() -> None:
    mdp = icu_sepsis().mdp
    alive = np.repeat(~mdp.terminal, mdp.actions).repeat(np.diff(mdp.transition.indptr))
    np.testing.assert_array_equal(mdp.outcome_rewards[alive], mdp.transition.indices[alive] == 714)


def test_inadmissible_actions_move_as_the_mean_of_the_admissible_ones() -> None:
    task = icu_sepsis()
    rows = task.mdp.transition.toarray().reshape(716, 25, 716)
    for state in (0, 1, 200, 712):
        allowed = task.admissible[state]
        assert 0 < allowed.sum() < 25
        np.testing.assert_allclose(
            rows[state, ~allowed], np.broadcast_to(rows[state, allowed].mean(0), (25 - allowed.sum(), 716)), atol=1e-12
        )


def test_inadmissible_actions_may_end_in_death() -> None:
    mean, strict = icu_sepsis().mdp, icu_sepsis(inadmissible="terminate")
    assert strict.mdp.initial @ solve(strict.mdp)[0] == pytest.approx(VALUES["optimum"], abs=1e-5)  # the best needs none of them
    assert policy_value(strict.mdp, uniform_policy(mean)) < 0.05
    with pytest.raises(ConfigError, match="'mean' or 'terminate'"):
        icu_sepsis(inadmissible="raise")  # type: ignore[arg-type]


def test_the_task_is_the_packages_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package imports the unmaintained gym
        theirs = make("Sepsis/ICU-Sepsis-v2")
    ours = make(ICU_SEPSIS)
    assert spec_of(theirs) == spec_of(ours)
    dynamics, mdp = theirs.unwrapped.dynamics, mdp_of(ours)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(mdp.transition.toarray(), dynamics["tx_mat"].reshape(-1, 716))
    expected = (dynamics["tx_mat"] * dynamics["r_mat"]).sum(-1)
    np.testing.assert_allclose(mdp.reward[:713], expected[:713], atol=1e-12)
    np.testing.assert_array_equal(mdp.initial, dynamics["d_0"])
    assert theirs.spec.max_episode_steps == ours.spec.max_episode_steps == 500
