"""The quality score of a log, with its parts, and plain advice on what to learn from it, with the numbers that led to it."""

from __future__ import annotations

import math
from typing import Any

WEIGHTS = {"return level": 0.3, "spread": 0.2, "coverage": 0.2, "size": 0.15, "cleanliness": 0.15}


def score(facts: dict[str, Any], errors: int, warnings: int) -> dict[str, Any]:
    """Returns {"score" 0 … 10, "known_weight", "capped", "parts": [{"name", "value" 0 … 10 or None, "weight", "because"}]}.

    The score is the weighted mean of the parts that are known (weights in WEIGHTS); with any error it is at most 2. The parts, times 10:
    return level   TQ, held to 0 … 1
    spread         what the better episodes add, (95 % quantile - mean) / (half of best known - random), held to 0 … 1
    coverage       SACo held to 1 if there is a reference, else the variety of actions in like states
    size           the smaller of (log10 steps - 2) / 4 and log10 episodes / 3, held to 0 … 1: full at 1,000,000 steps and 1,000 episodes
    cleanliness    1 less 0.2 for each kind of warning; 0 with any error
    A part that needs what is not known (reference returns, bounds) is None and has no say.
    """
    values = {
        "return level": _return_level(facts["reference"]),
        "spread": _spread(facts["reference"]),
        "coverage": _coverage(facts["coverage"]),
        "size": _size(facts["size"]),
        "cleanliness": (
            0.0 if errors else max(0.0, 1 - 0.2 * warnings),
            f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}",
        ),
    }
    parts = [
        {"name": name, "value": None if value is None else 10 * min(1.0, max(0.0, value)), "weight": WEIGHTS[name], "because": because}
        for name, (value, because) in values.items()
    ]
    known = [(float(part["value"]), float(part["weight"])) for part in parts if part["value"] is not None]  # type: ignore[arg-type]
    weight = sum(w for _, w in known)
    mean = sum(v * w for v, w in known) / weight
    # without references the score says nothing of how good the returns are: whoever shows it shows known_weight too
    return {"score": min(mean, 2.0) if errors else mean, "known_weight": weight, "capped": errors > 0 and mean > 2, "parts": parts}


def _return_level(reference: dict[str, Any]) -> tuple[float | None, str]:
    quality = reference["trajectory_quality"]
    if quality is None:
        return None, "not known: no random and best known return to compare with"
    random, best = _round(reference["random"]), _round(reference["expert"])
    return quality, f"mean return is {quality:.0%} of the way from random ({random}) to best known ({best})"


