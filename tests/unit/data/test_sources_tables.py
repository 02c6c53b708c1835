"""CSV and Parquet: rows become the stream's transitions whatever their order; mistakes are named by file, row and column."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Discrete, Spec
from stitchrl.data import sources
from stitchrl.data.dataset import Dataset
from stitchrl.data.doctor import examine
from stitchrl.data.sources import csv, parquet
from stitchrl.data.sources.tables import TableSchema
from tests.unit.data.logs import Stream, rich_dataset, streams, transitions_of

SCHEMA = TableSchema(
    observations=("age", "lab_*"), actions=("dose",), reward="outcome", episode="stay", time="hour", terminal="died", group="patient"
)
ROWS = """stay,hour,patient,age,lab_2,lab_10,dose,outcome,died
a,0,p,60,1.5,2.5,0,0,0
b,0,q,70,1.0,2.0,1,0,0
a,1,p,60,1.7,2.7,2,1,1
b,1,q,70,1.1,2.1,0,0,0
b,2,q,70,1.2,2.2,1,-1,0
"""


@settings(max_examples=40)
@given(drawn=streams())
def test_tables_give_back_what_was_written(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec]) -> None:
    d = rich_dataset(*drawn)
    folder = tmp_path_factory.mktemp("tables")
    parquet.write(d, folder / "log.parquet")
    csv.write(d, folder / "log.csv")
    for again in (parquet.read(folder / "log.parquet", spec=d.spec, isolated=False), csv.read(folder / "log.csv", spec=d.spec)):
        assert again.fingerprint() == d.fingerprint()


def test_parquet_read_in_a_process_of_its_own_is_the_same(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"episode": ["x", "x", "y"], "state": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "action": [0, 1, 0], "reward": [0.0, 1.0, 2.0]}
    )
    frame.with_columns(terminal=pl.Series([False, True, True])).write_parquet(tmp_path / "log.parquet")
    schema = TableSchema(observations=("state",), episode="episode", terminal="terminal")
    apart, here = (parquet.read(tmp_path / "log.parquet", schema=schema, isolated=x) for x in (True, False))
    assert apart.fingerprint() == here.fingerprint()
    assert apart.observations.tolist() == [[1, 2], [3, 4], [5, 6]]


@settings(max_examples=40)
@given(drawn=streams(), data=st.data())
def test_rows_in_any_order_are_the_streams_transitions(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[Stream, Spec], data: st.DataObject
) -> None:
    stream, spec = drawn
    path = tmp_path_factory.mktemp("order") / "log.csv"
    csv.write(stream.dataset(spec), path)
    frame = pl.read_csv(path)
    interleaved = frame.sort("time", maintain_order=True)
    shuffled = frame[data.draw(st.permutations(range(len(frame))))]
    interleaved.write_csv(path)
    assert transitions_of(csv.read(path, spec=spec)) == stream.transitions()
    schema = TableSchema(episode="episode", time="time", terminal="terminal", timeout="timeout", sort=True)
    shuffled.write_csv(path)
    assert transitions_of(csv.read(path, spec=spec, schema=schema)) == stream.transitions()


def test_a_clinical_log_worked_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "icu.csv"
    path.write_text(ROWS)
    d = csv.read(path, schema=SCHEMA)
    assert d.spec.action == Discrete(3)
    assert d.observations.tolist() == np.array([[60, 1.5, 2.5], [60, 1.7, 2.7], [70, 1.0, 2.0], [70, 1.1, 2.1]], np.float32).tolist()
    assert d.actions.tolist() == [0, 2, 1, 0]
    assert d.rewards.tolist() == [0, 1, 0, 0]
    assert (d.terminals.tolist(), d.timeouts.tolist()) == ([False, True, False, False], [False, False, False, True])
    assert d.columns["groups"].tolist() == [0, 0, 1, 1]
    assert np.allclose(d.final_observations[1], [70, 1.2, 2.2])  # the last row of b has no next row: its state is what b ended in
    assert d.metadata == {"dropped_transitions": 1}
    with gzip.open(tmp_path / "icu.csv.gz", "wt") as stream:
        stream.write(ROWS)
    assert sources.read(tmp_path / "icu.csv.gz", schema=SCHEMA).fingerprint() == d.fingerprint()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b,2,q", "b,1,q", r"icu.csv: row 5, column 'hour': 1 after 1 \(row 4\): the same time twice"),
        ("b,2,q", "b,-2,q", r"row 5, column 'hour': -2 after 1 \(row 4\): time goes back.*sort=true"),
        ("0,0,0\nb,0", "0,0,1\nb,0", "row 1, column 'died': the episode ends here, but it has later rows"),
        ("1.5,2.5", "high,2.5", "column 'lab_2', row 1: the text 'high'; expected a number"),
        ("1.5,2.5", ",2.5", "row 1, column 'lab_2': an empty cell"),
        ("1.7,2.7,2,1,1", "1.7,2.7,2,1,1,9,9", "icu.csv: not readable as CSV"),
        ("1.7,2.7,2,1,1", "1.7,2.7", "row 3 has 6 cells; expected 9"),
        ("lab_10", "lab_2", "the column 'lab_2' appears twice"),
        ("outcome", "outcomes", "no column 'outcome' for reward; nearest is 'outcomes'"),
        ("dose", "treatment", "no column 'dose' for actions"),
        ("age,", "years,", "no column 'age' for observations"),
        ("1,-1,0\n", ",,\nb,3,q,70,1.2,2.2,1,-1,0\n", "row 5: no action and no reward, but the episode goes on"),
        ("0,0,0\nb", "0,0,7\nb", "row 1, column 'died' is 7; expected 0 or 1"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "icu.csv"
    assert old in ROWS
    path.write_text(ROWS.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        csv.read(path, schema=SCHEMA)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"obs_0": [[1.0, 2.0], [3.0]]}, "column 'obs_0', row 2: a list of 1 numbers; expected 2"),
        ({"obs_0": [{"a": 1}, {"a": 2}]}, "column 'obs_0' holds Struct"),
        ({"obs_0": ["1.0", "2.0"]}, "column 'obs_0' holds numbers written as text"),
        ({"behaviour_probability": [0.5, 1.5]}, "behaviour probabilities in 1 rows"),
        ({"action": [0.0, 0.5], "_discrete": True}, "row 2, column 'action' is 0.5; expected a whole number"),
    ],
)
def test_mistakes_of_type(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"obs_0": [1.0, 2.0], "action": [0, 1], "reward": [0.0, 0.0], "terminal": [False, True]} | columns
    declared = values.pop("_discrete", None)
    pl.DataFrame(values).write_parquet(tmp_path / "log.parquet")
    probability = "behaviour_probability" if "behaviour_probability" in values else None
    schema = TableSchema(terminal="terminal", discrete_actions=declared, behaviour_probability=probability)
    with pytest.raises(DataError, match=message):
        parquet.read(tmp_path / "log.parquet", schema=schema, isolated=False)


def test_a_schema_is_read_from_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps({"observations": "lab_*", "actions": ["dose"], "sort": True}))
    (tmp_path / "schema.toml").write_text('observations = ["lab_*"]\nactions = "dose"\nsort = true\n')
    expected = TableSchema(observations=("lab_*",), actions=("dose",), sort=True)
    assert TableSchema.from_file(tmp_path / "schema.json") == TableSchema.from_file(tmp_path / "schema.toml") == expected
    with pytest.raises(ConfigError, match="unknown key 'rewards'; nearest is 'reward'"):
        TableSchema.from_mapping({"rewards": "r"})
    with pytest.raises(ConfigError, match="sort is 'yes'; expected true or false"):
        TableSchema.from_mapping({"sort": "yes"})


def test_a_schema_may_be_a_path_or_a_mapping(tmp_path: Path) -> None:
    told = {"observations": ["age", "lab_*"], "actions": "dose", "reward": "outcome", "episode": "stay", "time": "hour", "terminal": "died"}
    (tmp_path / "schema.json").write_text(json.dumps(told | {"group": "patient"}))
    (tmp_path / "icu.csv").write_text(ROWS)
    pl.read_csv(tmp_path / "icu.csv").write_parquet(tmp_path / "icu.parquet")
    expected = csv.read(tmp_path / "icu.csv", schema=SCHEMA).fingerprint()
    for name in ("icu.csv", "icu.parquet"):
        for schema in (told | {"group": "patient"}, tmp_path / "schema.json", str(tmp_path / "schema.json")):
            assert sources.read(tmp_path / name, schema=schema).fingerprint() == expected
        with pytest.raises(DataError, match="absent.toml: cannot be read"):
            sources.read(tmp_path / name, schema=tmp_path / "absent.toml")
        with pytest.raises(ConfigError, match="schema is 3; expected"):
            sources.read(tmp_path / name, schema=3)


def test_nan_in_a_cell_is_a_number_for_the_examination_to_find(tmp_path: Path) -> None:
    file = tmp_path / "stays.csv"
    file.write_text(ROWS.replace("70,1.1,2.1", "70,nan,2.1"))
    log = csv.read(file, schema=SCHEMA)
    assert np.isnan(log.observations).sum() == 1


def test_a_table_without_rewards_says_so_and_keeps_it_through_tables(tmp_path: Path) -> None:
    rows = "episode,obs_0,action,terminal\na,0.5,0,0\na,0.6,1,1\nb,0.7,1,1\n"
    (tmp_path / "log.csv").write_text(rows)
    d = sources.read(tmp_path / "log.csv")
    assert d.metadata["rewards_missing"] and not d.rewards.any() and len(d) == 3
    told = {"episode": "episode", "terminal": "terminal", "timeout": "timeout", "reward": None}
    for name in ("again.csv", "again.parquet"):
        sources.write(d, tmp_path / name)
        for schema in (None, told):
            again = sources.read(tmp_path / name, schema=schema)
            assert again.metadata["rewards_missing"] and again.terminals.tolist() == d.terminals.tolist()
    for near in ("rewards", "REWARD", "ward"):
        (tmp_path / "near.csv").write_text(rows.replace("obs_0", f"{near},obs_0").replace(",0.", ",1,0."))
        with pytest.raises(DataError, match=f"no column 'reward' for reward; nearest is '{near}'.*or say that there is none"):
            sources.read(tmp_path / "near.csv")
    (tmp_path / "none.toml").write_text('episode = "episode"\nterminal = "terminal"\nreward = ""\n')
    assert sources.read(tmp_path / "near.csv", schema=tmp_path / "none.toml").metadata["rewards_missing"]
    given = Dataset(d.spec, {**d.columns, "rewards": np.arange(3, dtype=np.float32)}, d.offsets, d.final_observations, d.metadata)
    sources.write(given, tmp_path / "given.csv")  # what it was read from had none; it has
    assert sources.read(tmp_path / "given.csv").rewards.tolist() == [0, 1, 2]


def test_columns_of_our_own_names_that_a_schema_leaves_out_are_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("episode,obs_0,action,reward,terminal\na,0.5,0,0,0\na,0.6,1,1,1\n")
    d = sources.read(tmp_path / "log.csv", schema={"episode": "episode"})
    assert not d.terminals.any()
    (found,) = [finding for finding in examine(d) if finding.code == "columns-left-out"]
    assert found.severity == "warning" and "'terminal'" in found.message and "--table.terminal terminal" in found.advice


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", ["a", '"a"'])
def test_blank_lines_at_the_end_are_no_rows(tmp_path: Path, end: str, text: str) -> None:
    rows = ["episode,obs_0,action,reward,terminal", f"{text},0.5,0,0,0", f"{text},0.6,1,1,1"]
    for blank in range(3):
        (tmp_path / "log.csv").write_bytes((end.join(rows) + end * (1 + blank)).encode())
        assert len(sources.read(tmp_path / "log.csv")) == 2
    (tmp_path / "log.csv").write_bytes((end.join([rows[0], "", *rows[1:]]) + end).encode())
    with pytest.raises(DataError, match="row 1, column 'episode': an empty cell"):
        sources.read(tmp_path / "log.csv")


def test_rows_out_of_order_are_told_before_the_ends_that_they_misplace(tmp_path: Path) -> None:
    (tmp_path / "icu.csv").write_text(
        ROWS.replace("a,0,p,60,1.5,2.5,0,0,0", "a,1,p,60,1.5,2.5,0,0,1").replace("a,1,p,60,1.7,2.7,2,1,1", "a,0,p,60,1.7,2.7,2,1,0")
    )
    with pytest.raises(DataError, match="time goes back"):
        sources.read(tmp_path / "icu.csv", schema=SCHEMA)
    assert sources.read(tmp_path / "icu.csv", schema=replace(SCHEMA, sort=True)).terminals.sum() == 1


def test_the_last_episode_is_counted_among_those_that_are_left(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("obs_0,action,reward,timeout\n0.5,0,0,1\n0.6,1,1,0\n0.7,1,1,1\n0.8,0,0,0\n0.9,0,0,0\n")
    d = sources.read(tmp_path / "log.csv")
    assert d.metadata["dropped_episodes"] == 1 and d.episodes == 2 and d.metadata["unfinished_episode"] == 1
    (tmp_path / "log.csv").write_text("obs_0,action,reward,timeout\n0.5,0,0,0\n0.6,1,1,0\n0.7,1,1,1\n0.8,0,0,0\n")
    d = sources.read(tmp_path / "log.csv")
    assert d.episodes == 1 and "unfinished_episode" not in d.metadata


def test_rows_of_one_episode_with_others_between_them_are_told_where_no_time_orders_them(tmp_path: Path) -> None:
    rows = "episode,time,obs_0,action,reward,terminal\n" + "".join(f"{e},{t},0.{t},0,1,{t // 3}\n" for t in (0, 1, 2, 3) for e in "ab")
    (tmp_path / "log.csv").write_text(rows)
    told = {"episode": "episode", "terminal": "terminal"}
    for schema, count in ((told | {"time": "time"}, 0), (told, 2)):
        d = sources.read(tmp_path / "log.csv", schema=schema)
        assert d.episodes == 2 and [f.count for f in examine(d) if f.code == "scattered-episodes"] == [count] * bool(count)
