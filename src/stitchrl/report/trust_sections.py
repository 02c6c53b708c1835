"""The sections of the trust report, each HTML from the record of `stitchrl trust`; what is not known is told, not left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stitchrl.report import trust_figures as draw
from stitchrl.report.page import Markup, Section, escape, figures, number, paragraph, table, tiles
from stitchrl.report.trust_examples import explained, share, vector
from stitchrl.report.trust_figures import Row, interval_text

Record = Mapping[str, Any]
KINDS = {"pass": "good", "warn": "warning", "fail": "error", "not run": "soft"}
BOUNDS = {
    "t": "Student's t",
    "bca": "bootstrap, BCa",
    "percentile": "bootstrap, plain percentiles",
    "hoeffding": "Hoeffding",
    "bernstein": "empirical Bernstein (Maurer and Pontil)",
    "hcope": "HCOPE (Thomas et al.), a lower bound alone",
}


def sections(record: Record, seconds: Mapping[str, float] | None = None) -> list[Section]:
    """Returns the fourteen sections, numbered, each headed by its checks. `seconds`: wall time of each part of the work."""
    parts: list[tuple[str, Sequence[str], Callable[[Record], str]]] = [
        ("Data", ("clock",), _data),
        ("Integrity and leakage", ("integrity", "leakage"), _leakage),
        ("Behaviour policy", ("propensities", "behaviour_calibration"), _behaviour),
        ("Support", ("support", "drift"), _support),
        ("Importance weights", ("weights",), _weights),
        ("Value estimates", ("estimable", "difference", "agreement"), _estimates),
        ("Other bounds", (), _bounds),
        ("Self-checks of the estimators", ("placebo", "leave_one_logger_out", "semi_synthetic", "fqe_convergence"), _self_checks),
        ("Value sanity", ("possible_values",), _sanity),
        ("Risk and groups", ("subgroups",), _risk),
        ("Hidden confounding", ("confounding",), _confounding),
        ("Selection", ("selection",), _selection),
        ("Behaviour explained", (), explained),
        ("Reproducibility", (), lambda r: _reproducibility(r, seconds)),
    ]
    return [Section(f"{k}. {title}", _outcomes(record, names) + body(record)) for k, (title, names, body) in enumerate(parts, 1)]


def title(name: str) -> str:
    """Returns a check's name in words."""
    return name.replace("_", " ")


def tag(status: str) -> Markup:
    """Returns a check's status, coloured."""
    return Markup(f'<span class="tag {KINDS[status]}">{escape(status)}</span>')


def _outcomes(record: Record, names: Sequence[str]) -> str:
    lines = [
        f"<p>{tag(one['status']).html} <b>{escape(title(one['name']))}</b>: {escape(one['words'])}</p>"
        for one in record["checks"]
        if one["name"] in names
    ]
    return "".join(lines)


def _sentence(words: str) -> str:
    """Returns a phrase as a sentence."""
    text = words.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _quantiles(values: Sequence[float | None]) -> list[tuple[str, float | None]]:
    """Returns the evenly spaced quantiles with their names."""
    last = len(values) - 1
    named = {0: "least", last: "most"} if last > 0 else {}
    return [(named.get(k, "median" if 2 * k == last else f"{k / max(last, 1):.0%} quantile"), value) for k, value in enumerate(values)]


def _data(record: Record) -> str:
    data = record["data"]
    low, high = data["reward_range"]
    shown = tiles(
        [
            ("episodes", data["episodes"]),
            ("steps", data["steps"]),
            ("episodes judged by", data["evaluation_episodes"]),
            ("discount", data["discount"]),
            ("ended by the task", share(data["terminal_share"])),
            ("reward", f"{number(low)} … {number(high)}"),
        ]
    )
    clock = {"continues": "What the clock cut off goes on.", "ends": "The clock's end is the task's end."}[data["clock"]]
    text = paragraph(f"Log {data['name']}. {clock}")
    rows = [(name, value, None) for name, value in _quantiles(data["return_quantiles"])]
    lengths = dict(_quantiles(data["length_quantiles"]))
    body = [(name, value, lengths.get(name)) for name, value, _ in rows]
    return shown + text + (table(("of the episodes", "discounted return", "length"), body, label="Returns and lengths") if body else "")


