"""The part of the trust report that sets a policy beside the one before it: both verdicts and numbers, and the paired difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stitchrl.report.page import Section, paragraph, table
from stitchrl.report.trust_figures import Row, interval_rows, interval_text


def before_section(record: Mapping[str, Any]) -> Section | None:
    """Returns the section, or None where the record is of one policy alone."""
    before = record["before"]
    if before is None:
        return None
    names = [f"{side['policy']['name']}" + (f" ({side['policy']['path']})" if side["policy"]["path"] else "") for side in (before, record)]
    lead = paragraph(
        f"Before: {names[0]}. After: {names[1]}. Both are judged from the same {record['data']['evaluation_episodes']:,} episodes."
    )
    return Section("Before and after", lead + paragraph(difference_words(record)) + _sides(record, before) + _differences(record, before))


def difference_words(record: Mapping[str, Any]) -> str:
    """Returns in a sentence what the second policy is worth more than the first, or that it is not estimable and why."""
    before = record["before"]
    if before["estimator"] is None:
        row = next((row for row in before["differences"] if row["name"] == "drl"), before["differences"][0])  # the one relied on first
        return f"The difference between the two: {row['reason']}."
    interval = next(row["interval"] for row in before["differences"] if row["name"] == before["estimator"])
    if interval["low"] > 0:
        said = "The second is worth more than the first"
    elif interval["high"] < 0:
        said = "The second is worth less than the first"
    else:
        said = "No difference between the two is shown"
    return f"{said}: {interval_text(interval)} by {before['estimator']}, both redrawn on the same episodes."


def _sides(record: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    def told(side: Mapping[str, Any]) -> list[str]:
        numbers = side["numbers"]
        effective = numbers["effective_episodes"]
        return [
            side["verdict"]["word"],
            interval_text(numbers["policy_value"]),
            interval_text(numbers["difference"]),
            numbers["estimator"] or "none",
            "no weights" if effective is None else f"{effective:,.0f}",
            side["selection"]["words"],
        ]

    heads = ("verdict", "value", "difference to the logged policy", "estimated by", "effective episodes", "trained and chosen")
    rows: list[tuple[str, str, str]] = list(zip(heads, told(before), told(record)))
    first = {one["name"]: one["status"] for one in before["checks"]}
    rows += [
        (f"check: {one['name'].replace('_', ' ')}", first[one["name"]], one["status"])
        for one in record["checks"]
        if first[one["name"]] != one["status"]
    ]
    return table(("", "before", "after"), rows, "Side by side; of the checks those whose outcome changed")


def _differences(record: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    values = [{e["name"]: e for e in side["estimates"]} for side in (before, record)]
    shown = [Row(row["name"], row["interval"], row["reason"] or "not estimable") for row in before["differences"]]
    drawn = interval_rows(
        shown,
        "value after minus before",
        "Differences of the two policies' estimates, redrawn together; grey: not estimable for both.",
        0.0,
    )
    body = [
        (row["name"], *(interval_text(side[row["name"]]["interval"]) for side in values), interval_text(row["interval"]))
        for row in before["differences"]
    ]
    alike: dict[str, list[str]] = {}  # estimators refused for the same reason are told together
    for row in before["differences"]:
        if row["interval"] is None:
            alike.setdefault(row["reason"], []).append(row["name"])
    reasons = "".join(paragraph(f"{', '.join(names)}: {reason}.", "soft") for reason, names in alike.items())
    return drawn + table(("estimator", "before", "after", "after minus before"), body, label="Paired differences") + reasons