def _round(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def _spread(reference: dict[str, Any]) -> tuple[float | None, str]:
    mean, high = reference["trajectory_quality"], reference["best_twentieth_quality"]
    if mean is None or high is None:
        return None, "not known: no random and best known return to compare with"
    return 2 * (high - mean), f"the best twentieth of episodes begins at {high:.0%}, the mean is at {mean:.0%}"


def _coverage(coverage: dict[str, Any]) -> tuple[float | None, str]:
    pairs, variety = coverage["state_action_coverage"], coverage["action_variety"]
    if pairs["value"] is not None and "reference log" in pairs["reference"]:
        return pairs["value"], f"SACo: {pairs['unique']:,} different pairs against {pairs['reference']}"
    if variety["value"] is not None:
        return variety["value"], f"{variety['value']:.0%} of uniform, by {variety['measure']} (no reference for SACo)"
    return None, f"not known: {variety['measure']}, and no reference for SACo"


def _size(size: dict[str, Any]) -> tuple[float, str]:
    steps, episodes = size["steps"], size["episodes"]
    return min((math.log10(steps) - 2) / 4, math.log10(episodes) / 3), f"{steps:,} steps in {episodes:,} episodes"


def advise(facts: dict[str, Any], errors: int) -> list[dict[str, str]]:
    """Returns [{"kind", "headline", "because", "do"}], what matters most first; kinds: faulty, too-small, no-reward, sparse-reward,
    expert-like, random, mixed, narrow, varied, deterministic."""
    found = []
    if errors:
        found.append(
            _say(
                "faulty",
                "Repair the log first",
                f"{errors} kind{'s' * (errors != 1)} of error found",
                "See the findings; training refuses it as it is.",
            )
        )
    found += _too_small(facts["size"])
    rewards, returns = facts["rewards"], facts["returns"]
    lengths_differ = facts["lengths"]["min"] != facts["lengths"]["max"]
    if rewards["distinct"] == 1 and (rewards["min"] == 0 or not lengths_differ):
        because = f"all {facts['size']['steps']:,} rewards are {rewards['min']:g}"
        found.append(
            _say("no-reward", "No reward to learn from", because, "Behaviour cloning, or goal-conditioned methods if it has goals.")
        )
    elif returns["mean"] is not None:
        if rewards["distinct"] > 1 and rewards["rare_share"] < 0.05:
            because = f"only {rewards['rare_share']:.2%} of the steps have a reward other than {rewards['most_common']:g}"
            do = "A discount near 1, methods that pass value over many steps (IQL with a high expectile), and more steps than usual."
            found.append(_say("sparse-reward", "The reward is sparse", because, do))
        found += _level(facts) if facts["reference"]["trajectory_quality"] is not None else _relative(facts)
    variety = facts["coverage"]["action_variety"]
    if variety["value"] is not None and variety["value"] < 0.1:
        because = f"in like states the actions differ by {variety['value']:.0%} of what uniform ones would"
        do = "Little can be said of any other action: stay close to the data, and expect wide intervals from off-policy estimates."
        found.append(_say("deterministic", "The behaviour policy hardly varies", because, do))
    return found


def _say(kind: str, headline: str, because: str, do: str) -> dict[str, str]:
    return {"kind": kind, "headline": headline, "because": because, "do": do}


def _too_small(size: dict[str, Any]) -> list[dict[str, str]]:
    steps, episodes = size["steps"], size["episodes"]
    if steps >= 1_000 and episodes >= 20:
        return []
    because = f"{steps:,} steps in {episodes:,} episodes; 1,000 and 20 are the least on which results can be told from chance"
    return [_say("too-small", "Too small", because, "Collect more, or use behaviour cloning and report wide intervals.")]


def _level(facts: dict[str, Any]) -> list[dict[str, str]]:
    mean, high = facts["reference"]["trajectory_quality"], facts["reference"]["best_twentieth_quality"]
    where = f"the mean return is at {mean:.0%} between random and best known, the best twentieth of episodes at {high:.0%} or more"
    if mean >= 0.8 and high - mean < 0.2:
        return [_say("expert-like", "Expert-like: behaviour cloning suffices", where, "BC first; a value method has little room above it.")]
    if high <= 0.15:
        do = "Value methods may still join good parts; do not expect imitation to help, and more varied or better data to help most."
        return [_say("random", "Close to random: expect little", where, do)]
    if high - mean >= 0.15:
        return [_say("mixed", "Mixed quality: use value methods", where, "IQL or CQL; cloning the best tenth is the bar to pass.")]
    do = "A value method can improve a little by joining good parts; compare it with BC."
    return [_say("narrow", "One level of skill, below the best", where, do)]


def _relative(facts: dict[str, Any]) -> list[dict[str, str]]:
    returns = facts["returns"]
    mean, std, best = returns["mean"], returns["std"], returns["best_tenth"]
    numbers = f"the mean return is {_round(mean)}, the standard deviation {_round(std)}, the mean of the best tenth {_round(best)}"
    numbers += "; reference returns are not known"
    if std <= 0.1 * max(abs(mean), 1e-12):
        do = "BC reaches what is here. Give reference returns (random, expert) to learn whether that is good."
        return [_say("narrow", "All episodes do about equally well", numbers, do)]
    do = "Value methods (IQL, CQL) can prefer the better parts; BC is the bar. Give reference returns to learn how good they are."
    return [_say("varied", "Returns vary", numbers, do)]