def _leakage(record: Record) -> str:
    if not record["leakage"]:
        return paragraph("No column was found that tells the action or the outcome from after it.")
    rows = [(item["column"] or "–", item["kind"], item["words"]) for item in record["leakage"]]
    return table(("column", "kind", "found"), rows, label="Leakage")


def _behaviour(record: Record) -> str:
    behaviour = record["behaviour"]
    facts = [
        ("calibration error (ECE)", share(behaviour["ece"])),
        ("smallest probability (density) of a logged action", behaviour["smallest"]),
        ("steps where it all but always does the same", share(behaviour["near_deterministic"])),
    ]
    curve = draw.calibration(behaviour["bins"])
    words = "" if curve else paragraph("There is no calibration curve for these actions.", "soft")
    return (
        paragraph(f"Where the logged policy's probabilities come from: {behaviour['source']}.")
        + tiles(facts)
        + (figures([curve]) if curve else words)
    )


def _support(record: Record) -> str:
    support = record["support"]
    shown = tiles(
        [
            ("of its decisions below 1 % logged probability", share(support["below_1_percent"])),
            ("of its decisions below 5 %", share(support["below_5_percent"])),
            ("of observations beyond 99 % of the training log's", share(support["observation_beyond"])),
            ("of its decisions beyond 99 % of the logged ones", share(support["action_beyond"])),
        ]
    )
    rows = [
        (
            f"{item['episode']}:{item['step']}",
            vector(item["logged_action"]),
            vector(item["policy_action"]),
            "–" if item["probability"] is None else number(float(item["probability"])),
            "–" if item["distance"] is None else number(float(item["distance"])),
            vector(item["observation"]),
            "; ".join(f"{near['episode']}:{near['step']} → {vector(near['action'])}" for near in item["neighbours"]) or "–",
        )
        for item in support["least"]
    ]
    heads = ("episode:step", "logged", "policy", "probability", "distance", "observation", "nearest logged → action")
    least = table(heads, rows, f"Least supported decisions: {len(rows)}") if rows else ""
    drift = support["drift"]
    worst = [(vector(item["dimension"]), item["difference"], item["p"]) for item in drift["worst"]]
    told = paragraph(f"Telling the evaluation episodes from the others: AUROC {number(drift['auroc'])} (0.5: they are alike).")
    moved = (
        table(("dimension", "distance", "p"), worst, "What moved most: the largest distance of the distributions, 0 to 1, and its p-value")
        if worst
        else ""
    )
    return shown + least + told + moved


def _weights(record: Record) -> str:
    weights = record["weights"]
    gate = next((one for one in record["checks"] if one["name"] == "weights"), None)
    curve = draw.effective_sizes(weights["effective_sizes"], None if gate is None else gate["limit"])
    facts = tiles([("largest share of one episode", share(weights["largest_share"])), ("tail index (Pareto k)", weights["pareto_k"])])
    return facts + (figures([curve]) if curve else paragraph("There are no weights to draw.", "soft"))


def _estimates(record: Record) -> str:
    numbers = record["numbers"]
    logged = numbers["behaviour_value"]
    judged = [item for item in record["estimates"] if item["name"] != "logged"]  # it has the first row
    rows = [Row("logged, measured", logged, measured=True)]
    rows += [Row(item["name"], item["interval"], item["reason"] or "not estimable") for item in judged]
    forest = draw.interval_rows(
        rows, "value of an episode's start", "Estimates with their intervals; grey: refused, and why. An arrow: the interval goes on.",
        logged["estimate"], "logged policy",
    )  # fmt: skip
    estimator = f" by {numbers['estimator']}" if numbers["estimator"] else ""
    paired = ", paired over episodes" if numbers["difference"] else ""
    difference = paragraph(f"Difference to the logged policy{estimator}: {interval_text(numbers['difference'])}{paired}.")
    level = paragraph(
        f"Intervals at {100 * logged['level']:g} %. Disagreement of the estimators: {number(record['disagreement'])}.", "soft"
    )
    alike: dict[str, list[str]] = {}  # estimators refused for the same reason are told together
    for item in record["estimates"]:
        alike.setdefault(_estimate(item) if item["interval"] is None else item["name"], []).append(item["name"])
    told = {names[0]: ", ".join(names) for names in alike.values()}
    detail = [(told[item["name"]], Markup(_estimate(item))) for item in record["estimates"] if item["name"] in told]
    return difference + forest + level + (table(("estimator", "value"), detail, label="Estimates") if detail else "")


