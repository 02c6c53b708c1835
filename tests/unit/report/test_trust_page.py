"""The trust report's page, text and schema on three records: true to them, whole, escaped, self-contained, narrow enough."""

from __future__ import annotations

import copy
import csv
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stitchrl import api
from stitchrl.core.errors import ConfigError, StitchError
from stitchrl.evaluation.verdict import EXIT_CODES, RULES, STATUSES
from stitchrl.report import trust_page as module
from stitchrl.report.trust_figures import Row, action_frequencies, actions_together, interval_rows, interval_text
from stitchrl.report.trust_page import QUESTIONS, trust_page, trust_text
from stitchrl.report.trust_tables import figure_tables
from stitchrl.verbs.trust import QUESTION, TrustFlags, command, files_of, question, tell, trust
from tests.unit.report.schema_check import faults
from tests.unit.report.trust_records import RECORDS, not_supported, span, supported, with_before

SCHEMA = json.loads((Path(module.__file__).parent / "trust_schema.json").read_text(encoding="utf-8"))
HOSTILE = '<script>alert("x")</script>\x1b[31m\u202e&\''
KINDS = pytest.mark.parametrize("kind", RECORDS)


@cache
def html(kind: str) -> str:
    """Returns the page of a sample record, made once."""
    return trust_page(RECORDS[kind]())


