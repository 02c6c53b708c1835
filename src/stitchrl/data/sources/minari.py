"""Minari's dataset directories (Farama, format of 0.5), HDF5, Arrow and Parquet storage, read and written without Minari itself."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Box, Discrete, Space, Spec
from stitchrl.data.columns import Array
from stitchrl.data.dataset import REQUIRED, Dataset
from stitchrl.data.sources.arrow_extraction import extract_episodes as extract_arrow
from stitchrl.data.sources.hdf5_extraction import extract_episodes as extract_hdf5
from stitchrl.data.sources.isolation import extract
from stitchrl.data.storage import parse_json, read_json

MAX_BYTES = 64 << 30
_VERSION = "0.5.4"
_OWN = "stitchrl"  # in metadata.json: spec, metadata and column names, in datasets that this library wrote


def is_id(name: str) -> bool:
    """Returns whether a name is a Minari id: namespace/name-v0, of one namespace or several or none."""
    return re.fullmatch(r"(?:[-\w][-\w/]*[-\w]+/)?[-\w]+-v\d+", name) is not None


def directory_of(name: str) -> Path:
    """Returns where Minari keeps the dataset of an id: under $MINARI_DATASETS_PATH, by default ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets") / name


# what an environment may be wrapped in that is opened without: `make` does as much, or nothing that is seen or done changes
_HEARD = {"AtariPreprocessing", "FrameStackObservation", "RecordEpisodeStatistics", "RecordVideo", "DataCollector", "StepDataCollector"}


def read(
    path: str | Path,
    *,
    observation_keys: Sequence[str] | None = None,
    goal_keys: Sequence[str] | None = None,
    infos: Sequence[str] = (),
    isolated: bool = True,
    max_bytes: int = MAX_BYTES,
    metadata: Mapping[str, Any] | None = None,
) -> Dataset:
    """Returns the dataset of a Minari directory: T + 1 observations an episode, the last one its final observation.

    observation_keys: of a Dict observation, the entries (`a/b` within nested ones) put side by side; by default `observation`, or
    all. Environments that tell a goal show `observation` and `desired_goal`; hindsight draws goals from `observation`.
    goal_keys: the entries put into the column `goals`; by default `desired_goal` where there is one. infos: names to keep.
    The metadata name the log's environment with its options and clock: `eval_env_spec`'s where there is one, else `env_spec`'s.
    Raises DataError.
    """
    path = Path(path)
    data = path / "data" if (path / "data" / "metadata.json").is_file() else path
    record = read_json(data / "metadata.json", constants=True)
    try:
        own, leaves, action = _own(record), _leaves(_space_of(record, "observation_space")), _space_of(record, "action_space")
        seen, goals, notes = _choose_keys(list(leaves), observation_keys, goal_keys)
        spec, starts = _spec(own, leaves, seen, action, jpeg=bool(record.get("jpeg_encoding", True)))
        options = {"observations": [*seen, *goals], "infos": list(infos) + own.get("columns", []), "total_episodes": _episodes(record)}
        columns, extracted = _extract(data, record, options, isolated, max_bytes)
        columns = _shaped(columns, {f"observations/{key}": leaves[key] for key in [*seen, *goals]} | {"actions": action})
        parts = _aligned(columns, extracted["lengths"], seen, goals)
        extra = parts["extra"] | {_column_name(name): columns[f"infos/{name}"] for name in options["infos"]}
        for name, start in starts.items():
            for part in (name, f"final_{name}"):
                if start and part in parts:
                    parts[part] = parts[part] - start
        merged = (
            own.get("metadata") if own else _metadata(record) | notes | ({"action_start": starts["actions"]} if starts["actions"] else {})
        )
        return Dataset.from_flat(
            parts["observations"],
            parts["actions"],
            columns["rewards"],
            parts["terminals"],
            parts["timeouts"],
            spec,
            final_observations=parts["final_observations"],
            extra=extra,
            metadata={**(merged or {}), **(metadata or {})},
        )
    except DataError as error:
        raise DataError(f"{path.name}: {error}") from None


