"""Whether a log is the one that a run learned from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, final

from stitchrl.data.dataset import Dataset


@final
class KnownBy:
    """What a log is known by; each hash is made once, when it is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self.fingerprint = cache(dataset.fingerprint)
        self.steps_fingerprint = cache(dataset.steps_fingerprint)
        self.groups_fingerprint = cache(dataset.groups_fingerprint)


def known_as(data: Mapping[str, Any], log: KnownBy) -> Literal["these", "regrouped", "another", "unknown"]:
    """Whether a log is the one that a run's config tells of: that one, by whatever further columns; that one in other groups, so that other
    episodes would be held out; or another. Unknown where a run of before did not record it and the columns differ."""
    if data.get("fingerprint") == log.fingerprint():
        return "these"
    if "steps_fingerprint" not in data:
        return "unknown"
    if data["steps_fingerprint"] != log.steps_fingerprint():
        return "another"
    return "these" if data.get("groups_fingerprint") == log.groups_fingerprint() else "regrouped"
