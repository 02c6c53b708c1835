"""Do logged propensities fit the log? What true probabilities must satisfy on average, and by how much these do not.

For probabilities b that drew the actions, the mean of 1{a}/b estimates the share of steps at which action a could be taken (at most 1),
the mean of 1/b the number of actions that could; and the mean of q/b is at most 1 for any probabilities q made on other episodes, also
where q/b is clipped, as it is here. (By Jensen's inequality a q of higher expected log-likelihood than b is found, too.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stitchrl.core.spec import Discrete
from stitchrl.data.column_checks import LOG_PROBABILITIES, at_rows
from stitchrl.data.dataset import Dataset
from stitchrl.data.findings import Finding

if TYPE_CHECKING:
    from stitchrl.evaluation.behaviour_policy import Behaviour

Array = np.ndarray[Any, np.dtype[Any]]

ERRORS = 5.0  # standard errors (of episodes) beyond which chance is no excuse
SHARE = 1.25  # an action available at more than this share of the steps, or this many times all actions, is grossly too much
HALF = 0.5  # fewer than this share of the actions that the log is seen to take
CLIP = 100.0  # of q/b, which keeps its mean below 1 and its error small
SUM = 1.1  # of q/b, grossly above 1
AVAILABLE = 0.05  # an estimated probability above which an action counts as taken in a state


def check_logged(dataset: Dataset, logs: Array, estimated: Behaviour) -> list[Finding]:
    """Returns warnings where logged log-probabilities `[N]` contradict the logged actions, judged by episodes; silent where they may be true."""
    if len(dataset) < 100 or dataset.episodes < 10:
        return []
    found = []
    if isinstance(dataset.spec.action, Discrete):
        found += _implied_actions(dataset, logs, estimated, dataset.spec.action.n)
    return found + _sum_of_estimate(dataset, logs, estimated)


def _mean(dataset: Dataset, values: Array) -> tuple[float, float]:
    """Returns the mean over steps and its standard error, a ratio of sums over episodes."""
    sums = np.add.reduceat(values, dataset.offsets[:-1])
    mean = float(values.mean())
    residual = sums - mean * dataset.lengths
    return mean, float(np.sqrt((residual**2).sum()) / len(values))


def _implied_actions(dataset: Dataset, logs: Array, estimated: Behaviour, count: int) -> list[Finding]:
    inverse, actions = np.exp(np.minimum(-logs, 700.0)), np.asarray(dataset.actions)
    mean, error = _mean(dataset, inverse)
    advice = (
        "Look whether they are of another action, row or policy, or shares of something else; importance weights made of them are wrong."
    )
    if mean > SHARE * count and mean - ERRORS * error > count:
        message = f"the logged probabilities imply {mean:.4g} available actions a step (mean of 1/b); there are {count}: they are too small"
        rows = np.argsort(logs, kind="stable")[:5]
        return [at_rows(dataset, rows, "propensities-too-small", "warning", message, LOG_PROBABILITIES, advice, len(dataset))]
    for action in range(count):
        share, deviation = _mean(dataset, np.where(actions == action, inverse, 0.0))
        if share > 1.2 * SHARE and share - ERRORS * deviation > 1:
            rows = np.flatnonzero(actions == action)
            message = f"the logged probabilities of action {action} are too small: its mean of 1/b is {share:.4g} a step, and at most 1 is possible"
            return [at_rows(dataset, rows, "propensities-too-small", "warning", message, LOG_PROBABILITIES, advice)]
    assert estimated.probabilities is not None
    seen = float((estimated.probabilities >= AVAILABLE).sum(axis=1).mean())
    if mean + ERRORS * error < HALF * seen:
        message = (
            f"the logged probabilities imply {mean:.3g} available actions a step (mean of 1/b), but the log is seen to take {seen:.3g}"
        )
        more = "They are too large, or the behaviour read something that the observations lack (then its choices may be confounded)."
        return [Finding("propensities-too-large", "warning", message, LOG_PROBABILITIES, count=len(dataset), advice=more)]
    return []


def _sum_of_estimate(dataset: Dataset, logs: Array, estimated: Behaviour) -> list[Finding]:
    if any(finding.code == "behaviour-has-atoms" for finding in estimated.findings):
        return []  # a narrow density at an atom beats any
    ratio = np.exp(np.minimum(estimated.log_probabilities - logs, np.log(CLIP)))
    total, error = _mean(dataset, ratio)
    if total <= SUM or total - ERRORS * error <= 1:
        return []
    message = (
        f"the logged probabilities do not fit the logged actions: an estimate from other episodes, divided by them, averages {total:.3g}"
    )
    rows = np.sort(np.argsort(-ratio, kind="stable")[:5])
    advice = (
        "At most 1 is possible. Look for rows shifted by one, logarithms of another base, or the probabilities of another action or policy."
    )
    return [at_rows(dataset, rows, "propensities-do-not-fit", "warning", message, LOG_PROBABILITIES, advice, len(dataset))]
