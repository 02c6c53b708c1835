"""The page and the text of a dataset's report: self-contained, escaped, the same bytes for the same log, and true to its numbers."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchrl.core.spec import Box, Discrete, Spec
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine, findings_to_json
from stitchrl.data.statistics import describe
from stitchrl.report.dataset_page import dataset_page, dataset_text, findings_text
from stitchrl.report.page import Section, csv_cell, csv_table, drawing, escape, figure, number, page, plain, table

HOSTILE = '<script>alert(1)</script>\x1b[31mred\u202e=HYPERLINK("http://evil")\'&'


def sample(discrete: bool = True, name: str = "a log", fault: bool = False, **metadata: Any) -> Dataset:
    random = np.random.default_rng(0)
    offsets = np.cumsum([0, *random.integers(10, 40, 30)]).astype(np.int64)
    steps = int(offsets[-1])
    ends = np.zeros(steps, np.bool_)
    ends[offsets[1:] - 1] = True
    observations = random.normal(size=(steps, 3)).astype(np.float32)
    if fault:
        observations[17, 2] = np.nan
    actions = random.integers(0, 4, steps) if discrete else random.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32)
    columns = {
        "observations": observations,
        "actions": actions,
        "rewards": random.normal(size=steps).astype(np.float32),
        "terminals": ends,
        "timeouts": np.zeros(steps, np.bool_),
    }
    spec = Spec(Box((3,)), Discrete(4) if discrete else Box((2,), (-1.0,), (1.0,)))
    return Dataset(spec, columns, offsets, observations[:30] * 0, {"name": name, **metadata})


def documents(dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    findings = examine(dataset)
    return describe(dataset, findings=findings).to_json(), findings_to_json(findings)


class Reader(HTMLParser):
    """Collects tags, attributes and text, and notes tags that are not closed."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize("discrete", [True, False])
def test_the_page_is_whole_and_asks_for_nothing(discrete: bool) -> None:
    text = dataset_page(*documents(sample(discrete, fault=True)))
    read = Reader(text)
    assert read.open == []
    assert "script" not in {tag for tag, _ in read.tags}
    for tag, attributes in read.tags:
        assert tag not in ("link", "iframe", "object", "embed", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"@import|url\((?!#)", text)
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {value[1:] for _, a in read.tags for name, value in a.items() if name.endswith("href") and value and value[0] == "#"}
    assert targets <= set(ids)
    assert {match[5:-1] for match in re.findall(r"url\(#[^)]+\)", text)} <= set(ids)


def test_the_page_says_the_numbers() -> None:
    data = sample(fault=True)
    report, findings = documents(data)
    words = " ".join(Reader(dataset_page(report, findings)).words)
    assert "Unusable as it is" in words
    assert f"{len(data):,} steps" in words
    assert "not-a-number" in words
    episode = int(np.searchsorted(data.offsets, 17, side="right")) - 1
    assert f"{episode}:{17 - data.offsets[episode]}" in words
    assert number(report["returns"]["mean"]) in words
    assert "not known" in words  # no references were given


def test_references_are_shown_when_given() -> None:
    report, findings = documents(sample(reference={"random": -10.0, "expert": 10.0}))
    text = dataset_page(report, findings)
    assert f"{report['reference']['trajectory_quality']:.0%}" in text
    assert "best known" in text


def test_the_same_log_gives_the_same_bytes() -> None:
    assert dataset_page(*documents(sample(False))) == dataset_page(*documents(sample(False)))


def test_hostile_names_do_nothing() -> None:
    report, findings = documents(sample(name=HOSTILE, environment=HOSTILE, **{HOSTILE: HOSTILE}))
    findings["findings"].append(
        {
            "code": HOSTILE,
            "severity": "note",
            "message": HOSTILE,
            "column": HOSTILE,
            "episodes": [],
            "steps": [],
            "count": 0,
            "advice": HOSTILE,
        }
    )
    text = dataset_page(report, findings)
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert Reader(text).open == []
    for shown in (dataset_text(report, findings, colour=False), findings_text(findings)):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    # in colour, the only escapes are ours
    assert set(re.findall(r"\x1b[^m]*m", dataset_text(report, findings, colour=True))) <= {f"\x1b[{c}m" for c in (0, 1, 31, 32, 33, 36)}


