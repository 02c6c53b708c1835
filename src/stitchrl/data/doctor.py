"""The examination of a log before anything is learned from it: `stitchrl data validate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from stitchrl.data.alignment import check_shifts, check_stored_next, examine_transitions
from stitchrl.data.column_checks import (
    check_actions,
    check_constants,
    check_dtypes,
    check_finite,
    check_images,
    check_magnitudes,
    check_observation_space,
    check_propensities,
    check_rewards,
)
from stitchrl.data.dataset import Dataset
from stitchrl.data.episode_checks import (
    check_duplicates,
    check_ends,
    check_groups,
    check_leakage,
    check_piled_lengths,
    check_reading,
    check_time,
    episode_digests,
)
from stitchrl.data.findings import ORDER, SHOWN, Finding, findings_to_json, verdict

# what callers import from here: one module is the examination's face
__all__ = ["Finding", "examine", "examine_parts", "examine_transitions", "findings_to_json", "verdict"]

CHECKS: tuple[Callable[[Dataset], list[Finding]], ...] = (
    check_dtypes,
    check_finite,
    check_rewards,
    check_magnitudes,
    check_observation_space,
    check_images,
    check_actions,
    check_propensities,
    check_reading,
    check_ends,
    check_stored_next,
    check_piled_lengths,
    check_time,
    check_groups,
    check_duplicates,
    check_shifts,
    check_constants,
    check_leakage,
)


def examine(dataset: Dataset) -> list[Finding]:
    """Returns everything found in a log, errors first. Reads it in pieces of 16 MiB; the same log gives the same list."""
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows or is NaN is what we look for
        found = [finding for check in CHECKS for finding in check(dataset)]
    return sorted(found, key=lambda finding: ORDER[finding.severity])


def examine_parts(parts: Mapping[str, Dataset]) -> list[Finding]:
    """Returns episodes and groups that occur in more than one part, such as {"train": …, "evaluation": …}."""
    found = []
    names = list(parts)
    digests = {name: episode_digests(part) for name, part in parts.items()}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = set(digests[one]) & set(digests[other])
            places = [e for e, digest in enumerate(digests[other]) if digest in shared]
            if places:
                message = f"{len(places):,} episodes of '{other}' are also in '{one}', the first of them episode {places[0]:,}"
                advice = "Split again without copies: what is judged on learned data looks better than it is."
                found.append(Finding("episode-in-several-parts", "warning", message, None, tuple(places[:SHOWN]), (), len(places), advice))
            found.extend(_shared_groups(one, parts[one], other, parts[other]))
    return sorted(found, key=lambda finding: ORDER[finding.severity])


def _shared_groups(one: str, first: Dataset, other: str, second: Dataset) -> list[Finding]:
    if "groups" not in first.columns or "groups" not in second.columns:
        return []
    shared = np.intersect1d(np.asarray(first.columns["groups"]), np.asarray(second.columns["groups"]))
    if not len(shared):
        return []
    inside = np.isin(np.asarray(second.columns["groups"])[np.asarray(second.offsets[:-1])], shared)
    episodes = tuple(int(e) for e in np.flatnonzero(inside)[:SHOWN])
    listed = ", ".join(str(group) for group in shared[:3]) + (" …" if len(shared) > 3 else "")
    message = f"{len(shared):,} groups are in '{one}' and in '{other}': {listed}"
    advice = "Split by group, so that nobody is both learned from and judged on."
    return [Finding("group-in-several-parts", "error", message, "groups", episodes, (), len(shared), advice)]