class Page(HTMLParser):
    """The words, tags and attributes of a page; raises where a tag is closed that was not the last opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.open, self.attributes = "", set[str](), list[str](), list[tuple[str, str]]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", self.text)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every text in a record."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, (*path, key))


# ------------------------------------------------------------------------------------------------------------------------ schema


@KINDS
def test_the_sample_records_follow_the_schema(kind: str) -> None:
    record = RECORDS[kind]()
    assert list(faults(record, SCHEMA)) == []
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_the_schema_is_a_schema_where_one_can_ask() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert [error.message for make in RECORDS.values() for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(make())] == []


def test_the_schema_knows_the_verdicts_words_and_checks() -> None:
    verdict, check = SCHEMA["$defs"]["verdict"]["properties"], SCHEMA["$defs"]["check"]["properties"]
    assert verdict["word"]["enum"] == list(EXIT_CODES) and set(verdict["exit_code"]["enum"]) == set(EXIT_CODES.values())
    assert check["name"]["enum"] == list(RULES) == list(QUESTIONS)
    assert check["status"]["enum"] == list(STATUSES)


def test_the_schema_refuses_what_is_wrong() -> None:
    def broken(change: Callable[[dict[str, Any]], Any]) -> list[str]:
        record = supported()
        change(record)
        return list(faults(record, SCHEMA))

    assert broken(lambda r: r.pop("numbers")) == ["$: numbers is missing"]
    assert broken(lambda r: r.update(seconds=1.0)) == ["$: seconds is not foreseen"], "no wall time in the JSON"
    assert broken(lambda r: r["estimates"][0].update(seconds=1.0)) == ["$.estimates[0]: seconds is not foreseen"]
    assert broken(lambda r: r["checks"].pop()) == ["$.checks: 18 items"]
    assert broken(lambda r: r["checks"][3].update(status="ok")) == ["$.checks[3].status: 'ok' is none of " + str(list(STATUSES))]
    assert broken(lambda r: r["checks"][3].update(words="")) == ["$.checks[3].words: too short"]
    assert broken(lambda r: r["numbers"].update(policy_value=0.8)) == ["$.numbers.policy_value: fits none of 2 forms"], "no bare number"
    assert broken(lambda r: r["data"].update(terminal_share=1.2)) == ["$.data.terminal_share: 1.2 is out of range"]
    assert broken(lambda r: r["numbers"]["behaviour_value"].update(level=1)) == ["$.numbers.behaviour_value.level: 1 is out of range"]


# -------------------------------------------------------------------------------------------------------------------------- page


@KINDS
def test_the_verdict_comes_first_with_its_sentence_numbers_and_what_would_change_it(kind: str) -> None:
    record = RECORDS[kind]()
    words = Page(html(kind)).words
    heading = words.index(f"{record['verdict']['word']}: {record['policy']['name']}", words.index("}"))
    order = [words.index(text, heading) for text in (record["verdict"]["sentence"], "What would change the verdict", "Checks", "1. Data")]
    assert order == sorted(order)
    assert all(change in words for change in record["verdict"]["would_change"])
    for name in ("behaviour_value", "policy_value", "difference"):
        value, _, ends = interval_text(record["numbers"][name]).partition(" [")
        assert value in words[heading : order[2]] and ends in words[heading : order[2]]


@KINDS
def test_every_check_is_listed_with_its_words_and_every_section_is_there(kind: str) -> None:
    record = RECORDS[kind]()
    page = Page(html(kind))
    body = page.words[page.words.index("Every check is listed") - 6000 : page.words.index("Every check is listed")]
    for one in record["checks"]:
        assert re.search(rf"{one['name'].replace('_', ' ')} {one['status']} {re.escape(one['words'])}", body), one["name"]
    titles = (
        "Data",
        "Integrity and leakage",
        "Behaviour policy",
        "Support",
        "Importance weights",
        "Value estimates",
        "Other bounds",
        "Self-checks of the estimators",
    )
    more = ("Value sanity", "Risk and groups", "Hidden confounding", "Selection", "Behaviour explained", "Reproducibility")
    assert all(f"{k}. {title}" in page.words for k, title in enumerate((*titles, *more), 1))
    assert page.open == [], "every tag is closed"


@KINDS
def test_refused_estimates_are_told_with_their_reason_and_never_as_a_number(kind: str) -> None:
    record = RECORDS[kind]()
    page = Page(html(kind))
    for item in record["estimates"]:
        assert (item["reason"] or interval_text(item["interval"])) in page.words
    if kind == "not supported":
        assert "drl, wdr, wpdis, mwl, model not estimable" in page.words, "one reason is told once"
    assert "None" not in page.words and not re.search(r"\bnan\b|\binf\b|Infinity", page.words, flags=re.IGNORECASE)


@KINDS
def test_the_page_needs_no_network_and_runs_nothing(kind: str) -> None:
    text = html(kind)
    page = Page(text)
    assert page.tags & {"script", "iframe", "object", "embed", "link", "form", "img"} == set()
    assert not re.search(r"https?://|//cdn|@import|url\((?!#)", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    inside = ("#", "data:image/png;base64,")
    assert [
        pair for pair in page.attributes if pair[0].startswith("on") or (pair[0].endswith("href") and not pair[1].startswith(inside))
    ] == []
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_the_same_record_gives_the_same_page_and_is_left_as_it_was() -> None:
    record = RECORDS["not estimable"]()
    before = copy.deepcopy(record)
    assert trust_page(record) == html("not estimable") and record == before


def test_seconds_are_on_the_page_and_in_the_text_only_where_given() -> None:
    assert "fqe 12.3" in Page(trust_page(supported(), {"fqe": 12.34, "support": 2.0})).words
    assert trust_text(supported(), {"fqe": 12.34, "support": 2.0}).endswith("14.3 s")
    assert not trust_text(supported()).endswith(" s")


def test_no_text_of_a_record_becomes_markup_or_obeys_in_a_terminal() -> None:
    for make in (supported, not_supported, with_before):
        record = make()
        paths = [path for path in leaves(record) if path[-1] not in ("word", "status", "clock")]
        paths = [
            path for path in paths if not (path[-1] == "name" and {"checks", "other_bounds"} & set(path[:2]))
        ]  # names that a schema lists
        paths = [path for path in paths if path[0] != "other_bounds" or path[-1] != "estimator"]
        for *path, last in paths:
            inner = record
            for key in path:
                inner = inner[key]
            inner[last] = HOSTILE + str(inner[last])
        assert len(paths) > 60
        shown = trust_page(record)
        page = Page(shown)
        assert "script" not in page.tags and "<script>" in page.words
        for text in (shown, trust_text(record)):
            assert "\x1b" not in text and "\u202e" not in text


def test_a_column_named_script_is_shown_as_it_is() -> None:
    record = supported()
    record["subgroups"][0]["column"] = "<script>"
    record["support"]["drift"]["worst"][0]["dimension"] = "<script>"
    text = trust_page(record)
    assert "<script>" not in text and "&lt;script&gt; = surgical" in text


def test_what_is_missing_is_told_and_breaks_nothing() -> None:
    record = not_supported()
    record["estimates"], record["data"]["return_quantiles"], record["data"]["length_quantiles"] = [], [], []
    record["self_checks"] = {"placebo": [], "leave_one_logger_out": [], "semi_synthetic": None}
    record["support"] |= {"below_1_percent": None, "below_5_percent": None, "observation_beyond": None, "action_beyond": None, "least": []}
    record["support"]["drift"] = {"auroc": None, "worst": []}
    record["numbers"]["behaviour_value"] = span(1.0, 0.0, 0.0) | {"low": None, "high": None}
    record["selection"]["online_evaluations"] = None
    assert list(faults(record, SCHEMA)) == []
    words = Page(trust_page(record)).words
    assert "None" not in words and "not known" in words and "no interval" in words
    assert "no interval" in trust_text(record)


# ----------------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (span(0.8124, 0.7931, 0.8312), "0.812 [0.793, 0.831]"),
        (span(1412.2, 1370.4, 1453.0), "1,412 [1,370, 1,453]"),
        (span(-0.5, -3.25, 2.0), "−0.5 [−3.2, 2.0]"),
        (span(0.00001, -0.2, 0.2), "0 [−0.20, 0.20]"),
        (span(3.0, 3.0, 3.0), "3.000 [3.000, 3.000]"),
        (span(0.2, 0.1, 0.0) | {"high": None}, "0.2 (from 0.1)"),
        (span(0.2, 0.1, 0.0) | {"low": None, "high": None}, "0.2 (no interval)"),
        (None, "not estimable"),
    ],
)
def test_intervals_are_told_with_the_digits_that_their_width_bears(interval: dict[str, Any] | None, text: str) -> None:
    assert interval_text(interval) == text


def test_an_interval_too_wide_is_cut_with_an_arrow_and_the_others_stay_readable() -> None:
    rows = [Row("fqe", span(0.5, 0.4, 0.6)), Row("is", span(9.0, -1000.0, 1000.0)), Row("wis", None, "not estimable: $why$ <b>")]
    drawn = interval_rows(rows, "value", "caption", 0.45, "logged")
    ticks = [float(t.replace("−", "-")) for t in re.findall(r">\s*(−?\d+\.\d+)\s*</text>", drawn)]
    assert ticks and max(ticks) < 1 and min(ticks) > 0
    assert "not estimable: $why$ &lt;b&gt;" in drawn
    assert interval_rows([], "value", "caption") == ""
    only = interval_rows([Row("wis", None, "refused")], "value", "caption", None)
    assert "refused" in only


def test_many_actions_become_a_map() -> None:
    few, many = action_frequencies([0.5, 0.5], [1.0, 0.0]), action_frequencies([0.02] * 50, [0.02] * 50)
    assert "<image" not in few and "<image" in many and 'href="data:image/png;base64' in many
    assert action_frequencies([], []) == ""


def test_a_map_says_how_often_policy_and_log_agree() -> None:
    drawn = actions_together([[0.27, 0.23], [0.18, 0.32]])
    assert "<image" in drawn and "agree: 59 %" in drawn and "logged action" in drawn
    assert actions_together(None) == "" and "<image" in actions_together([[0.0, 0.0], [0.5, 0.5]]), "an action never logged"


@KINDS
def test_each_figure_has_its_numbers_in_a_csv(kind: str) -> None:
    record = RECORDS[kind]()
    tables = figure_tables(record)
    assert len(tables) == html(kind).count("<figure>")
    parsed = {name: list(csv.DictReader(text.splitlines())) for name, text in tables.items()}
    for row, item in zip(parsed["estimates"], record["estimates"], strict=True):
        assert row["name"] == item["name"] and row["reason"] == (item["reason"] or "")
        found = [float(row[end]) if row[end] else None for end in ("estimate", "low", "high", "level")]
        assert found == (
            [None] * 4 if item["interval"] is None else [item["interval"][end] for end in ("estimate", "low", "high", "level")]
        )
    if record["actions"] is not None:
        assert [float(row["policy"]) for row in parsed["action_frequencies"]] == record["actions"]["policy"]
    if "actions_together" in parsed:
        assert float(parsed["actions_together"][26]["share_of_steps"]) == record["actions"]["together"][1][1]
    assert ("before_and_after" in parsed) == (kind == "with before")


def test_a_csv_is_no_formula() -> None:
    record = supported()
    record["subgroups"][0]["column"] = "=cmd|'/c calc'!A1"
    assert "\n\"'=cmd" in figure_tables(record)["subgroups"]


# ---------------------------------------------------------------------------------------------------- other bounds and examples


def test_other_bounds_are_told_with_what_they_assume_or_why_there_are_none() -> None:
    words = Page(html("supported")).words
    part = words[words.rindex("7. Other bounds") : words.rindex("8. Self-checks")]
    assert "from 0 to 1: declared in the request" in part and "at least 0.692" in part, "0.812 - 0.12"
    assert part.count("not claimed: no bound of a whole episode's weight is known") == 2 and part.count("Tested on 100 skewed returns") == 6
    refused = Page(html("not estimable")).words
    part = refused[refused.rindex("7. Other bounds") : refused.rindex("8. Self-checks")]
    assert "No range of the returns is known" in part and part.count("0 effective episodes of 100") == 1, "one reason is told once"


def test_example_episodes_show_what_was_done_and_what_the_policy_would_do() -> None:
    words = Page(html("supported")).words
    part = words[words.rindex("13. Behaviour explained") :]
    assert "Episode 7, most different (0.91): 2 of 19 steps, return 1" in part
    assert "Episode 1204, least different (0.03): 2 steps, return 1" in part
    assert re.search(r"3 612 4 31 % 12 88 % 0\.42 % 0\.91", part), (
        "step, observation, logged, its probability, policy's, both probabilities"
    )
    continuous = Page(html("not supported")).words
    assert re.search(r"0 0\.1, -0\.25, 3 0\.1, -0\.9 1\.37 1, 1 2\.4", continuous[continuous.rindex("13. Behaviour explained") :])


def test_the_policy_before_stands_beside_after_the_verdict_and_its_numbers() -> None:
    record = with_before()
    words = Page(html("with before")).words
    body = words[words.index("}") :]
    order = [
        body.rindex(text)
        for text in ("What would change the verdict", "Before: cql, seed 0, offline (runs/cql-before)", "Every check is listed")
    ]
    assert order == sorted(order)
    part = body[order[1] : order[2]]
    assert "The second is worth more than the first: 0.028 [0.011, 0.045] by drl" in part
    assert "check: difference warn pass" in part and "verdict Supported with limits Supported" in part
    assert "0.820 [0.800, 0.840]" in part and "not estimable before: 8 effective episodes" in part
    assert "The second is worth more than the first" in re.sub(r"\s+", " ", trust_text(record))
    assert "Before and after" not in Page(html("supported")).words


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        (span(-0.03, -0.05, -0.01), "The second is worth less than the first: −0.030 [−0.050, −0.010]"),
        (span(0.01, -0.01, 0.03), "No difference between the two is shown: 0.010 [−0.010, 0.030]"),
        (None, "The difference between the two: not estimable before: 8 effective episodes."),
    ],
)
def test_the_difference_of_two_policies_is_said_in_words(interval: dict[str, Any] | None, said: str) -> None:
    record = with_before()
    row = next(row for row in record["before"]["differences"] if row["name"] == "drl")
    row |= {"interval": interval, "reason": None if interval else "not estimable before: 8 effective episodes"}
    record["before"]["estimator"] = "drl" if interval else None
    assert list(faults(record, SCHEMA)) == []
    assert said in Page(trust_page(record)).words


# -------------------------------------------------------------------------------------------------------------------------- text


@KINDS
def test_the_text_fits_a_terminal_and_says_what_counts(kind: str) -> None:
    record = RECORDS[kind]()
    text = trust_text(record)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 36
    flat = re.sub(r"\s+", " ", text)
    assert lines[0].startswith(record["verdict"]["word"].upper()) and record["verdict"]["sentence"] in flat
    assert interval_text(record["numbers"]["difference"]) in flat
    for one in record["checks"]:
        if one["status"] in ("fail", "not run"):
            assert one["name"].replace("_", " ") in flat


def test_the_text_stays_short_when_everything_is_wrong_and_wordy() -> None:
    record = not_supported()
    for one in record["checks"]:
        one |= {"status": "fail", "words": "a very long finding " * 30}
    record["verdict"]["would_change"] = ["another very long piece of advice " * 20] * 19
    record["policy"]["name"] = "x" * 300
    lines = trust_text(record).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= 40
    assert "        and 13 more" in lines and "  - and 16 more, in the report" in lines


# -------------------------------------------------------------------------------------------------------------------------- verb


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as far as the verb looks for one."""
    (tmp_path / "run" / "policy").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    return tmp_path / "run"


