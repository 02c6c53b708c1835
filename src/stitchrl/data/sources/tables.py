"""Tables of one row a step (CSV, Parquet): which column is what, and how rows become episodes."""

from __future__ import annotations

import difflib
import fnmatch
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.errors import ConfigError, DataError
from stitchrl.core.spec import Spec
from stitchrl.data.columns import Array, flag_column, float32_column, integer_column
from stitchrl.data.dataset import Dataset
from stitchrl.data.sources.arrays import log_of_probabilities
from stitchrl.data.sources.column_patterns import categories_of, matched
from stitchrl.data.storage import read_json

EMPTY = "empty:"  # before a column's name: the bool column of its empty cells
_MANY = ("observations", "actions", "next_observations", "goals", "infos")
_LISTS = (*_MANY, "categories")


@final
@dataclass(frozen=True)
class TableSchema:
    """Which columns of a table mean what. Where many are allowed, names and patterns such as "obs_*" (in natural order).

    episode: rows of one episode share its value; without it, `terminal` and `timeout` end episodes. time: must rise within an
    episode. sort: sort by episode and time first. timeout: the clock ended the episode. discrete_*: by default, one column of integers is.
    reward: None says that there is none, as is taken of a table with no column of this name or one like it. A last row whose actions and reward are
    empty holds the final observation. one_step: every row is an episode that ends with it.
    categories: columns, text or not, whose values only name things ("column", or "column=a,b" for these values in this order): an
    observation becomes one column of 0 and 1 for each value, an action its number; the metadata keep the values.
    """

    observations: tuple[str, ...] = ("obs_*",)
    actions: tuple[str, ...] = ("action", "action_*")
    reward: str | None = "reward"
    episode: str | None = None
    time: str | None = None
    terminal: str | None = None
    timeout: str | None = None
    next_observations: tuple[str, ...] = ()
    group: str | None = None
    goals: tuple[str, ...] = ()
    infos: tuple[str, ...] = ()
    behaviour_probability: str | None = None
    behaviour_log_probability: str | None = None
    discrete_actions: bool | None = None
    discrete_observations: bool | None = None
    sort: bool = False
    one_step: bool = False
    categories: tuple[str, ...] = ()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TableSchema:
        """Returns the schema of plain values. Raises ConfigError that names the nearest known key."""
        known = {field.name for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise ConfigError(f"table schema: unknown key {name[:60]!r}; nearest is {near!r}")
            many = isinstance(value, list | tuple) and all(isinstance(x, str) for x in value)
            flag = name in ("sort", "one_step") or name.startswith("discrete_")
            fits = isinstance(value, bool) if flag else isinstance(value, str) or (name in _LISTS and many)
            if not (fits or value is None):
                expected = "true or false" if flag else "a list of column names" if name in _LISTS else "a column name"
                raise ConfigError(f"table schema: {name} is {str(value)[:60]!r}; expected {expected}")
        told: dict[str, Any] = {name: value for name, value in values.items() if value is not None or name == "reward"}
        told |= {"reward": None} if told.get("reward") == "" else {}  # as TOML says it, which knows no null
        lists = {name: (value,) if isinstance(value, str) else tuple(value) for name, value in told.items() if name in _LISTS}
        return cls(**told | lists)

    @classmethod
    def from_file(cls, path: str | Path) -> TableSchema:
        """Returns the schema of a small JSON or TOML file. Raises ConfigError, or DataError where the file cannot be read."""
        path = Path(path)
        if path.suffix.lower() != ".toml":
            return cls.from_mapping(read_json(path, largest=1 << 20))
        try:
            if path.stat().st_size > 1 << 20:
                raise DataError(f"{path.name}: too large for a table schema")
            return cls.from_mapping(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path.name}: not valid TOML ({str(error)[:120]})") from None

    @classmethod
    def told_as(cls, told: TableSchema | Mapping[str, Any] | str | Path | None) -> TableSchema | None:
        """Returns the schema that a mapping, or the path of a file, stands for; None is none. Raises as `from_mapping` and `from_file` do."""
        if told is None or isinstance(told, TableSchema):
            return told
        if not isinstance(told, Mapping | str | Path):
            raise ConfigError(f"schema is {told!r}; expected a TableSchema, a mapping of its fields, or the path of a JSON or TOML file")
        return cls.from_mapping(told) if isinstance(told, Mapping) else cls.from_file(told)

    @classmethod
    def of_columns(cls, names: Sequence[str]) -> TableSchema:
        """Returns the schema of a table that uses this library's own names: episode, time, obs_0 …, action, reward, terminal …"""
        single = ("episode", "time", "terminal", "timeout", "group", "behaviour_probability", "behaviour_log_probability")
        present: dict[str, Any] = {name: name for name in single if name in names}
        patterns = {"next_observations": "next_obs_*", "goals": "goal_*", "infos": "info_*"}
        present |= {key: (pattern,) for key, pattern in patterns.items() if fnmatch.filter(names, pattern)}
        return cls(**present)

    def resolve(self, names: Sequence[str]) -> TableSchema:
        """Returns the schema with every pattern replaced by the columns it matches. Raises DataError naming the nearest column."""
        found: dict[str, Any] = {}
        for key in _MANY:
            found[key] = tuple(matched(getattr(self, key), names, key))
        if not found["observations"] or not found["actions"]:
            key = "actions" if found["observations"] else "observations"
            raise DataError(
                f"no column fits {key} {list(getattr(self, key))}; found {', '.join(map(repr, names[:12]))}. Name them in the schema"
            )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and value not in names:
                near = (difflib.get_close_matches(value, names, n=1, cutoff=0.0) or ["(the table has none)"])[0]
                if field.name == "reward" and value == field.default:  # not told
                    found["reward"], near = None, self._like_a_reward(names) or ""
                if near:
                    none = ". Name the column, or say that there is none: --table.reward None" if field.name == "reward" else ""
                    raise DataError(f"no column {value!r} for {field.name}; nearest is {near!r}{none}")
        found["categories"] = categories_of(self.categories, names, (*found["observations"], *found["actions"]))
        return replace(self, **found)

    def _like_a_reward(self, names: Sequence[str]) -> str | None:
        """Returns the column, of those that mean nothing else, that may be meant for the reward; None where none is like one."""
        told = {value for value in vars(self).values() if isinstance(value, str)}
        free = {x.lower(): x for x in names if x not in told and not x.startswith(("obs_", "next_obs_", "action_", "goal_", "info_"))}
        near = difflib.get_close_matches("reward", free, n=1)
        return free[near[0]] if near else None

    def unread(self, names: Sequence[str]) -> dict[str, Any]:
        """Returns as metadata the columns with this library's own names that a resolved schema leaves out."""
        own = (*(() if self.one_step else ("terminal", "timeout")), "behaviour_probability", "behaviour_log_probability")
        left_out = [name for name in own if name in names and name not in self.columns()]
        return {"columns_left_out": left_out} if left_out else {}

    def columns(self) -> list[str]:
        """Returns the names of all columns that a resolved schema needs, each once."""
        names: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name) if field.name != "categories" else None
            names += [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else []
        return list(dict.fromkeys(names))

    def text_columns(self) -> list[str]:
        """Returns the names of the columns that may hold text: they only name things."""
        return [name for name in (self.episode, self.group) if name is not None] + list(self.category_values())

    def category_values(self) -> dict[str, list[str] | None]:
        """Returns, for each column of a resolved schema that holds categories, its values where the schema tells them."""
        parts = [entry.partition("=") for entry in self.categories]
        return {name: values.split(",") if told else None for name, told, values in parts}


def build(columns: Mapping[str, Array], schema: TableSchema, where: str, spec: Spec | None, metadata: Mapping[str, Any] | None) -> Dataset:
    """Returns the dataset of a table's columns under a resolved schema. Raises DataError with file, row (from 1) and column."""
    try:
        table = _Table(columns, schema)
        return table.dataset(spec, dict(metadata or {}))
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


@final
class _Table:
    """The rows in the order of their episodes; `rows` are their numbers in the file, from 1."""

    def __init__(self, columns: Mapping[str, Array], schema: TableSchema) -> None:
        self.schema = schema
        size = len(columns[schema.observations[0]])
        if not size:
            raise DataError("the table has 0 rows; expected at least one step")
        self.codes, order = _grouped(columns, schema, size)
        self.rows = order + 1
        # rows of one episode with others between them, in an order that no time checks
        apart = (np.diff(self.codes) == 0) & (np.diff(order) != 1)
        self.scattered = len(np.unique(self.codes[1:][apart])) if schema.time is None else 0
        plain = bool((order == np.arange(size)).all())
        self.columns = {name: column if plain else column[order] for name, column in columns.items()}
        self._find_ends()

    def _find_ends(self) -> None:
        schema, size = self.schema, len(self.rows)
        acted = [self._empty(name) for name in (*schema.actions, *([schema.reward] if schema.reward else []))]
        self.final_row = np.logical_and.reduce(acted) & (not schema.one_step)  # what was seen last; nothing was done
        self.terminals, self.timeouts = self._flag(schema.terminal), self._flag(schema.timeout)
        ends = [name for name in (schema.episode, schema.terminal, schema.timeout, schema.time) if name is not None]
        if schema.one_step and (ends or schema.next_observations):
            raise DataError(f"the schema says one_step and names {(*ends, *schema.next_observations)[0]!r}; a row alone needs neither")
        if not schema.one_step and schema.episode is None and not (schema.terminal or schema.timeout):
            raise DataError(
                "the schema names neither 'episode' nor 'terminal' nor 'timeout', so the ends of episodes are unknown. "
                "Where each row is an episode of its own, say one_step=true"
            )
        if schema.one_step:
            last, self.terminals = np.ones(size, np.bool_), np.ones(size, np.bool_)
        elif schema.episode is not None:
            last = np.append(self.codes[1:] != self.codes[:-1], True)
        else:
            ended = self.terminals | self.timeouts
            last = np.append((ended[:-1] & ~self.final_row[1:]) | self.final_row[:-1], True)
        misplaced = self.final_row & ~last
        if misplaced.any():
            raise DataError(
                f"{self._at(misplaced)}: no action and no reward, but the episode goes on. Fill them in, or end the episode there"
            )
        self.last = last
        self.starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
        self.act_last = last & ~self.final_row  # the last row in which something was done
        self.act_last[:-1] |= last[1:] & self.final_row[1:]
        self._check_time()  # rows out of order may be all that is wrong with the ends
        for name, flag in ((schema.terminal, self.terminals), (schema.timeout, self.timeouts)):
            early = flag & ~self.act_last & ~self.final_row
            if early.any():
                raise DataError(
                    f"{self._at(early)}, column '{name}': the episode ends here, but it has later rows. Give them another episode"
                )
        if size == int(self.final_row.sum()):
            raise DataError("no row has an action and a reward; expected at least one step")

    def _check_time(self) -> None:
        name = self.schema.time
        if name is None:
            return
        time = self.columns[name]
        self._refuse_empty(name, np.zeros(len(time), dtype=np.bool_))
        if time.dtype.kind == "f" and not np.isfinite(time).all():
            raise DataError(f"{self._at(~np.isfinite(time))}, column '{name}': {time[~np.isfinite(time)][0]}; expected a number")
        inside = ~self.last[:-1]
        for wrong, text in (
            (inside & (time[1:] == time[:-1]), "the same time twice in one episode. Remove or merge the duplicate"),
            (
                inside & (time[1:] < time[:-1]),
                "time goes back within the episode. Pass sort=true in the schema if only the order of rows is wrong",
            ),
        ):
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0]) + 1
                raise DataError(
                    f"row {self.rows[row]:,}, column '{name}': {time[row]} after {time[row - 1]} (row {self.rows[row - 1]:,}): {text}"
                )

    def dataset(self, spec: Spec | None, metadata: dict[str, Any]) -> Dataset:
        schema, nowhere = self.schema, np.zeros(len(self.rows), dtype=np.bool_)
        seen = (*schema.observations, schema.episode, schema.time)
        for name in schema.columns():
            self._refuse_empty(name, self.final_row if name not in seen else nowhere)
        observations = self._together(schema.observations, self._discrete(schema.discrete_observations, schema.observations))
        keep, final = self._settle_ends(observations, metadata)
        columns: dict[str, Array] = {"rewards": self.columns[schema.reward] if schema.reward else np.zeros(len(keep), np.float32)}
        if schema.reward is None:
            metadata["rewards_missing"] = True
        columns["actions"] = self._together(schema.actions, self._discrete(schema.discrete_actions, schema.actions))
        extra = self._extra(keep, bool(columns["actions"].ndim == 1 and columns["actions"].dtype.kind in "iub"))
        timeouts = self.act_last_kept[keep] & ~self.terminals[keep]
        both = int((self.terminals & self.timeouts).sum())
        metadata |= {"terminal_and_timeout": both} if both else {}
        metadata |= {"scattered_episodes": self.scattered} if self.scattered else {}
        if schema.episode is None and self.left[-1] and not (self.final_row[-1] or self.terminals[-1] or self.timeouts[-1]):
            metadata["unfinished_episode"] = int(self.left.sum()) - 1
        following = None
        if schema.next_observations:
            following = self._together(schema.next_observations, observations.ndim == 1)[keep]
            final = None
        flat = observations[keep], columns["actions"][keep], columns["rewards"][keep], self.terminals[keep], timeouts
        return Dataset.from_flat(*flat, spec, following, final, extra, metadata)

    def _settle_ends(self, observations: Array, metadata: dict[str, Any]) -> tuple[Array, Array | None]:
        """Returns which rows are steps, and each episode's final observation; `data/flat.py` tells the rule for unknown ones."""
        ends = np.flatnonzero(self.last)
        known = self.final_row[ends]
        drop = ~known & ~self.terminals[ends] & (not self.schema.next_observations)
        keep = ~self.final_row
        keep[ends[drop]] = False
        self.act_last_kept = self.act_last.copy()
        self.act_last_kept[:-1] |= ~keep[1:] & self.last[1:]
        episode = np.cumsum(np.append(0, self.last[:-1]))
        self.left = left = np.bincount(episode[keep], minlength=len(ends)) > 0
        if drop.any():
            metadata["dropped_transitions"] = int(drop.sum())
        if not left.all():
            metadata["dropped_episodes"] = int((~left).sum())
        if not left.any():
            raise DataError(
                "every episode has one row and no final observation, so no transition is left. Add next_observations to the schema, "
                "or say one_step=true if nothing comes after a row"
            )
        return keep, observations[ends[left]]

    def _extra(self, keep: Array, discrete: bool) -> dict[str, Array]:
        schema, extra = self.schema, {}
        if schema.group is not None:
            extra["groups"] = integer_column(self.columns[schema.group][keep], schema.group)
        if schema.goals:
            extra["goals"] = self._together(schema.goals, False)[keep]
        for name in schema.infos:
            extra[f"infos/{name.removeprefix('info_')}"] = self.columns[name][keep]
        if schema.behaviour_log_probability is not None:
            extra["behaviour_log_probabilities"] = self.columns[schema.behaviour_log_probability][keep]
        elif schema.behaviour_probability is not None:
            try:
                extra["behaviour_log_probabilities"] = log_of_probabilities(self.columns[schema.behaviour_probability][keep], discrete)
            except DataError as error:
                raise DataError(f"column '{schema.behaviour_probability}' (steps counted from 0): {error}") from None
        return extra

    def _discrete(self, declared: bool | None, names: Sequence[str]) -> bool:
        if declared and len(names) > 1:
            raise DataError(f"columns {list(names[:4])} are said to be discrete; expected one column of integers")
        first = self.columns[names[0]]
        return declared if declared is not None else len(names) == 1 and first.ndim == 1 and first.dtype.kind in "iub"

    def _together(self, names: Sequence[str], discrete: bool) -> Array:
        if discrete:
            values = self.columns[names[0]]
            if values.ndim == 1 and values.dtype.kind == "f":
                self._refuse_values(names[0], (values != np.round(values)) & ~self.final_row, "a whole number, since it is discrete")
            if values.ndim == 1 and values.dtype.kind in "fi":
                self._refuse_values(names[0], values < 0, "0 … n - 1. Renumber the values")
            return integer_column(self.columns[names[0]], names[0])
        parts = [float32_column(self.columns[name], name) for name in names]
        if len(parts) == 1 and parts[0].ndim > 1:
            return parts[0]
        return np.concatenate([x.reshape(len(x), -1) for x in parts], axis=1)

    def _flag(self, name: str | None) -> Array:
        if name is None:
            return np.zeros(len(self.rows), dtype=np.bool_)
        self._refuse_empty(name, self.final_row)
        values = self.columns[name]
        if values.ndim == 1 and values.dtype.kind in "fiu":
            self._refuse_values(name, (values != 0) & (values != 1), "0 or 1")
        return flag_column(values, name)

    def _refuse_values(self, name: str, wrong: Array, expected: str) -> None:
        if wrong.any():
            raise DataError(f"{self._at(wrong)}, column '{name}' is {self.columns[name][wrong][0]}; expected {expected}")

    def _empty(self, name: str) -> Array:
        return self.columns.get(EMPTY + name, np.zeros(len(self.rows), dtype=np.bool_))

    def _refuse_empty(self, name: str, allowed: Array) -> None:
        wrong = self._empty(name) & ~allowed
        if wrong.any():
            raise DataError(
                f"{self._at(wrong)}, column '{name}': an empty cell; expected a value in each row ({int(wrong.sum()):,} are empty)"
            )

    def _at(self, where: Array) -> str:
        return f"row {self.rows[int(np.flatnonzero(where)[0])]:,}"


def _grouped(columns: Mapping[str, Array], schema: TableSchema, size: int) -> tuple[Array, Array]:
    """Returns each ordered row's episode (numbered as they appear), and the order of rows that puts episodes together."""
    order = np.arange(size)
    codes = np.zeros(size, dtype=np.int64)
    if schema.episode is not None:
        names = columns[schema.episode]
        if EMPTY + schema.episode in columns:
            row = int(np.flatnonzero(columns[EMPTY + schema.episode])[0]) + 1
            raise DataError(f"row {row:,}, column '{schema.episode}': an empty cell; expected the row's episode")
        _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
        codes = np.argsort(np.argsort(first))[inverse]
    if schema.sort:
        if schema.time is None or schema.episode is None:
            raise DataError("the schema says sort without naming 'episode' and 'time'. Name both")
        order = np.lexsort((columns[schema.time], codes))
    elif (codes[1:] < codes[:-1]).any():  # interleaved episodes
        order = np.argsort(codes, kind="stable")
    return codes[order], order
