"""The trust report from the record of `stitchrl trust`: a page with the verdict first, and a terminal's text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from stitchrl.report.page import Markup, Section, box, escape, number, page, paragraph, plain, table, tiles
from stitchrl.report.trust_before import before_section, difference_words
from stitchrl.report.trust_figures import interval_text
from stitchrl.report.trust_sections import Record, sections, tag, title

BOXES = {"Supported": "good", "Supported with limits": "warning", "Not supported": "error", "Not estimable": "error"}
QUESTIONS = {
    "estimable": "does an estimator pass its gates",
    "difference": "is it worse than the logged policy",
    "support": "does the log hold what it does",
    "weights": "do enough episodes count",
    "agreement": "do the estimators tell one story",
    "placebo": "do they find the logged policy's own value",
    "leave_one_logger_out": "do they find another logger's value",
    "semi_synthetic": "do they find a value that is known",
    "fqe_convergence": "have the fitted values settled",
    "possible_values": "does it believe what cannot be",
    "behaviour_calibration": "is the logged policy known well",
    "propensities": "can the logged probabilities be right",
    "integrity": "is the log sound",
    "leakage": "does a column tell what comes after it",
    "drift": "are these steps like those trained on",
    "clock": "does value lie beyond the log's end",
    "subgroups": "is a declared group harmed",
    "confounding": "how strong would a hidden cause need to be",
    "selection": "how was the policy chosen",
}
_ORDER = ("fail", "warn", "pass", "not run")
_WIDTH = 80
_NAMED = 6  # failed and warned checks told in the terminal
_CHANGES = 3  # and what would change the verdict


def trust_page(record: Record, seconds: Mapping[str, float] | None = None) -> str:
    """Returns the HTML page. record: as trust_schema.json says. `seconds`: wall times, which the record leaves out."""
    verdict, policy, data = record["verdict"], record["policy"], record["data"]
    used = "drawing its actions" if policy["sampled"] else "taking its mode or mean"
    lead = paragraph(
        f"{policy['name']}, {used}, judged from {data['evaluation_episodes']:,} of {data['episodes']:,} episodes of {data['name']} alone",
        "soft",
    )
    second = before_section(record)
    parts = [*([second] if second is not None else []), Section("Checks", _checks(record)), *sections(record, seconds)]
    return page(f"{verdict['word']}: {policy['name']}", parts, lead + _verdict(record))


def _verdict(record: Record) -> str:
    verdict, numbers, data = record["verdict"], record["numbers"], record["data"]
    said = box(BOXES[verdict["word"]], verdict["word"], verdict["sentence"], f"Exit code {verdict['exit_code']}.")
    by = f", estimated by {numbers['estimator']}" if numbers["estimator"] else ""
    shown = tiles(
        [
            _tile("logged policy, measured", numbers["behaviour_value"]),
            _tile(f"this policy{by}", numbers["policy_value"]),
            _tile("difference, paired", numbers["difference"]),
            (f"effective episodes of {data['evaluation_episodes']:,}", _effective(numbers["effective_episodes"])),
        ]
    )
    items = "".join(f"<li>{escape(change)}</li>" for change in verdict["would_change"])
    level = f"{100 * numbers['behaviour_value']['level']:g} % intervals"
    units = paragraph(f"Values of an episode's start, discounted by {data['discount']:g} a step, with {level}.", "soft")
    return said + shown + units + f"<p><b>What would change the verdict</b></p><ul>{items}</ul>"


def _tile(label: str, interval: Mapping[str, Any] | None) -> tuple[str, str]:
    """Returns (label with the interval's ends, estimate)."""
    value, bracket, ends = interval_text(interval).partition(" [")
    return (f"{bracket.strip()}{ends} {label}".strip(), value)


def _effective(value: float | None) -> str:
    return "no weights" if value is None else number(round(value, 1) if value < 100 else round(value))


def _checks(record: Record) -> str:
    ordered = sorted(record["checks"], key=lambda one: _ORDER.index(one["status"]))
    rows = [(title(one["name"]), tag(one["status"]), Markup(_found(one))) for one in ordered]
    note = "Every check is listed; what was not run is told with why. The verdict is a function of these outcomes and of nothing else."
    return paragraph(f"{_counts(record)}.") + table(("check", "", "found"), rows, label="Checks") + paragraph(note, "soft")


def _found(one: Mapping[str, Any]) -> str:
    measured = [f"{name} {number(float(one[name]))}" for name in ("value", "limit") if one[name] is not None]
    asked = QUESTIONS.get(one["name"], one["section"])
    return paragraph(one["words"]) + paragraph(
        f"{asked[0].upper()}{asked[1:]}?" + (f" ({', '.join(measured)})" if measured else ""), "soft"
    )


def _counts(record: Record) -> str:
    statuses = [one["status"] for one in record["checks"]]
    words = {"fail": "failed", "warn": "warned", "pass": "passed", "not run": "not run"}
    return ", ".join(f"{statuses.count(status)} {words[status]}" for status in _ORDER)


def trust_text(record: Record, seconds: Mapping[str, float] | None = None) -> str:
    """Returns the same in short for a terminal: about 25 lines of at most 80 columns."""
    verdict, numbers, data = record["verdict"], record["numbers"], record["data"]
    by = f", by {numbers['estimator']}" if numbers["estimator"] else ""
    known = numbers["effective_episodes"] is not None
    facts = [
        ("logged policy", f"{interval_text(numbers['behaviour_value'])}, measured"),
        ("this policy", f"{interval_text(numbers['policy_value'])}{by}"),
        ("difference", interval_text(numbers["difference"])),
        ("effective", _effective(numbers["effective_episodes"]) + f" of {data['evaluation_episodes']:,} episodes" * known),
        ("checks", _counts(record)),
    ]
    lines = [
        *_wrapped(f"{verdict['word'].upper()}: {record['policy']['name']} on {data['name']}", ""),
        *_wrapped(verdict["sentence"], ""),
        "",
    ]
    lines += [line for name, value in facts for line in _wrapped(value, f"  {name:<14}", 2)]
    if record["before"] is not None:
        first = record["before"]
        lines += ["", *_wrapped(f"{first['policy']['name']}: {first['verdict']['word']}. {difference_words(record)}", "  before  ", 4)]
    bad = [one for status in ("fail", "warn") for one in record["checks"] if one["status"] == status]
    lines += [""] * bool(bad)
    for one in bad[:_NAMED]:
        lines += _wrapped(f"{title(one['name'])}: {one['words']}", f"  {one['status']:<6}", 2)
    if len(bad) > _NAMED:
        lines.append(f"        and {len(bad) - _NAMED} more")
    missing = [title(one["name"]) for one in record["checks"] if one["status"] == "not run"]
    lines += _wrapped(", ".join(missing), "  not run: ", 2) if missing else []
    lines += ["", "What would change the verdict:"]
    for change in verdict["would_change"][:_CHANGES]:
        lines += _wrapped(change, "  - ", 2)
    if len(verdict["would_change"]) > _CHANGES:
        lines.append(f"  - and {len(verdict['would_change']) - _CHANGES} more, in the report")
    if seconds:
        lines += ["", f"{sum(seconds.values()):.1f} s"]
    return "\n".join(lines)


def _wrapped(text: Any, first: str, most: int | None = None) -> list[str]:
    """Returns the lines of a text after `first`, at most `most` of them."""
    more: dict[str, Any] = {} if most is None else {"max_lines": most, "placeholder": " …"}
    return textwrap.wrap(plain(text), _WIDTH, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False, **more)
