"""A log as a policy would see it: in its spaces, with the goals that it reads beside the observations, and with codes that mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stitchrl.agent import Agent
from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Spec, is_image
from stitchrl.data.dataset import Dataset
from stitchrl.evaluation.evidence import in_spaces_of


def seen_by(agent: Agent, dataset: Dataset) -> Dataset:
    """Returns the log in a policy's spaces (`in_spaces_of`), its column `goals` beside the observations where the policy reads both.

    Raises DataError where codes of the log stand for other values than those that the policy learned, and for images, which no estimator reads.
    """
    if is_image(agent.spec.observation):
        raise DataError(
            "the observations are images; a policy is judged from a log only where they are numbers. Roll it out instead: stitchrl evaluate"
        )
    check_categories(agent.categories, dataset)
    return in_spaces_of(agent.spec, with_goals(agent.spec, dataset))


def with_goals(spec: Spec, dataset: Dataset) -> Dataset:
    """Returns the log with `goals [N, G]` put behind `observations [N, O]` where the policy reads vectors of O + G, as environments give them
    (`environments/goal_observations.py`); else the log itself. An episode's final observation has the goal of its last step."""
    goals, own, wanted = dataset.columns.get("goals"), dataset.spec.observation, spec.observation
    if goals is None or not isinstance(own, Box) or not isinstance(wanted, Box) or len(own.shape) != 1:
        return dataset
    flat = np.asarray(goals, np.float32).reshape(len(dataset), -1)
    if wanted.shape != (own.size + flat.shape[1],):
        return dataset
    columns: dict[str, Any] = {name: column for name, column in dataset.columns.items() if name != "goals"}
    columns["observations"] = np.concatenate([np.asarray(dataset.observations, np.float32), flat], 1)
    final = np.concatenate([np.asarray(dataset.final_observations, np.float32), flat[dataset.offsets[1:] - 1]], 1)
    return Dataset(Spec(Box(wanted.shape), dataset.spec.action), columns, dataset.offsets, final, dataset.metadata)


def check_categories(learned: Mapping[str, Sequence[str]], dataset: Dataset) -> None:
    """Raises DataError where the codes of a column stand for other values in this log than in the one that a policy learned from.

    Nothing is checked where one of the two tells no categories: numbers that were coded elsewhere cannot be compared. One list may go on where
    the other ends. A column that only one of them names must have a counterpart of the same values there.
    """
    here: Mapping[str, Sequence[str]] = dataset.metadata.get("categories") or {}
    if not learned or not here:
        return
    name = str(dataset.metadata.get("name", "the log"))
    renamed = [values for column, values in here.items() if column not in learned]
    for column, values in learned.items():
        if column not in here:
            if not any(_differ(values, other) is None for other in renamed):
                raise DataError(
                    f"{name}: no column holds the categories of '{column[:80]}', which the policy learned from; found {_listed(list(here))}, "
                    f"expected one with the values {_listed(values)}. Judge by a log of the same columns"
                )
            continue
        code = _differ(values, here[column])
        if code is not None:
            raise DataError(
                f"{name}: column '{column[:80]}': the code {code} stands for {here[column][code]!r}, and for {values[code]!r} in the log that the "
                f"policy learned from; expected the values in the order {_listed(values)}. Tell them to the reader in this order: "
                f"--table.categories '{column[:80]}={','.join(values)[:200]}'"
            )


def _differ(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The first code that stands for two values, or None."""
    return next((code for code, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def _listed(values: Sequence[str]) -> str:
    return ", ".join(repr(value[:40]) for value in values[:8]) + (" …" if len(values) > 8 else "")
