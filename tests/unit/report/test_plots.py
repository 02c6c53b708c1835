"""Plots: what is drawn is what the files say, and files of every kind are written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.report import plots
from stitchrl.report.records_reader import Curve, read_run

Write = Callable[..., Path]


def test_learning_curve_shows_the_mean_and_range_of_seeds(tmp_path: Path, write_run: Write) -> None:
    run = read_run(write_run(tmp_path / "a", seeds=3))
    axes = plots.learning_curves([run]).axes[0]
    seeds = np.array([e.normalized.mean(1) for e in run.evaluations])  # type: ignore[union-attr]
    np.testing.assert_allclose(axes.lines[0].get_xydata(), np.c_[[e.step for e in run.evaluations], seeds.mean(1)])
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(seeds.min()) and band[:, 1].max() == pytest.approx(seeds.max())
    assert axes.get_ylabel() == "normalised score" and axes.texts[0].get_text().strip() == "iql"


def test_one_panel_a_task_and_one_colour_a_method(tmp_path: Path, write_run: Write) -> None:
    runs = [read_run(write_run(tmp_path / f"{a}{t}", algorithm=a, data=t)) for t in "xy" for a in ("iql", "bc")]
    figure = plots.learning_curves(runs)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["x in Hopper-v5", "y in Hopper-v5"]
    assert [[line.get_color() for line in axes.lines] for axes in figure.axes] == [list(plots.COLOURS[:2])] * 2


def test_labels_at_line_ends_do_not_overlap(tmp_path: Path, write_run: Write) -> None:
    runs = [read_run(write_run(tmp_path / str(k), algorithm=f"a{k}", final=50 + 0.01 * k, seed=k)) for k in range(6)]
    figure = plots.learning_curves(runs)
    heights = sorted(text.get_position()[1] for text in figure.axes[0].texts)
    low, high = figure.axes[0].get_ylim()
    assert len(heights) == 6 and min(np.diff(heights)) > 0.05 * (high - low)


def test_final_scores_show_last_filled_and_best_hollow(tmp_path: Path, write_run: Write) -> None:
    run = read_run(write_run(tmp_path / "a", dip=30))
    axes = plots.final_scores([run]).axes[0]
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [line.get_fillstyle() for line in points] == ["full", "none"]
    assert points[0].get_xdata()[0] < points[1].get_xdata()[0]
    assert len(axes.collections[0].get_offsets()) == 4  # every seed


def test_profile_by_hand() -> None:
    axes = plots.profiles({"m": [np.array([0.0, 10.0])]}).axes[0]
    x, y = np.asarray(axes.lines[0].get_xdata()), np.asarray(axes.lines[0].get_ydata())
    assert y[x <= 0].tolist() == [1.0] * (x <= 0).sum() and set(y[(x > 0) & (x <= 10)]) == {0.5} and set(y[x > 10]) == {0.0}


def test_thinning_keeps_the_mean_and_nan_seeds_stay_out() -> None:
    curve = Curve(np.arange(3000.0), np.stack([np.arange(3000.0), np.full(3000, np.nan)], 1))
    axes = plots.metric_curves({"loss/x": curve}).axes[0]
    line = axes.lines[-1]
    assert len(line.get_xdata()) == 300
    np.testing.assert_allclose(line.get_xdata(), line.get_ydata())


def test_metrics_worth_a_panel(tmp_path: Path, write_run: Write) -> None:
    shown = list(plots.shown_metrics(read_run(write_run(tmp_path / "a"))))
    assert shown[0].startswith("loss/") and shown[-1] == "steps_per_second" and "seconds" not in shown


def test_believed_against_exact_or_earned(tmp_path: Path, write_run: Write) -> None:
    exact = plots.believed_and_true(read_run(write_run(tmp_path / "a", exact=True)))
    assert {t.get_text().strip() for t in exact.axes[0].texts} == {"believed", "exact"}
    earned = plots.believed_and_true(read_run(write_run(tmp_path / "b")))
    assert {t.get_text().strip() for t in earned.axes[0].texts} == {"believed", "earned"}
    with pytest.raises(DataError, match="no believed values"):
        plots.believed_and_true(read_run(write_run(tmp_path / "c", believed=False)))


def test_writes_every_format_and_kind(tmp_path: Path, write_run: Write) -> None:
    runs = [write_run(tmp_path / n, algorithm=n, seed=k) for k, n in enumerate(("iql", "bc"))]
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")):
        assert plots.plot(runs, tmp_path / "out" / name)[0].read_bytes().startswith(start)
    written = plots.plot(runs, tmp_path / "all")
    assert [file.name for file in written] == ["curves.svg", "scores.svg", "profiles.svg", "metrics.svg"]
    again = plots.plot(runs, tmp_path / "all2", "curves")
    assert again[0].read_bytes() == written[0].read_bytes()  # equal files give equal plots


def test_draws_what_there_is(tmp_path: Path, write_run: Write) -> None:
    young = write_run(tmp_path / "young", evaluations=0)
    assert [file.name for file in plots.plot([young], tmp_path / "out")] == ["metrics.svg"]
    with pytest.raises(DataError, match="no evaluations in young"):
        plots.plot([young], tmp_path / "x.png")
    (young / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match="neither evaluations nor metrics"):
        plots.plot([young], tmp_path / "out")


def test_refusals(tmp_path: Path, write_run: Write) -> None:
    run = write_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"\.png, \.svg or \.pdf"):
        plots.plot([run], tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="expected one of"):
        plots.plot([run], tmp_path / "a.png", "pie")  # type: ignore[arg-type]
    apart = [run, write_run(tmp_path / "b", data="other", algorithm="bc")]
    with pytest.raises(DataError, match="no task on which"):
        plots.plot(apart, tmp_path / "a.png", "profiles")
    two = [write_run(tmp_path / f"u{t}", data=t, normalized=False) for t in "xy"]
    with pytest.raises(DataError, match="no common unit"):
        plots.plot(two, tmp_path / "a.png", "profiles")


def test_tensorboard_only_directories_can_be_drawn(tmp_path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    writer = EventFileWriter(str(tmp_path / "tb"))
    for step in range(5):
        writer.add_event(Event(step=step, summary=Summary(value=[Summary.Value(tag="loss/x", simple_value=step)])))
    writer.close()
    assert plots.plot([tmp_path / "tb"], tmp_path / "m.png", "metrics")[0].stat().st_size > 1000


def test_svg_is_an_element_without_dates(tmp_path: Path, write_run: Write) -> None:
    text = plots.svg(plots.learning_curves([read_run(write_run(tmp_path / "a"))]))
    assert text.startswith("<svg") and text.endswith("</svg>") and "<metadata>" not in text


def test_no_torch_is_imported() -> None:
    import subprocess
    import sys

    code = "import sys, stitchrl.report.plots, stitchrl.report.comparison, stitchrl.report.card, stitchrl.report.run; "
    code += "print(json.dumps([m for m in ('torch', 'matplotlib', 'tensorboard', 'stitchrl.evaluation') if m in sys.modules]))"
    result = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == []
