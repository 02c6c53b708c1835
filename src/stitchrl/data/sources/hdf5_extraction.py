"""HDF5 inspected before it is read: no links, outside storage, virtual datasets, unknown filters; bounded counts and sizes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.sources.isolation import Sink

MAX_OBJECTS = 100_000
_MAX_EPISODES = 1_000_000
_MAX_DEPTH = 6
_MAX_CHUNK = 256 << 20
_MAX_RATIO, _RATIO_FREE = 1100, 64 << 20  # deflate reaches 1032
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 6: "scale-offset", 32000: "lzf"}
_PIECE = 16 << 20


def extract_flat(path: Path, options: dict[str, Any], sink: Sink) -> dict[str, Any]:
    """Puts every numeric dataset of a file whose columns are datasets into the sink; returns the names left out.

    options: `infos`, as in `arrays.read`: which datasets below the root are wanted.
    """
    with _open(path) as file:
        checker = _Checker(path, file, max_objects=MAX_OBJECTS)
        found = dict(checker.walk(file, "", 0))
        wanted, left_out = _choose(found, options.get("infos"))
        checker.check_total(found[name] for name in wanted)
        for name in wanted:
            _copy(found[name], name, sink)
    return {"left_out": left_out}


def extract_episodes(path: Path, options: dict[str, Any], sink: Sink) -> dict[str, Any]:
    """Puts the episodes of Minari's file into the sink, one after the other; returns their lengths.

    options: `observations`: names within the group `observations` ([""] where it is a dataset itself), each becoming the column
    observations/<name>; `total_episodes`; `infos`: names of datasets in the group `infos`.
    """
    import h5py

    lengths = []
    with _open(path) as file:
        count = len(file)
        if count > _MAX_EPISODES:
            raise DataError(f"{path.name}: {count:,} groups; expected at most {_MAX_EPISODES:,} episodes")
        if count < options["total_episodes"]:
            raise DataError(
                f"{path.name}: {count:,} episodes; metadata.json says {options['total_episodes']:,}. The file is cut or damaged"
            )
        checker = _Checker(path, file, max_objects=_MAX_EPISODES * 16)
        for index in range(options["total_episodes"]):
            episode = checker.child(file, f"episode_{index}")
            if not isinstance(episode, h5py.Group):
                raise DataError(f"{path.name}: 'episode_{index}' is not a group; expected Minari's layout")
            parts = {name: checker.path(episode, name) for name in ("actions", "rewards", "terminations", "truncations")}
            parts |= {
                f"observations/{x}": checker.path(episode, f"observations/{x}" if x else "observations") for x in options["observations"]
            }
            parts |= {f"infos/{x}": checker.path(episode, f"infos/{x}") for x in options["infos"]}
            checker.check_total(parts.values())
            steps = parts["rewards"].shape[0] if parts["rewards"].shape else -1
            _check_lengths(path, index, steps, parts)
            lengths.append(steps)
            for name, dataset in parts.items():
                if name.startswith("infos/"):
                    sink.add(name, np.asarray(dataset[-steps:]))  # infos begin with reset's where they have T + 1 rows
                elif not dataset.shape[1:] or math.prod(dataset.shape) * dataset.dtype.itemsize < _PIECE:
                    sink.add(name, np.asarray(dataset[()]))
                else:
                    _copy(dataset, name, sink)
    return {"lengths": lengths}


def _check_lengths(path: Path, index: int, steps: int, parts: dict[str, Any]) -> None:
    for name, dataset in parts.items():
        rows = dataset.shape[0] if dataset.shape else -1
        expected: tuple[int, ...] = (steps + 1,) if name.startswith("observations/") else (steps,)
        expected = (steps, steps + 1) if name.startswith("infos/") else expected
        if steps < 1 or rows not in expected:
            text = " or ".join(str(x) for x in expected)
            raise DataError(f"{path.name}: episode_{index}/{name.rstrip('/')} has {rows} rows; expected {text} for {steps} rewards")


def _open(path: Path) -> Any:
    os.environ["HDF5_PLUGIN_PATH"] = ""
    import h5py

    try:
        return h5py.File(path, "r", rdcc_nbytes=32 << 20, locking=False)
    except OSError as error:
        raise DataError(f"{path.name}: not a readable HDF5 file, or cut ({' '.join(str(error).split())[:120]})") from None


@final
class _Checker:
    def __init__(self, path: Path, file: Any, max_objects: int) -> None:
        import h5py

        self._where, self._size, self._left, self._most = path.name, path.stat().st_size, max_objects, max_objects
        self._total = 0
        self._seen = {h5py.h5o.get_info(file.id).addr}

    def walk(self, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
        """Yields the name and the checked dataset of every dataset below `group`."""
        import h5py

        if depth > _MAX_DEPTH:
            raise DataError(f"{self._where}: groups nested more than {_MAX_DEPTH} deep at '{prefix[:80]}'")
        if group.id.get_num_objs() > self._left:
            raise DataError(f"{self._where}: more than {self._most:,} objects; the file is no log, or hostile")
        for name in group:
            item = self.child(group, name)
            if isinstance(item, h5py.Group):
                address = h5py.h5o.get_info(item.id).addr
                if address in self._seen:
                    raise DataError(f"{self._where}: the group '{prefix}{name}' appears twice; the file has a loop or is hostile")
                self._seen.add(address)
                yield from self.walk(item, f"{prefix}{name}/", depth + 1)
            else:
                yield prefix + name, item

    def path(self, group: Any, name: str) -> Any:
        """Returns the checked dataset at the end of a path below `group`."""
        import h5py

        item = group
        for part in name.split("/"):
            if not isinstance(item, h5py.Group):
                raise DataError(f"{self._where}: '{name}' is not in {group.name}")
            item = self.child(item, part)
        if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
            raise DataError(f"{self._where}: '{group.name}/{name}' is no dataset of numbers")
        return item

    def child(self, group: Any, name: str) -> Any:
        """Returns the group or dataset called `name`, opened only after its link was looked at, and checked."""
        import h5py

        self._left -= 1
        if self._left < 0:
            raise DataError(f"{self._where}: more than {self._most:,} objects; the file is no log, or hostile")
        try:
            link = group.get(name, getlink=True)
        except KeyError:
            raise DataError(f"{self._where}: no '{name}' in {group.name}; found {', '.join(list(group)[:8])}") from None
        place = f"{self._where}: '{group.name.rstrip('/')}/{name}'"
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            raise DataError(f"{place} is {kind}; links are not followed. Repack the file without links")
        item = group[name]
        if isinstance(item, h5py.Group):
            return item
        if not isinstance(item, h5py.Dataset):
            raise DataError(f"{place} is neither group nor dataset")
        self._check_dataset(item, place)
        return item

    def _check_dataset(self, item: Any, place: str) -> None:
        import h5py

        properties = item.id.get_create_plist()
        layout = properties.get_layout()
        if properties.get_external_count():
            raise DataError(f"{place} keeps its data in another file; refused. Repack the file")
        if layout == h5py.h5d.VIRTUAL:
            raise DataError(f"{place} is a virtual dataset, which reads other files; refused. Repack the file")
        if layout == h5py.h5d.CHUNKED:
            for index in range(properties.get_nfilters()):
                number = properties.get_filter(index)[0]
                if number not in _FILTERS:
                    raise DataError(f"{place} needs the filter {number}; expected one of {', '.join(_FILTERS.values())}. Repack the file")
            chunk = math.prod(properties.get_chunk()) * item.dtype.itemsize
            if chunk > _MAX_CHUNK:
                raise DataError(f"{place} has chunks of {chunk:,} bytes; expected at most {_MAX_CHUNK:,}")

    def check_total(self, datasets: Any) -> None:
        """Raises DataError where the declared sizes are beyond what a file of this size can hold."""
        for item in datasets:
            self._total += math.prod(item.shape or (1,)) * item.dtype.itemsize
        if self._total > _RATIO_FREE and self._total > _MAX_RATIO * self._size:
            raise DataError(f"{self._where}: {self._size:,} bytes that declare {self._total:,}; refused as a decompression bomb")


def _choose(found: dict[str, Any], infos: Any) -> tuple[list[str], list[str]]:
    rows = next((x.shape[0] for name, x in found.items() if name.startswith(("observation", "obs")) and x.shape), -1)
    wanted = []
    for name, item in found.items():
        numeric = item.dtype.kind in "fiub" and item.shape is not None
        below = "/" in name
        narrow = item.shape in ((rows,), (rows, 1))
        chosen = infos == "all" or name.removeprefix("infos/") in (infos or ()) or (infos is None and narrow)
        if numeric and (not below or (name.startswith("infos/") and chosen)):
            wanted.append(name)
    return wanted, [name for name in found if name not in wanted]


def _copy(item: Any, name: str, sink: Sink) -> None:
    if not item.shape or not math.prod(item.shape):
        sink.add(name, np.asarray(item[()]).reshape(item.shape or (1,)))
        return
    row = max(1, math.prod(item.shape[1:]) * item.dtype.itemsize)
    rows = max(1, _PIECE // row)
    if item.chunks:  # whole chunks, so that none is decompressed twice
        rows = max(item.chunks[0], rows // item.chunks[0] * item.chunks[0])
    for start in range(0, item.shape[0], rows):
        sink.add(name, np.asarray(item[start : start + rows]))