def _bounds(record: Record) -> str:
    known = record["other_bounds"]
    span, rows = known["return_range"], known["rows"]
    if span is None:
        said = "No range of the returns is known; --return-range LOW HIGH declares one. What a log happens to show is none."
    else:
        said = f"Returns are taken to lie from {number(span['low'])} to {number(span['high'])}: {span['source']}."
    if known["largest_weight"] is not None:
        said += f" A whole episode's weight is taken to be at most {number(known['largest_weight'])}: declared in the request."
    told = {row["reason"] for row in rows if row["estimator"] == "is"}
    refused = next(iter(told)) if len(told) == 1 and None not in told else None
    if refused:
        said += f" This policy, by whole episodes' weights (is): {refused}."
    else:
        said += " This policy's are of the return weighted by whole episodes (is)."
    cells = {(row["estimator"], row["name"]): row for row in rows}
    body = []
    for name, words in BOUNDS.items():
        logged, weighted = cells["logged", name], cells["is", name]
        values = paragraph(f"Logged policy: {_bound(logged)}.") + ("" if refused else paragraph(f"This policy: {_bound(weighted)}."))
        body.append((words, Markup(values + paragraph(f"Assumes: {weighted['assumption']}. Tested on {weighted['tested']}.", "soft"))))
    note = "The verdict rests on the intervals above; these stand beside them for who needs another guarantee."
    return paragraph(note, "soft") + paragraph(said) + table(("method", "mean return"), body, label="Other bounds")


