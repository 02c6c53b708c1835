"""ICU-Sepsis (Choudhary, Gupta and Thomas, 2024, arXiv:2406.05646): treating sepsis, an MDP estimated from MIMIC-III records.

716 states (713: death, 714: survival, 715: after the end), 25 actions (5 doses of vasopressor × 5 of fluids), reward 1 on survival.
The numbers come from the PyPI package `icu-sepsis` (MIT licence), read without running its code. Actions that the records hold too
rarely are inadmissible: by the package's default ("mean", its versions 1 and 2) such an action moves as the mean of the state's
admissible ones, which its transition table already holds; with "terminate" it ends in death.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
from scipy.sparse import csr_array

from stitchrl.core.errors import ConfigError
from stitchrl.environments.tasks.tabular import TabularMDP

Array = np.ndarray[Any, np.dtype[Any]]
Inadmissible = Literal["mean", "terminate"]

DEATH, SURVIVAL, AFTER = 713, 714, 715
STEP_LIMIT = 500  # of the package; a stay takes about 10 steps
VALUES = {"uniform": 0.780071, "clinicians": 0.781845, "optimum": 0.875142}  # at discount 1, inadmissible="mean"; the tests solve for them


@final
@dataclass(frozen=True)
class IcuSepsis:
    """The task and what is known beside it."""

    mdp: TabularMDP
    clinicians: Array  # [716, 25] what clinicians did; rows of the last three states are arbitrary
    admissible: Array  # bool [716, 25] actions that the records hold often enough
    sofa: Array  # [716] mean Sequential Organ Failure Assessment score


@lru_cache(maxsize=2)
def icu_sepsis(discount: float = 1.0, inadmissible: Inadmissible = "mean") -> IcuSepsis:
    """Returns the task. Raises ConfigError where the package is not installed or an option is unknown."""
    if inadmissible not in ("mean", "terminate"):
        raise ConfigError(f"inadmissible={inadmissible!r} is unknown; expected 'mean' or 'terminate'")
    assets = _assets()
    with np.load(assets / "dynamics.npz", allow_pickle=False) as data:
        dense, rewards = data["tx_mat"], data["r_mat"]
        initial, sofa = data["d_0"], data["sofa_scores"]
        clinicians = np.array(data["expert_policy"])
    states, actions = dense.shape[:2]
    admissible = _admissible(assets / "admissible_actions.txt", states, actions)
    terminal = np.isin(np.arange(states), (DEATH, SURVIVAL, AFTER))
    if inadmissible == "terminate":
        dense[~admissible] = np.eye(states)[DEATH]
    transition = csr_array(dense.reshape(-1, states))
    outcome = rewards.reshape(-1, states)[transition.nonzero()]
    clinicians[terminal] = 1.0 / actions
    return IcuSepsis(TabularMDP(transition, outcome, initial, terminal, discount), clinicians, admissible, sofa)


def _assets() -> Path:
    package = find_spec("icu_sepsis")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("the task ICU-Sepsis needs the package icu-sepsis, which is not installed. Run: pip install icu-sepsis")
    assets = Path(package.submodule_search_locations[0]) / "envs" / "assets"
    if not (assets / "dynamics.npz").is_file():
        raise ConfigError(f"{assets}: has no dynamics.npz; expected icu-sepsis 2.x. Run: pip install 'icu-sepsis>=2,<3'")
    return assets


def _admissible(path: Path, states: int, actions: int) -> Array:
    lines = [[int(x) for x in line.split()] for line in path.read_text(encoding="ascii").splitlines()]
    mask = np.zeros((states, actions), np.bool_)
    for state, (count, row) in enumerate(zip(lines[0], lines[1:], strict=False)):
        mask[state, row] = True
        if len(row) != count:
            raise ConfigError(f"{path}: state {state} lists {len(row)} actions; expected {count}. Reinstall icu-sepsis")
    return mask