def test_it_is_told_written_and_the_exit_code_returned(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = RECORDS["not estimable"]()
    assert tell(TrustFlags(run, "log"), record, {}) == 4
    files = [run / "trust.html", run / "trust.json"]
    assert capsys.readouterr().out == "\n".join([trust_text(record), *map(str, files)]) + "\n"
    assert files[0].read_text(encoding="utf-8") == html("not estimable") and json.loads(files[1].read_text()) == record
    (run / "config.json").unlink()
    assert [tell(TrustFlags(run, "log"), RECORDS[kind](), {}) for kind in ("supported", "not supported")] == [0, 3]


def test_the_figures_numbers_are_written_where_asked(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = supported()
    assert tell(TrustFlags(run, "log", csv=tmp_path / "numbers"), record, {}) == 0
    written = {file.stem: file.read_text(encoding="utf-8") for file in (tmp_path / "numbers").iterdir()}
    assert written == figure_tables(record) and len(written) == 9
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'numbers'}\n")
    assert tell(TrustFlags(run, "log", csv=tmp_path / "numbers"), record, {}) == 0, "a second time"
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        files_of(TrustFlags(run, "log", csv=tmp_path / "file"))


def test_files_are_written_where_asked_and_unasked_only_into_a_run(run: Path, tmp_path: Path) -> None:
    assert files_of(TrustFlags(run, "log", html=tmp_path / "a.html")) == (tmp_path / "a.html", run / "trust.json")
    (run / "config.json").unlink()
    assert files_of(TrustFlags(run, "log")) == (None, None), "a saved policy alone"
    assert files_of(TrustFlags(run, "log", json=tmp_path / "a.json")) == (None, tmp_path / "a.json")


def test_every_flag_is_asked_in_the_words_of_the_python_face() -> None:
    parameters = inspect.signature(api.trust).parameters
    assert set(QUESTION) | {"policy", "data", "command"} == set(parameters)
    told = {field.name: field.default for field in dataclasses.fields(TrustFlags) if field.name in QUESTION}
    assert told == {name: parameters[name].default for name in QUESTION}, "the same defaults"
    flags = TrustFlags(
        Path("a"), "d", seed=3, sampled=True, discount=0.9, clock="ends", level=0.9, random_seed=7, quick=True, subgroups=("sex",)
    )
    assert question(flags) == {
        "seed": 3, "sampled": True, "discount": 0.9, "clock": "ends", "level": 0.9, "random_seed": 7, "quick": True, "subgroups": ("sex",),
        "loggers": "infos/policy_id", "return_range": None, "largest_weight": None, "before": None,
    }  # fmt: skip


def test_mistakes_are_told_before_the_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such run"):
        trust([str(tmp_path / "nothing"), "--data", "no-such-log"])
    with pytest.raises(ConfigError, match="there is no directory"):
        trust([str(run), "--data", "no-such-log", "--html", str(tmp_path / "nowhere" / "a.html")])
    with pytest.raises(ConfigError, match="no such run"):
        trust([str(run), "--data", "no-such-log", "--before", str(tmp_path / "nothing")])
    with pytest.raises(ConfigError, match="there is no directory"):
        trust([str(run), "--data", "no-such-log", "--csv", str(tmp_path / "nowhere" / "numbers")])
    with pytest.raises(ConfigError, match="level"):
        trust([str(run), "--data", "no-such-log", "--level", "95"])
    with pytest.raises(ConfigError, match="--data"):
        trust([str(run)])
    with pytest.raises(StitchError, match="no-such-log"):
        trust([str(run), "--data", "no-such-log"])


@pytest.mark.parametrize(
    "files", [[], ["--html", "a b.html"], ["--csv", "numbers"], ["--html=a.html", "--json", "x.json"], ["--json=--html"]]
)
def test_the_recorded_command_leaves_the_files_out(files: list[str]) -> None:
    assert command(["runs/a b", *files, "--data", "log"]) == "stitchrl trust 'runs/a b' --data log"
