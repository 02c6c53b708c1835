"""Two policies on one log, such as before and after learning online: the second's report beside the first's, and their paired difference.

The difference of two estimates is redrawn on the same episodes for both, so that what both owe to the log cancels; the errors of networks'
seeds are taken as independent, which is rather too wide.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.intervals import Interval
from stitchrl.evaluation.confidence import draws_together, interval_of_draws
from stitchrl.evaluation.estimates import PREFERENCE, Judged, widened
from stitchrl.evaluation.evidence import Difference, Estimate
from stitchrl.evaluation.trust_report import Trust


def with_before(after: Trust, before: Trust) -> Trust:
    """Returns `after` with `before` in its record, side by side. Raises DataError where they are not of one log, asked the same."""
    if after.judged.how != before.judged.how or after.record["data"]["fingerprint"] != before.record["data"]["fingerprint"]:
        raise DataError(
            "before and after: the reports are not of the same episodes, discount, clock, level and seed; expected the same log"
        )
    differences = paired_differences(after.judged, before.judged)
    shown = next((name for name in PREFERENCE if isinstance(differences[name], Interval)), None)
    kept = ("policy", "verdict", "numbers", "checks", "estimates", "selection")
    record = {name: before.record[name] for name in kept} | {
        "estimator": shown,
        "differences": [_row(name, found) for name, found in differences.items()],
    }
    seconds = after.seconds | {f"{name}, before": spent for name, spent in before.seconds.items()}
    return replace(after, record=after.record | {"before": record}, seconds=seconds)


def paired_differences(after: Judged, before: Judged) -> dict[str, Interval | str]:
    """Returns by estimator the interval of the value after minus before, on the same redrawn episodes, or in words why there is none."""
    found: dict[str, Interval | str] = {}
    for second in after.estimates:
        first = before.estimate(second.name)
        found[second.name] = _refusal(second, first) or _difference(after, second, first)
    return found


def _difference(judged: Judged, second: Estimate, first: Estimate) -> Interval | str:
    assert second.statistic is not None and first.statistic is not None
    how, groups = judged.how, judged.episodes.groups
    drawn = draws_together([second.statistic, first.statistic], seed=how.seed, resamples=how.resamples, groups=groups)
    difference = Difference(second.statistic, first.statistic)
    made = interval_of_draws(difference, drawn[0] - drawn[1], level=how.level, groups=groups, method="expanded")
    made = widened(made, math.hypot(second.seed_error, first.seed_error))
    if not np.isfinite([made.estimate, made.low, made.high]).all():
        return "not estimable: the difference is undefined on this log or in its bootstrap draws"
    return made


def _refusal(second: Estimate, first: Estimate) -> str | None:
    """Why one of the two, or both, are not estimable."""
    if second.reason is not None and second.reason == first.reason:
        return second.reason
    reasons = {"after": second.reason, "before": first.reason}
    told = [f"{side}: {reason.removeprefix('not estimable: ')}" for side, reason in reasons.items() if reason is not None]
    return f"not estimable {'; '.join(told)}" if told else None


def _row(name: str, found: Interval | str) -> dict[str, Any]:
    words = found if isinstance(found, str) else None
    return {"name": name, "interval": None if isinstance(found, str) else found.to_json(), "reason": words}