def _bound(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return str(row["reason"])
    if row["one_sided"]:
        return f"at least {number(row['interval']['low'])}"
    return interval_text(row["interval"])


def _estimate(item: Mapping[str, Any]) -> str:
    about = [f"interval: {item['interval_method']}"] if item["interval_method"] else []
    about += [f"assumes: {'; '.join(item['assumptions'])}"] if item["assumptions"] else []
    about += [f"{title(name)}: {number(value)}" for name, value in item["diagnostics"].items()]
    value = interval_text(item["interval"], item["reason"] or "not estimable")
    return paragraph(value) + (paragraph(". ".join(text[0].upper() + text[1:] for text in about) + ".", "soft") if about else "")


def _found(rows: Sequence[Mapping[str, Any]], what: str, caption: str) -> str:
    """Returns a figure and table of estimates whose truth is known."""
    if not rows:
        return ""
    truths = {row["truth"] for row in rows}
    one = next(iter(truths)) if len(truths) == 1 else None
    names = [f"{row['name']}, {row['logger']}" if row.get("logger") else row["name"] for row in rows]
    shown = [Row(name, row["interval"], row.get("reason") or "not estimable") for name, row in zip(names, rows)]
    answer = {True: Markup('<span class="tag good">yes</span>'), False: Markup('<span class="tag error">no</span>'), None: "–"}
    body = [
        (name, interval_text(row["interval"], row.get("reason") or "not estimable"), row["truth"], answer[row["contains"]])
        for name, row in zip(names, rows)
    ]
    return draw.interval_rows(shown, what, caption, one, "measured") + table(
        ("estimator", "estimate", "measured", "contained"), body, label=caption
    )


def _self_checks(record: Record) -> str:
    own = record["self_checks"]
    parts = [_found(own["placebo"], "value of the logged policy", "Placebo: each estimator judges the logged policy itself.")]
    parts.append(
        _found(own["leave_one_logger_out"], "value of the logger left out", "Each logger's value, estimated from the others' episodes.")
    )
    trial = own["semi_synthetic"]
    if trial is not None:
        rows = trial.get("rows") or []
        heads = list(rows[0]) if rows else []
        facts = ", ".join(f"{title(key)} {vector(value)}" for key, value in trial.items() if key != "rows")
        caption = "A model of these data taken as the truth" + (f" ({facts})" if facts else "")
        body = [tuple(row.get(head) for head in heads) for row in rows]
        parts.append(table([title(head) for head in heads], body, caption) if rows else paragraph(caption))
    return "".join(parts)


def _sanity(record: Record) -> str:
    sanity = record["sanity"]
    rows = [
        ("highest value that any return can have", sanity["highest_possible"]),
        ("lowest", sanity["lowest_possible"]),
        ("what the policy's critic believes the start to be worth", sanity["believed"]),
        ("believed value of the logged actions", sanity["q_logged"]),
        ("believed value of the chosen actions", sanity["q_chosen"]),
        ("spread of the critics", sanity["critic_spread"]),
    ]
    units = sanity.get("units")
    said = "" if units in (None, "the log's") else paragraph(f"Units are {units}.", "soft")
    return table(("", "value"), [(name, "–" if value is None else float(value)) for name, value in rows], label="Value sanity") + said


def _risk(record: Record) -> str:
    risk = record["risk"]
    rows = [(f"{float(q):.0%} quantile of the return", interval_text(interval)) for q, interval in risk["quantiles"].items()]
    if risk["cvar"] is not None:
        rows.append((f"mean of the worst {risk['cvar']['alpha']:.0%} (CVaR)", interval_text(risk["cvar"]["interval"])))
    if risk["probability_worse"] is not None:
        rows.append(("probability of being worse than the logged policy", number(float(risk["probability_worse"]))))
    returns = table(("of the policy", ""), rows, label="Risk") if rows else ""
    if risk["reason"] or not rows:
        returns += paragraph(f"Quantiles and CVaR: {risk['reason'] or 'not estimable'}.", "soft")
    groups = record["subgroups"]
    if not groups:
        return returns
    names = [f"{group['column']} = {group['value']}" for group in groups]
    caption = "Difference to the logged policy in each group; the intervals are widened for the number of groups."
    shown = [Row(name, group["interval"], group["reason"] or "") for name, group in zip(names, groups)]
    body = [
        (name, group["episodes"], interval_text(group["interval"], group["reason"] or "not estimable"))
        for name, group in zip(names, groups)
    ]
    forest = draw.interval_rows(shown, "difference to the logged policy", caption, 0.0)
    return returns + forest + table(("group", "episodes", "difference"), body, label="Groups")


def _confounding(record: Record) -> str:
    confounding = record["confounding"]
    curve = draw.sensitivity(confounding["curve"], confounding["gamma_flips"])
    reason = paragraph(_sentence(confounding["reason"]), "soft") if confounding["reason"] else ""
    return paragraph(_sentence(confounding["words"])) + reason + (figures([curve]) if curve else "")


def _selection(record: Record) -> str:
    count = record["selection"]["online_evaluations"]
    online = "not known" if count is None else f"{count:,}"
    return paragraph(_sentence(record["selection"]["words"])) + paragraph(f"Online episodes run before: {online}.")


def _reproducibility(record: Record, seconds: Mapping[str, float] | None) -> str:
    made, policy, data = record["reproducibility"], record["policy"], record["data"]
    rows: list[tuple[object, object]] = [("policy", policy["name"]), ("algorithm", policy["algorithm"]), ("path", policy["path"] or "–")]
    rows += [("used", "sampled" if policy["sampled"] else "its mode or mean"), ("policy sha256", policy["fingerprint"] or "–")]
    rows += [
        ("data sha256", data["fingerprint"] or "–"),
        ("command", made["command"] or "called from Python"),
        ("random seed", str(made["seed"])),
    ]
    rows += [("versions", ", ".join(f"{name} {made[key]}" for name, key in _VERSIONS.items()))]
    if seconds:
        slowest = sorted(seconds.items(), key=lambda item: -item[1])
        rows.append(("seconds", "; ".join(f"{title(name)} {spent:.1f}" for name, spent in slowest)))
    return table(("", ""), rows, label="Reproducibility")


_VERSIONS = {"stitchrl": "version", "Python": "python", "NumPy": "numpy", "PyTorch": "torch"}
