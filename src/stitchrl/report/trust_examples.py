"""Behaviour explained: how often the policy does what, where it departs from the log, and logged episodes as examples of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.report import trust_figures as draw
from stitchrl.report.page import figures, number, paragraph, table

_SHOWN = 6  # numbers of a vector written out
_FREQUENT = 8  # actions told in a table, those whose frequency changes most


def explained(record: Mapping[str, Any]) -> str:
    """Returns the section: frequencies and a map of actions where they are discrete, and the example episodes."""
    return _actions(record) + _examples(record["examples"])


def _actions(record: Mapping[str, Any]) -> str:
    actions = record["actions"]
    if actions is None:
        return paragraph("Frequencies and a map of actions are shown where actions are discrete.", "soft")
    pairs = [(k, a or 0.0, b or 0.0) for k, (a, b) in enumerate(zip(actions["logged"], actions["policy"]))]
    most = sorted(pairs, key=lambda item: -abs(item[2] - item[1]))[:_FREQUENT]
    rows = [(str(k), share(a), share(b)) for k, a, b in most]
    changed = table(("action", "log", "policy"), rows, "Where the frequencies differ most")
    drawn = [draw.action_frequencies(actions["logged"], actions["policy"]), draw.actions_together(actions["together"])]
    missing = paragraph("There are too many actions for a map of the policy's against the logged ones.", "soft")
    return figures([one for one in drawn if one]) + changed + ("" if actions["together"] else missing)


def _examples(examples: Mapping[str, Any]) -> str:
    said = (
        f"Logged episodes in which the policy differs most and least from what was done, of {number(examples['judged'])} looked at, no two alike. "
        f"Difference: {examples['measure']}. Shown are the steps with the largest differences of each."
    )
    heads = "Probability (density): the logged policy's of the logged action. By policy, by log: both policies' probability of the policy's action."
    parts = [_example(example, f"{kind} different") for kind in ("most", "least") for example in examples[kind]]
    return paragraph(said) + paragraph(heads, "soft") + "".join(parts)


def _example(example: Mapping[str, Any], kind: str) -> str:
    discrete = any(step["policy_probability"] is not None for step in example["steps"])
    rows = []
    for step in example["steps"]:
        row = (str(step["step"]), vector(step["observation"]), vector(step["logged_action"]), _told(step["logged_probability"], discrete))
        more = (share(step["policy_probability"]), share(step["probability"])) if discrete else ()
        rows.append((*row, vector(step["policy_action"]), *more, _told(step["difference"], False)))
    heads = ("step", "observation", "logged", "probability" if discrete else "density", "policy")
    more_heads = ("by policy", "by log") if discrete else ()
    count = f"{len(rows)} of {example['length']:,} steps" if len(rows) < example["length"] else f"{example['length']:,} steps"
    caption = f"Episode {example['episode']}, {kind} ({_told(example['difference'], False)}): {count}, return {number(example['total'])}"
    return table((*heads, *more_heads, "difference"), rows, caption)


def _told(value: float | None, probability: bool) -> str:
    return "–" if value is None else share(value) if probability else f"{value:.3g}"


def share(value: float | None) -> str:
    """Returns a share in percent: `0.31 %`, `42 %`."""
    if value is None:
        return "not known"
    return "0 %" if value == 0 else f"{100 * value:.2g} %" if value < 0.1 else f"{100 * value:.0f} %"


def vector(value: Any) -> str:
    """Returns an observation or action in short: `0.12, −1.5, … (17 numbers)`."""
    if not isinstance(value, list | tuple):
        return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)
    told = ", ".join(f"{x:.3g}" if isinstance(x, int | float) else str(x) for x in value[:_SHOWN])
    return told + (f", … ({len(value)} numbers)" if len(value) > _SHOWN else "")
