"""Logs of one step an episode, propensities as probabilities, and columns that only name things: read by hand-made tables."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Box, Discrete
from stitchrl.data import sources
from stitchrl.data.sources import csv, parquet
from stitchrl.data.sources.tables import TableSchema

SCHEMA = TableSchema(
    observations=("position", "user_*", "affinity"),
    actions=("item",),
    reward="click",
    behaviour_probability="propensity",
    one_step=True,
    categories=("position=1,2,3", "user_*"),
)
ROWS = """,when,item,position,click,propensity,user_a,user_b,affinity
0,2019-11-24 00:03:24,2,1,0,0.25,x9,u,0.5
1,2019-11-24 00:03:25,0,3,1,0.5,b7,u,0.0
2,2019-11-24 00:03:26,1,1,0,1.0,x9,v,2.0
"""


def test_a_gzipped_log_of_recommendations_by_hand(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "log.csv.gz", "wt") as stream:
        stream.write(ROWS)
    d = sources.read(tmp_path / "log.csv.gz", schema=SCHEMA)
    assert (d.spec.observation, d.spec.action) == (Box((8,)), Discrete(3))
    assert (d.episodes, d.lengths.tolist(), d.terminals.tolist(), d.timeouts.any()) == (3, [1, 1, 1], [True] * 3, np.False_)
    assert d.observations.tolist() == [  # position 1 2 3 | user_a b7 x9 | user_b u v | affinity
        [1, 0, 0, 0, 1, 1, 0, 0.5],
        [0, 0, 1, 1, 0, 1, 0, 0.0],
        [1, 0, 0, 0, 1, 0, 1, 2.0],
    ]
    assert (d.actions.tolist(), d.rewards.tolist()) == ([2, 0, 1], [0, 1, 0])
    np.testing.assert_allclose(d.columns["behaviour_log_probabilities"], np.log([0.25, 0.5, 1.0]), rtol=1e-6)
    assert d.metadata["categories"] == {"position": ["1", "2", "3"], "user_a": ["b7", "x9"], "user_b": ["u", "v"]}
    assert d.returns(0.5).tolist() == [0, 1, 0]


@pytest.mark.parametrize("isolated", [False, True])
def test_parquet_codes_the_same(tmp_path: Path, isolated: bool) -> None:
    (tmp_path / "log.csv").write_text(ROWS)
    pl.read_csv(tmp_path / "log.csv").write_parquet(tmp_path / "log.parquet")
    first = csv.read(tmp_path / "log.csv", schema=SCHEMA)
    second = parquet.read(tmp_path / "log.parquet", schema=SCHEMA, isolated=isolated)
    assert second.fingerprint() == first.fingerprint()
    assert second.metadata["categories"] == first.metadata["categories"]


def test_a_second_log_is_coded_as_the_first_where_its_values_are_told(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(ROWS.replace("b7", "x9"))
    alone = csv.read(tmp_path / "log.csv", schema=SCHEMA)
    told = TableSchema.from_mapping({**vars(SCHEMA), "categories": ["position=1,2,3", "user_a=b7,x9", "user_b"]})
    same = csv.read(tmp_path / "log.csv", schema=told)
    assert (alone.observations.shape, same.observations.shape) == ((3, 7), (3, 8))
    assert same.observations[:, 3:5].tolist() == [[0, 1], [0, 1], [0, 1]]


def test_categories_of_numbers_are_sorted_as_numbers_and_actions_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("ward,drug,reward\n10,aspirin,1\n9,none,0\n10,none,0\n")
    schema = TableSchema(observations=("ward",), actions=("drug",), one_step=True, categories=("ward", "drug"))
    d = csv.read(tmp_path / "log.csv", schema=schema)
    assert d.metadata["categories"] == {"ward": ["9", "10"], "drug": ["aspirin", "none"]}
    assert d.observations.tolist() == [[0, 1], [1, 0], [0, 1]]
    assert (d.spec.action, d.actions.tolist()) == (Discrete(2), [0, 1, 1])


def test_categories_within_episodes_with_a_final_row(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("stay,ward,drug,reward\n1,a,x,1\n1,b,,\n2,b,y,0\n2,a,,\n")
    d = csv.read(tmp_path / "log.csv", schema=TableSchema(("ward",), ("drug",), episode="stay", categories=("ward", "drug")))
    assert d.observations.tolist() == [[1, 0], [0, 1]]
    assert d.final_observations.tolist() == [[0, 1], [1, 0]]
    assert d.actions.tolist() == [0, 1]
    assert d.timeouts.all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.25,x9", "0.25,", "row 1, column 'user_a': an empty cell"),
        ("0,3,1,0.5", "0,4,1,0.5", "column 'position', row 2: '4' is not among the 3 values of this category"),
        ("0,3,1,0.5", "0,3,1,1.5", r"column 'propensity' .*behaviour probabilities in 1 rows, first 1 \(1.5\)"),
        ("0,3,1,0.5", "0,3,1,0", r"first 1 \(0\); a logged action's must be above 0"),
        ("0,3,1,0.5", "0,3,,0.5", "row 2, column 'click': an empty cell"),
        ("2,1,0,0.25", ",1,,0.25", "row 1, column 'item': an empty cell"),
    ],
)
def test_mistakes_in_cells(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in ROWS
    (tmp_path / "log.csv").write_text(ROWS.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        csv.read(tmp_path / "log.csv", schema=SCHEMA)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"one_step": False}, "ends of episodes are unknown. Where each row is an episode of its own, say one_step=true"),
        ({"terminal": "click"}, "says one_step and names 'click'"),
        ({"one_step": False, "episode": ""}, "or say one_step=true if nothing comes after a row"),
        ({"categories": ["when"]}, "the category 'when' is neither among the observations nor the actions"),
        ({"categories": ["usr"]}, "no column 'usr' for categories; nearest is"),
        ({"categories": ["position=1,3,1"]}, "tells a value of the category 'position' twice"),
        ({"categories": []}, "column 'user_a', row 1: the text 'x9'; expected a number"),
    ],
)
def test_mistakes_in_the_schema(tmp_path: Path, change: dict, message: str) -> None:
    (tmp_path / "log.csv").write_text(ROWS)
    with pytest.raises(DataError, match=message):
        csv.read(tmp_path / "log.csv", schema=TableSchema.from_mapping({**vars(SCHEMA), **change}))


def test_identifiers_are_no_categories(tmp_path: Path) -> None:
    lines = "".join(f"id{n},0,1\n" for n in range(1001))
    (tmp_path / "log.csv").write_text("who,action,reward\n" + lines)
    with pytest.raises(DataError, match="column 'who' has 1,001 different values; expected at most 1,000"):
        csv.read(tmp_path / "log.csv", schema=TableSchema(("who",), one_step=True, categories=("who",)))
    with pytest.raises(ConfigError, match="one_step is 'yes'; expected true or false"):
        TableSchema.from_mapping({"one_step": "yes"})