def test_text_fits_its_width_and_says_the_same() -> None:
    report, findings = documents(sample(fault=True))
    text = dataset_text(report, findings, width=60, colour=False)
    assert max(map(len, text.splitlines())) <= 60
    assert "error    not-a-number" in text
    assert f"{report['quality']['score']:.1f} of 10, from the 3 of 5 parts" in text
    assert findings_text({"findings": []}) == "No findings: every check passed.\n"


def test_single_values_and_missing_values_are_drawn() -> None:
    one = sample().select([0])
    assert "Every episode has" in dataset_page(*documents(one))
    broken = sample()
    broken.columns["rewards"][:] = np.nan
    text = dataset_page(*documents(broken))
    assert "No reward is finite" in text
    states = Dataset(
        Spec(Discrete(1), Discrete(1)),
        {**broken.columns, "observations": np.zeros(len(broken), np.int64), "actions": np.zeros(len(broken), np.int64)},
        broken.offsets,
        np.zeros(30, np.int64),
    )
    assert Reader(dataset_page(*documents(states))).open == []
    pictures = Dataset(
        Spec(Box((8, 8, 3), (0.0,), (255.0,), "uint8"), Discrete(4)),
        {**sample().columns, "observations": np.random.default_rng(0).integers(0, 255, (len(broken), 8, 8, 3), dtype=np.uint8)},
        broken.offsets,
        np.zeros((30, 8, 8, 3), np.uint8),
    )
    assert Reader(dataset_page(*documents(pictures))).open == []


def test_figures_are_well_formed_and_take_the_pages_ink() -> None:
    with drawing() as drawn:
        drawn.axes.plot([0, 1], [0, 1])
        drawn.axes.set_title('$ <script> & "')
    ElementTree.fromstring(drawn.svg)
    assert "#010203" not in drawn.svg
    assert "currentColor" in drawn.svg
    assert "<!DOCTYPE" not in drawn.svg
    assert "<metadata" not in drawn.svg
    assert "<script" not in drawn.svg
    assert 'aria-label="a &lt;b&gt; &quot;c&quot;"' in figure(drawn.svg, "caption", 'a <b> "c"')


def test_tables_and_pages_escape_text() -> None:
    text = page("<b>", [Section("<i>", table(("<u>", "n"), [("<s>", 1234), ("x", -0.5)], "<em>"))])
    assert not re.search(r"<(b|i|u|s|em)>", text)
    assert '<td class="number">1,234</td>' in text
    assert "\N{MINUS SIGN}0.5" in text


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ('=HYPERLINK("http://evil")', '"\'=HYPERLINK(""http://evil"")"'),
        ("+1", '"\'+1"'),
        ("-cmd|' /C calc'!A0", "\"'-cmd|' /C calc'!A0\""),
        ("@sum", '"\'@sum"'),
        ("  =1", '"\'  =1"'),
        ("a,b", '"a,b"'),
        ("\t=1", '"\' =1"'),
        (-1.5, "-1.5"),
        (None, ""),
        ("plain", "plain"),
    ],
)
def test_csv_cells(value: object, cell: str) -> None:
    assert csv_cell(value) == cell


def test_numbers() -> None:
    assert [number(x) for x in (None, 12345, 12345.6, 0.01234, 1.5e9, 1e-5, -2, -2.5, 0.0, 1000.0)] == [
        "not known",
        "12,345",
        "12,346",
        "0.01234",
        "1.5e+09",
        "1e-05",
        "\N{MINUS SIGN}2",
        "\N{MINUS SIGN}2.5",
        "0",
        "1,000",
    ]


@given(st.text(max_size=60))
def test_no_text_leaves_its_place(text: str) -> None:
    assert not re.search(r"[<>\"'\x00-\x1f\x7f-\x9f]", escape(text))
    assert "\x1b" not in plain(text)
    assert plain(text).isprintable() or not text.isprintable()
    rows = list(csv.reader(io.StringIO(csv_table(["a", "b"], [[text, 1]]))))
    assert len(rows) == 2
    assert len(rows[1]) == 2
    assert rows[1][0][:1] not in ("=", "+", "-", "@")
    read = Reader(page(text, [Section(text, table((text,), [(text,)], text))]))
    assert read.open == []


def test_reports_need_no_torch() -> None:
    code = "import sys, stitchrl.report.dataset_page, stitchrl.data.statistics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=False, timeout=60).returncode == 0