def write(dataset: Dataset, path: str | Path, dataset_id: str | None = None) -> None:
    """Writes a new directory that Minari 0.5 loads as `dataset_id` (by default the directory's name, with -v0 unless versioned)."""
    path = Path(path)
    if path.exists():
        raise DataError(f"{path}: exists already. Choose another name")
    name = dataset_id or (path.name if re.search(r"-v\d+$", path.name) else f"{path.name}-v0")
    if not is_id(name):
        raise DataError(f"{name[:80]!r} is no Minari id; expected namespace/name-v0 of letters, digits, - and _")
    extra = [column for column in dataset.columns if column not in REQUIRED]
    record = {
        "total_episodes": dataset.episodes,
        "total_steps": len(dataset),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": _minari_space(dataset.spec.observation),
        "action_space": _minari_space(dataset.spec.action),
        "dataset_id": name,
        "minari_version": _VERSION,
        "dataset_size": 0.0,
        _OWN: {
            "spec": dataset.spec.to_json(),
            "metadata": dataset.metadata,
            "columns": [column.removeprefix("infos/") for column in extra],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.tmp-", dir=path.parent))
    try:
        (temporary / "data").mkdir()
        _write_hdf5(dataset, temporary / "data" / "main_data.hdf5", extra)
        record["dataset_size"] = round((temporary / "data" / "main_data.hdf5").stat().st_size / 1e6, 1)
        (temporary / "data" / "metadata.json").write_text(json.dumps(record), encoding="utf-8")
        temporary.chmod(0o755)
        temporary.rename(path)
    except OSError as error:
        raise DataError(f"{path}: could not be written ({str(error)[:120]}); nothing was left behind") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(
    data: Path, record: Mapping[str, Any], options: dict[str, Any], isolated: bool, max_bytes: int
) -> tuple[dict[str, Array], dict[str, Any]]:
    kind = record.get("data_format", "hdf5")
    if kind == "hdf5":
        return extract(extract_hdf5, data / "main_data.hdf5", options, isolated, max_bytes)
    if kind in ("arrow", "parquet"):
        return extract(extract_arrow, data, options | {"format": kind}, isolated, max_bytes)
    raise DataError(f"data_format is {str(kind)[:40]!r}; expected hdf5, arrow or parquet")


def _shaped(columns: dict[str, Array], spaces: Mapping[str, Mapping[str, Any]]) -> dict[str, Array]:
    """Returns the columns with the rows that Arrow stores flat in the shapes of their spaces."""
    for name, space in spaces.items():
        shape = space.get("shape")
        if isinstance(shape, list) and len(shape) > 1 and columns[name].ndim == 2 and columns[name].shape[1] == math.prod(shape):
            columns[name] = columns[name].reshape(-1, *shape)
    return columns


def _aligned(columns: Mapping[str, Array], lengths: list[int], seen: Sequence[str], goals: Sequence[str]) -> dict[str, Any]:
    """Returns flat columns whose row i of an episode is its step i: of T + 1 observations the first T, and the last one apart."""
    steps = np.asarray(lengths, dtype=np.int64)
    last = np.cumsum(steps) - 1  # of each episode, among steps
    final = np.cumsum(steps + 1) - 1  # of each episode, among observations
    parts: dict[str, Any] = {"extra": {}, "actions": columns["actions"]}
    keep = np.ones(int(final[-1]) + 1, dtype=np.bool_)
    keep[final] = False
    observations = _side_by_side([columns[f"observations/{key}"] for key in seen])
    parts |= {"observations": observations[keep], "final_observations": observations[final]}
    if goals:
        parts["extra"]["goals"] = _side_by_side([columns[f"observations/{key}"] for key in goals])[keep]
    ends = np.zeros(int(last[-1]) + 1, dtype=np.bool_)
    ends[last] = True
    flags = {"terminals": columns["terminations"].astype(np.bool_), "timeouts": columns["truncations"].astype(np.bool_)}
    for name, flag in flags.items():
        early = np.flatnonzero(flag & ~ends)
        if len(early):
            episode = int(np.searchsorted(last, early[0]))
            raise DataError(
                f"episode {episode:,}: {name} is set at step {int(early[0] - last[episode] + steps[episode] - 1):,}, before the last"
            )
    return parts | flags | {"timeouts": flags["timeouts"] | (ends & ~flags["terminals"])}


def _side_by_side(arrays: list[Array]) -> Array:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate([np.asarray(x).reshape(len(x), -1).astype(np.float32) for x in arrays], axis=1)


def _choose_keys(
    keys: list[str], observation_keys: Sequence[str] | None, goal_keys: Sequence[str] | None
) -> tuple[list[str], list[str], dict[str, Any]]:
    if keys == [""]:
        if observation_keys or goal_keys:
            raise DataError("observation_keys and goal_keys are for Dict observations; these are one array")
        return [""], [], {}
    goals = list(goal_keys) if goal_keys is not None else [key for key in ("desired_goal",) if key in keys]
    default = ["observation"] if "observation" in keys else [key for key in keys if key not in goals]
    seen = list(observation_keys) if observation_keys is not None else default
    unknown = [key for key in [*seen, *goals] if key not in keys]
    if unknown or not seen:
        raise DataError(f"observation key {(unknown or ['(none)'])[0]!r} is unknown; found {', '.join(map(repr, keys))}")
    return seen, goals, {"observation_keys": seen, "goal_keys": goals}


def _leaves(space: Mapping[str, Any], prefix: str = "", depth: int = 0) -> dict[str, Mapping[str, Any]]:
    if space.get("type") != "Dict":
        return {prefix: space}
    if depth > 8 or not isinstance(space.get("subspaces"), dict):
        raise DataError("observation_space is nested too deeply, or damaged")
    leaves: dict[str, Mapping[str, Any]] = {}
    for key, value in space["subspaces"].items():
        if not isinstance(value, dict) or not re.fullmatch(r"[\w .:-]{1,100}", key) or key.startswith("."):
            raise DataError(f"observation_space has the entry {key[:80]!r}; expected a space with a plain name")
        leaves |= _leaves(value, f"{prefix}/{key}" if prefix else key, depth + 1)
    return leaves


def _space_of(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    text = record.get(name)
    if not isinstance(text, str):
        raise DataError(f"metadata.json has no '{name}'; re-create the dataset with Minari 0.5, which stores it")
    return parse_json(text.encode(), f"metadata.json: {name}", constants=True)


def _spec(
    own: Mapping[str, Any], leaves: Mapping[str, Mapping[str, Any]], seen: Sequence[str], action: Mapping[str, Any], jpeg: bool
) -> tuple[Spec, dict[str, int]]:
    """Returns the spec, and the number from which discrete observations and actions count in the file."""
    if own:
        return Spec.from_json(own["spec"]), {"observations": 0, "actions": 0}
    spaces = [_space(leaves[key], f"observation_space/{key}", jpeg) for key in seen]
    if len(spaces) > 1:
        sizes = [space.size for space, _ in spaces if isinstance(space, Box)]
        if len(sizes) < len(spaces):
            raise DataError("a Discrete entry of a Dict observation cannot be put beside others; choose observation_keys without it")
        observation: Space = Box((sum(sizes),))
    else:
        observation = spaces[0][0]
    acted, start = _space(action, "action_space", jpeg)
    if isinstance(acted, Box) and acted.dtype == "uint8":
        acted = Box(acted.shape, acted.low, acted.high)
    return Spec(observation, acted), {"observations": spaces[0][1], "actions": start}


def _space(value: Mapping[str, Any], where: str, jpeg: bool) -> tuple[Space, int]:
    try:
        match value:
            case {"type": "Discrete", "n": int(n), "start": int(start)}:
                return Discrete(n), start
            case {"type": "MultiBinary", "n": int(n)}:
                return Box((n,), (0.0,), (1.0,)), 0
            case {"type": "Box", "shape": list(sides), "low": low, "high": high, "dtype": str(dtype)}:
                shape = tuple(int(x) for x in sides) or (1,)
                if dtype == "uint8" and len(shape) == 3 and shape[2] in (1, 3) and jpeg:
                    raise DataError(
                        f"{where}: frames are JPEG-encoded; re-create the dataset with jpeg_encoding=False, which loses nothing"
                    )
                kind = "uint8" if dtype == "uint8" else "float32"
                return Box(shape, _bound(low, shape), _bound(high, shape), kind), 0
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: {str(error)[:160]}") from None
    raise DataError(f"{where} is a {str(value.get('type'))[:40]}; expected Box, Discrete or a Dict of them. Convert it first")


def _bound(values: Any, shape: tuple[int, ...]) -> tuple[float, ...]:
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    if flat.size != math.prod(shape):
        raise DataError(f"bounds of {flat.size} numbers for the shape {list(shape)}")
    return (float(flat[0]),) if (flat == flat[0]).all() else tuple(flat.tolist())


def _own(record: Mapping[str, Any]) -> dict[str, Any]:
    own = record.get(_OWN, {})
    if (
        not isinstance(own, dict)
        or (own and set(own) != {"spec", "metadata", "columns"})
        or not all(isinstance(x, str) and re.fullmatch(r"[\w .:-]{1,100}", x) for x in own.get("columns", []))
    ):
        raise DataError(f"metadata.json: '{_OWN}' is damaged; expected spec, metadata and columns")
    return own


def _column_name(name: str) -> str:
    return name if name in ("behaviour_log_probabilities", "groups", "goals") else f"infos/{name}"


def _episodes(record: Mapping[str, Any]) -> int:
    count = record.get("total_episodes")
    if not isinstance(count, int) or count < 1:
        raise DataError(f"metadata.json: total_episodes is {str(count)[:40]}; expected at least 1")
    return count


def _metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"provenance": {"format": "minari", "minari_version": str(record.get("minari_version", ""))[:40]}}
    if isinstance(record.get("dataset_id"), str):
        metadata["name"] = record["dataset_id"][:200]
    for key in ("author", "algorithm_name", "code_permalink", "description"):
        if key in record:
            metadata["provenance"][key] = str(record[key])[:2000]
    for key in ("eval_env_spec", "env_spec"):  # policies are judged where the log's makers judge them, if they say so
        if isinstance(record.get(key), str):
            environment = parse_json(record[key].encode(), f"metadata.json: {key}", constants=True)
            metadata |= {"environment": str(environment.get("id"))[:200], "environment_options": _environment_options(environment, key)}
            if unheard := sorted(_wrappers(environment) - _HEARD):
                metadata["environment_wrappers"] = unheard
            break
    scores = [record.get("ref_min_score"), record.get("ref_max_score")]
    if all(isinstance(x, int | float) and math.isfinite(x) for x in scores):
        metadata["reference"] = {"random": scores[0], "expert": scores[1]}
    return metadata


def _wrappers(described: Mapping[str, Any]) -> set[str]:
    """Returns what a Gymnasium EnvSpec in JSON says that the environment was wrapped in."""
    return {str(each.get("name"))[:80] for each in described.get("additional_wrappers") or () if isinstance(each, dict)}


def _environment_options(described: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Returns the arguments of a Gymnasium EnvSpec in JSON, and its clock; how it is drawn is no part of the task."""
    arguments, clock = described.get("kwargs") or {}, described.get("max_episode_steps")
    if not isinstance(arguments, dict) or not isinstance(clock, int | None):
        raise DataError(f"metadata.json: {key}: expected kwargs by name and a whole max_episode_steps, as Gymnasium writes them")
    own = {"render_mode"} | (
        {"frameskip"} if "AtariPreprocessing" in _wrappers(described) else set()
    )  # which skips frames itself, as `make` does
    options = {name: value for name, value in arguments.items() if name not in own}
    return options if clock is None else options | {"max_episode_steps": clock}


def _minari_space(space: Space) -> str:
    if isinstance(space, Discrete):
        return json.dumps({"type": "Discrete", "dtype": "int64", "start": 0, "n": space.n})
    low, high = (np.broadcast_to(np.asarray(x), (space.size,)).reshape(space.shape).tolist() for x in (space.low, space.high))
    return json.dumps({"type": "Box", "dtype": space.dtype, "shape": list(space.shape), "low": low, "high": high})


def _write_hdf5(dataset: Dataset, path: Path, extra: Sequence[str]) -> None:
    import h5py

    with h5py.File(path, "w", track_order=True) as file:
        for index in range(dataset.episodes):
            start, stop = int(dataset.offsets[index]), int(dataset.offsets[index + 1])
            group = file.create_group(f"episode_{index}")
            group.attrs["id"], group.attrs["total_steps"] = index, stop - start
            final = dataset.final_observations[index : index + 1]
            group["observations"] = np.concatenate([dataset.observations[start:stop], final])
            for name, column in (
                ("actions", "actions"),
                ("rewards", "rewards"),
                ("terminations", "terminals"),
                ("truncations", "timeouts"),
            ):
                group[name] = dataset.columns[column][start:stop]
            for column in extra:
                group[f"infos/{column.removeprefix('infos/')}"] = dataset.columns[column][start:stop]
