"""The report of a run, the comparison page and the model card: what they say, and that nothing in a file can break them."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stitchrl.report.card import card
from stitchrl.report.comparison import compare
from stitchrl.report.comparison_page import comparison_page
from stitchrl.report.run import run_page, write_run_report

Write = Callable[..., Path]
EVIL = '<script>alert(1)</script> & "x" ` | \x1b[31m'


class Balance(HTMLParser):
    """Fails where a closing tag does not match; collects text and tags."""

    VOID = frozenset({"meta", "br", "img", "link", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data + " "


def parsed(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == [] and "script" not in parser.tags
    assert not re.search(r'(?:src|href)="(?!#)', html)  # nothing is fetched
    return parser


def test_run_page_says_what_matters(tmp_path: Path, write_run: Write) -> None:
    page = parsed(run_page(write_run(tmp_path / "r", dip=40, successes=True)))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    last = compare([tmp_path / "r"]).rows[0].last
    assert last is not None and f"{last.iqm.estimate:.1f}" in text
    for due in ("iql on mujoco/hopper/medium-v0", "4 seeds", "4 × 10", "expectile", "3f5a3f5a", "normalize_observations", "batch_size"):
        assert due in text, due
    assert "Its best checkpoint, at step" in text and "10 evaluations, 400 episodes" in text
    assert "Its critic overestimates" in text  # it believes 2.6 x + 20 where episodes earn 2.5 x, from a score that fell
    assert page.tags.count("figure") == 8  # two of evaluations, believed, and five metrics
    names = re.findall(r' id="([^"]+)"', run_page(tmp_path / "r"))
    assert len(names) == len(set(names))


def test_pages_are_functions_of_the_files(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "r")
    assert run_page(run) == run_page(run) and card(run) == card(run)
    assert comparison_page(compare([run])) == comparison_page(compare([run]))


def test_one_evaluation_is_told_in_words_not_drawn_as_a_curve(tmp_path: Path, write_run: Write) -> None:
    page = parsed(run_page(write_run(tmp_path / "r", evaluations=1, exact=True)))
    assert page.tags.count("figure") == 6  # the score and five metrics
    last = compare([tmp_path / "r"]).rows[0].last
    assert last is not None and last.believed_value is not None and last.exact_value is not None
    assert f"start is worth {last.believed_value:.1f}; its exact value, computed from the task: {last.exact_value:.1f}." in page.text


def test_written_beside_the_records(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "r", evaluations=1)
    before = {file.name for file in run.iterdir()}
    assert [file.name for file in write_run_report(run)] == ["report.html", "card.md"]
    assert {file.name for file in run.iterdir()} == before | {"report.html", "card.md"}
    assert (run / "report.html").read_text() == run_page(run) and (run / "card.md").read_text() == card(run)


def test_names_from_files_are_text(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "r", data=EVIL, algorithm=EVIL, environment=EVIL, settings={EVIL: EVIL}, evaluations=2)
    page = parsed(run_page(run))
    assert "<script>alert(1)</script>" in page.text  # shown
    parsed(comparison_page(compare([run, write_run(tmp_path / "s", data=EVIL, evaluations=2)])))
    text = compare([run]).text()
    assert "\x1b" not in text and "\\x1b[31m" in text
    markdown = card(run)
    assert "\x1b" not in markdown
    for line in markdown.splitlines():
        outside = re.sub(r"`[^`]*`", "", line)
        assert "<script>" not in outside or line.lstrip().startswith('"'), line  # only as code, or inside the fenced settings


@pytest.mark.parametrize("what", ["young", "silent", "events only", "killed"])
def test_unfinished_runs_have_a_page_and_a_card(tmp_path: Path, write_run: Write, what: str) -> None:
    run = write_run(tmp_path / "r", evaluations=3 if what == "killed" else 0)
    if what == "silent":
        (run / "metrics.jsonl").unlink()
    if what == "events only":
        (run / "config.json").write_text("{}")
    if what == "killed":
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            (run / name).write_bytes((run / name).read_bytes()[:-50])
    page, markdown = parsed(run_page(run)).text, card(run)
    if what == "killed":
        assert "torn" in page and "torn" in markdown and "last evaluated at step 66,666 of 100,000" in markdown
    else:
        assert "Never evaluated" in page and "never evaluated" in markdown and "no measured return" in markdown
    parsed(comparison_page(compare([run])))


def test_card_counts_the_looks_at_the_environment(tmp_path: Path, write_run: Write) -> None:
    text = card(write_run(tmp_path / "r", seeds=2, episodes=5, evaluations=4, exact=True))
    assert "online evaluations used: 4 (one at each of 4 checkpoints), 40 episodes in all" in text
    assert "exact value of the policy" in text and "`" + "3f5a" * 16 + "`" in text
    assert "2 seeds: where seeds differ much, their 95 % interval covers only about 50 %" in text and "Not judged offline" in text
    one = card(write_run(tmp_path / "one", seeds=1))
    assert "One seed" in one and "± " not in one.split("## Trust")[0].split("|---")[1]


def test_card_and_page_tell_overestimation_only_where_it_is(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "r", exact=True)
    assert "overestimates" not in card(run)  # 228 believed, about 200 true: within a fifth
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    lines[-1]["believed_value"] = [900.0] * 4
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "Its critic overestimates: it believes 900" in card(run)


def test_card_holds_the_verdict_of_trust(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "r")
    (run / "trust.json").write_text(json.dumps({"verdict": "do not deploy"}))
    text = card(run)
    assert "Verdict of `stitchrl trust`: do not deploy." in text and "No off-policy estimate" not in text
    (run / "trust.json").write_text("{")
    assert "cannot be read" in card(run)


def test_comparison_page_holds_tables_figures_and_warnings(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / f"{a}{t}", algorithm=a, data=t, seed=k) for t in "xy" for k, a in enumerate(("iql", "bc"))]
    result = compare(runs)
    page = parsed(comparison_page(result))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.tags.count("table") == 5  # one a task, over tasks, improvement, runs
    assert page.tags.count("figure") == 5  # curves and scores for each task, profiles
    assert all(warning in text for warning in result.warnings) and "iql beats bc" in text
