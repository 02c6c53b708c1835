"""The report of a log, `stitchrl data report`, from the JSON of `describe` and of `examine`: a page, and a terminal's text."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from stitchrl.report.page import (
    COLOURS,
    INK,
    Markup,
    Section,
    box,
    drawing,
    escape,
    figure,
    figures,
    meter,
    number,
    page,
    paragraph,
    plain,
    table,
    tiles,
)

VERDICTS = {
    "unusable": ("error", "Unusable as it is: the log has errors"),
    "usable with care": ("warning", "Usable with care: the log has warnings"),
    "sound": ("good", "Sound: nothing wrong was found"),
}
TERMINAL_COLOURS = {"error": "31", "warning": "33", "note": "36", "good": "32", "bold": "1"}


def dataset_page(report: dict[str, Any], findings: dict[str, Any]) -> str:
    """Returns the HTML page. report: `DatasetReport.to_json()`; findings: `findings_to_json(...)`."""
    environment = report["environment"] or "not named"
    size = report["size"]
    lead = paragraph(f"Log of {size['episodes']:,} episodes and {size['steps']:,} steps; environment: {environment}", "soft")
    quality = report["quality"]
    sections = [
        Section("In short", _short(report, findings)),
        Section("Findings", _findings(findings)),
        Section(f"Quality: {_score(quality)}", _quality(quality)),
        Section("Returns and episodes", _returns(report)),
        Section("Rewards", _rewards(report["rewards"])),
        Section("Actions", _actions(report["actions"])),
        Section("Coverage", _coverage(report["coverage"])),
        Section("Columns and origin", _origin(report)),
    ]
    return page(f"Dataset report: {report['name']}", sections, lead)


def _score(quality: dict[str, Any]) -> str:
    known = sum(part["value"] is not None for part in quality["parts"])
    all_known = known == len(quality["parts"])
    return f"{quality['score']:.1f} of 10" + ("" if all_known else f", from the {known} of {len(quality['parts'])} parts that are known")


def _percent(value: float | None) -> str:
    return "not known" if value is None else f"{value:.0%}"


def _short(report: dict[str, Any], findings: dict[str, Any]) -> str:
    kind, words = VERDICTS[findings["verdict"]]
    counts = ", ".join(f"{findings[name]} {name[:-1] if findings[name] == 1 else name}" for name in ("errors", "warnings", "notes"))
    advice = "".join(box("note", item["headline"], item["do"], f"Because {item['because']}.") for item in report["advice"])
    reference = report["reference"]
    shown = tiles(
        [
            ("episodes", report["size"]["episodes"]),
            ("steps", report["size"]["steps"]),
            ("mean return", report["returns"]["mean"]),
            ("mean length", report["lengths"]["mean"]),
            ("random → best known (TQ)", _percent(reference["trajectory_quality"])),
            (
                f"quality, of 10{'' if reference['trajectory_quality'] is not None else ' (partly known)'}",
                f"{report['quality']['score']:.1f}",
            ),
        ]
    )
    return box(kind, words, counts) + shown + advice


def _findings(findings: dict[str, Any]) -> str:
    if not findings["findings"]:
        return paragraph("None: every check passed.")
    rows = []
    for item in findings["findings"]:
        tag = Markup(f'<span class="tag {escape(item["severity"])}">{escape(item["severity"])}</span>')
        text = Markup(paragraph(item["message"]) + paragraph(item["advice"], "soft"))
        rows.append((tag, Markup(f"<code>{escape(item['code'])}</code>"), text, _places(item)))
    return table(("", "what", "found, and what to do", "places (episode:step)"), rows, label="Findings")


def _places(item: dict[str, Any]) -> str:
    if not item["episodes"]:
        return "–"
    if item["steps"]:
        shown = [f"{e}:{s}" for e, s in zip(item["episodes"], item["steps"])]
    else:
        shown = [str(e) for e in item["episodes"]]
    return ", ".join(shown) + (" …" if item["count"] > len(shown) else "")


def _quality(quality: dict[str, Any]) -> str:
    rows = []
    for part in quality["parts"]:
        value = part["value"]
        bar = Markup("–") if value is None else meter(value, 10, f"{value:.1f} of 10")
        rows.append((part["name"], "not known" if value is None else f"{value:.1f}", bar, f"{part['weight']:.0%}", part["because"]))
    text = "The weighted mean of the parts that are known. A part that cannot be known from this log has no say and is not guessed."
    held = paragraph("Held to 2 because the log has errors.", "error") if quality["capped"] else ""
    return table(("part", "of 10", "", "weight", "because"), rows, label="Quality score") + held + paragraph(text, "soft")


def _bars(edges: Sequence[float], counts: Sequence[float], label: str, lines: Sequence[tuple[str, float | None]] = ()) -> str:
    with drawing() as drawn:
        axes = drawn.axes
        widths = [b - a for a, b in zip(edges[:-1], edges[1:])]
        if len(widths) <= 12 and set(widths) == {1.0}:  # whole numbers
            centres = [a + 0.5 for a in edges[:-1]]
            axes.bar(centres, list(counts), width=0.7, color=COLOURS[0])
            axes.set_xticks(centres, [f"{centre:g}" for centre in centres])
        else:
            axes.bar(list(edges[:-1]), list(counts), width=widths, align="edge", color=COLOURS[0], edgecolor="none")
            axes.locator_params(axis="x", nbins=6)
        for k, (name, value) in enumerate(lines):
            if value is not None:
                axes.axvline(value, color=COLOURS[(1, 2, 3)[k % 3]], linewidth=1.6, linestyle=("-", "--", ":")[k % 3], label=name)
        if any(value is not None for _, value in lines):
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0)
        axes.set_xlabel(label)
        axes.set_ylabel("episodes")
        axes.locator_params(axis="y", nbins=5, integer=True)
    return drawn.svg


def _returns(report: dict[str, Any]) -> str:
    shown = []
    reference = report["reference"]
    for key, label in (("returns", "return of an episode"), ("lengths", "steps of an episode")):
        values = report[key]
        if values["histogram"] is None or values["min"] == values["max"]:
            continue
        lines = [("mean", values["mean"])]
        if key == "returns":
            lines += [("random", reference["random"]), ("best known", reference["expert"])]
        drawn = _bars(values["histogram"]["edges"], values["histogram"]["counts"], label, lines)
        alt = f"Histogram of the {label}: mean {number(values['mean'])}, from {number(values['min'])} to {number(values['max'])}"
        shown.append(figure(drawn, label.capitalize() + ".", alt))
    discounted = report["discounted_returns"]
    columns = [("return", report["returns"]), ("length", report["lengths"])]
    if discounted["discount"] != 1.0:
        columns.insert(1, (f"discounted return ({discounted['discount']:g})", discounted))
    rows = [(name, *(values[name] for _, values in columns)) for name in ("mean", "std", "min")]
    rows += [(f"{float(q):.0%} quantile", *((values["quantiles"] or {}).get(q) for _, values in columns)) for q in ("0.05", "0.5", "0.95")]
    rows.append(("max", *(values["max"] for _, values in columns)))
    ends = report["endings"]
    said = [
        f"{ends[name]:,} {words}" for name, words in (("terminals", "with the task (terminal)"), ("timeouts", "by the clock (timeout)"))
    ]
    said += [f"{ends[name]:,} {words}" for name, words in (("both", "with both flags"), ("neither", "with neither flag")) if ends[name]]
    same = f"Every episode has {number(report['lengths']['mean'])} steps. " if report["lengths"]["std"] == 0 else ""
    note = paragraph(f"{same}Of {report['size']['episodes']:,} episodes, {'; '.join(said)}.")
    return figures(shown) + table(("", *(name for name, _ in columns)), rows, "Distributions over episodes") + note


def _rewards(rewards: dict[str, Any]) -> str:
    if rewards["mean"] is None:
        return paragraph("No reward is finite.")
    if rewards["distinct"] == 1:
        return paragraph(f"Every reward is {number(rewards['mean'])}.")
    text = f"Rewards lie in {number(rewards['min'])} … {number(rewards['max'])}, mean {number(rewards['mean'])}"
    if rewards["rare_share"] > 0.99:
        return paragraph(f"{text}; hardly any value occurs twice.")
    words = f"; {rewards['distinct']:,} distinct value{'s' * (rewards['distinct'] != 1)}, the most common {number(rewards['most_common'])}"
    return paragraph(f"{text}{words}, from which {rewards['rare_share']:.1%} of the steps differ.")


def _actions(actions: dict[str, Any]) -> str:
    if actions["kind"] == "discrete":
        with drawing(width=4.4 if actions["n"] <= 30 else 6.5) as drawn:
            total = max(1, sum(actions["counts"]))
            drawn.axes.bar(range(actions["n"]), [100 * c / total for c in actions["counts"]], color=COLOURS[0])
            drawn.axes.axhline(100 / actions["n"], color=COLOURS[1], linewidth=1.4, linestyle="--", label="uniform")
            drawn.axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
            drawn.axes.set_xlabel("action")
            drawn.axes.set_ylabel("% of steps")
            if actions["n"] <= 12:
                drawn.axes.set_xticks(range(actions["n"]))
        text = (
            f"{sum(c > 0 for c in actions['counts'])} of {actions['n']} actions occur; the entropy of their frequencies is "
            f"{actions['entropy_nats']:.3f} nats, {actions['entropy']:.0%} of uniform."
        )
        return paragraph(text) + figures(
            [figure(drawn.svg, "How often each action was taken.", f"Bars of the frequency of {actions['n']} actions")]
        )
    return paragraph(_continuous_words(actions)) + figures(_marginals(actions["histograms"]), small=True)


def _continuous_words(actions: dict[str, Any]) -> str:
    if actions["entropy"] is None:
        return "No action is finite."
    over = "bounds" if actions["bounded"] else "range (they have no bounds)"
    count: int = actions["dimensions"]
    text: str = f"{count} dimension{'s' * (count != 1)}. Over their {over}, the actions have {actions['entropy']:.0%} of the entropy"
    text += " of uniform ones" + ", dimension by dimension" * (count > 1)
    if actions["entropy_nats"] is None:
        text += "; the joint entropy is not defined, as many actions are exactly equal (at a bound, say)."
    else:
        text += f"; their joint entropy by nearest neighbours is {number(actions['entropy_nats'])} nats"
        below = actions["entropy_below_uniform_nats"]
        text += (
            "."
            if below is None
            else f", {number(abs(below))} {'below' if below >= 0 else 'above'} that of uniform actions within the bounds."
        )
    if actions["clipped_share"] > 0:
        text += f" {actions['clipped_share']:.1%} of the values lie outside the bounds and are counted in the outermost bars."
    return text


def _marginals(histograms: list[dict[str, Any]]) -> list[str]:
    shown = []
    for k, histogram in enumerate(histograms):
        with drawing(width=3.4, height=1.7) as drawn:
            total = max(1, sum(histogram["counts"]))
            edges = histogram["edges"]
            widths = [b - a for a, b in zip(edges[:-1], edges[1:])]
            drawn.axes.bar(
                edges[:-1], [100 * c / total for c in histogram["counts"]], width=widths, align="edge", color=COLOURS[0], linewidth=0
            )
            drawn.axes.set_ylabel("% of steps")
            drawn.axes.locator_params(axis="y", nbins=4)
            drawn.axes.locator_params(axis="x", nbins=6)
        shown.append(figure(drawn.svg, f"Action {k}.", f"Histogram of action dimension {k}, {edges[0]:.3g} to {edges[-1]:.3g}"))
    return shown


def _coverage(coverage: dict[str, Any]) -> str:
    pairs, variety = coverage["state_action_coverage"], coverage["action_variety"]
    rows: list[tuple[object, ...]] = []
    for key, name in (("state", "states"), ("state_action", "state-action pairs")):
        part = coverage[key]
        rows.append(
            (name, f"{part['entropy']:.2f}", f"evenness of visits ({coverage['measure']}): {part['clusters']:,} of {part['of']:,} visited")
        )
    rows.append(("actions in like states", _ratio(variety["value"]), variety["measure"] + "; 0 is one action, 1 is uniform"))
    against = pairs["reference"] if pairs["value"] is None else f"{pairs['unique']:,} different pairs against {pairs['reference']}"
    rows.append(("SACo", _ratio(pairs["value"]), against))
    shown = []
    with drawing() as drawn:
        for k, (key, name) in enumerate((("state", "states"), ("state_action", "pairs"))):
            shares = coverage[key]["shares"]
            style = ("-", "--")[k]
            drawn.axes.plot(
                range(1, len(shares) + 1), [100 * s for s in shares], color=COLOURS[k], linestyle=style, label=name, linewidth=1.8
            )
        drawn.axes.set_ylim(bottom=0)
        drawn.axes.set_xlabel("clusters, most visited first" if "clusters" in coverage["measure"] else "most visited first (64 shown)")
        drawn.axes.set_ylabel("% of steps")
        drawn.axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    shown.append(
        figure(drawn.svg, "Share of the steps in each place; a flat line is even coverage.", "Falling lines of visits to states and pairs")
    )
    if coverage["map"] is not None:
        shown.append(_map(coverage["map"]))
    return table(("of", "value", "measured as"), rows, label="Coverage") + figures(shown)


def _ratio(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _map(density: dict[str, Any]) -> str:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    counts = np.asarray(density["counts"], dtype=float).T
    # from faint to full in one hue, on nothing: it reads on white and on black
    colours = LinearSegmentedColormap.from_list("visits", [(0.0, 0.45, 0.70, 0.18), (0.0, 0.45, 0.70, 1.0)])
    with drawing() as drawn:
        x, y = density["x"], density["y"]
        seen = np.ma.masked_equal(counts, 0)
        most = max(2.0, float(counts.max()))
        image = drawn.axes.imshow(
            seen,
            origin="lower",
            extent=(x[0], x[-1], y[0], y[-1]),
            aspect="auto",
            cmap=colours,
            norm=LogNorm(1, most),
            interpolation="nearest",
        )
        bar = drawn.axes.figure.colorbar(image, ax=drawn.axes, label="steps (sampled)")
        bar.outline.set_visible(False)
        bar.ax.patch.set_alpha(0)
        bar.ax.yaxis.set_major_formatter("{x:g}")
        drawn.axes.set_xlabel("first principal direction")
        drawn.axes.set_ylabel("second")
    share = f"{density['variance_share']:.0%}"
    return figure(
        drawn.svg, f"Where the states lie: two directions that hold {share} of their variance.", "Map of visited states on two directions"
    )


def _origin(report: dict[str, Any]) -> str:
    size = report["size"]
    columns = table(("column", "type of a row"), list(size["columns"].items()), "Columns")
    facts = [
        (key, value if isinstance(value, str | int | float) else str(value))
        for key, value in report["metadata"].items()
        if value is not None
    ]
    memory = f"{size['bytes'] / 2**20:,.1f} MiB in all" + ("" if size["groups"] is None else f"; {size['groups']:,} groups")
    return columns + paragraph(memory, "soft") + (table(("metadata", ""), [(k, str(v)) for k, v in facts], "Metadata") if facts else "")


def dataset_text(report: dict[str, Any], findings: dict[str, Any], width: int = 100, colour: bool | None = None) -> str:
    """Returns the same in short for a terminal; `colour` by default where standard output is one and NO_COLOR is not set."""
    coloured = (sys.stdout.isatty() and "NO_COLOR" not in os.environ) if colour is None else colour

    def paint(text: str, kind: str) -> str:
        return f"\x1b[{TERMINAL_COLOURS[kind]}m{text}\x1b[0m" if coloured else text

    def wrapped(text: object, first: str, rest: str) -> list[str]:
        return textwrap.wrap(plain(text), width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False)

    returns, lengths, reference = report["returns"], report["lengths"], report["reference"]
    kind, words = VERDICTS[findings["verdict"]]
    lines = [paint(plain(report["name"]), "bold"), paint(words, kind), ""]
    facts = [
        ("size", f"{report['size']['episodes']:,} episodes, {report['size']['steps']:,} steps"),
        ("return", f"mean {number(returns['mean'])}, std {number(returns['std'])}, {number(returns['min'])} … {number(returns['max'])}"),
        ("length", f"mean {number(lengths['mean'])}, {number(lengths['min'])} … {number(lengths['max'])}"),
        ("endings", ", ".join(f"{count:,} {name}" for name, count in report["endings"].items() if count)),
        (
            "level (TQ)",
            _percent(reference["trajectory_quality"])
            + " of the way from random to best known" * (reference["trajectory_quality"] is not None),
        ),
        ("quality", _score(report["quality"])),
    ]
    for name, text in facts:
        lines += wrapped(text, f"  {name:<11} ", " " * 14)
    lines += [
        "  " + f"{part['name']:<14} " + ("not known" if part["value"] is None else f"{part['value']:4.1f}")
        for part in report["quality"]["parts"]
    ]
    for item in report["advice"]:
        lines += [
            "",
            paint(plain(item["headline"]), "bold"),
            *wrapped(f"Because {item['because']}.", "  ", "  "),
            *wrapped(item["do"], "  ", "  "),
        ]
    return "\n".join([*lines, "", findings_text(findings, width, coloured)])


def findings_text(findings: dict[str, Any], width: int = 100, colour: bool = False) -> str:
    """Returns the findings for a terminal, errors first: one paragraph each, with its places and what to do."""
    lines = []
    for item in findings["findings"]:
        tag = f"{item['severity']:<8}"
        body = textwrap.wrap(plain(f"{item['code']}: {item['message']}"), width - 9, break_on_hyphens=False)
        shown = f"\x1b[{TERMINAL_COLOURS[item['severity']]}m{tag}\x1b[0m" if colour else tag
        lines += [f"{shown} {body[0]}", *(" " * 9 + line for line in body[1:])]
        lines += textwrap.wrap(plain(item["advice"]), width, initial_indent=" " * 9, subsequent_indent=" " * 9, break_on_hyphens=False)
    return "\n".join(lines or ["No findings: every check passed."]) + "\n"
