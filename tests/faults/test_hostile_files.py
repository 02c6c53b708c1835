"""Cut, damaged and hostile data files: a DataError in one line, nothing run, nothing read elsewhere, little memory."""

from __future__ import annotations

import importlib
import io
import json
import os
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stitchrl.core.errors import DataError
from stitchrl.core.spec import Spec
from stitchrl.data import sources
from stitchrl.data.dataset import Dataset
from stitchrl.data.npy import open_npy
from stitchrl.data.sources import arrow_extraction, d4rl_hdf5, minari, parquet

CANARY: list[str] = []


def touch_canary() -> None:
    CANARY.append("run")


class Hostile:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> Any:
        return touch_canary, ()


def dataset() -> Dataset:
    generator = np.random.default_rng(0)
    observations = generator.standard_normal((60, 3)).astype(np.float32)
    ends = np.arange(60) % 20 == 19
    final = observations[:3] + 1
    return Dataset.from_flat(observations, np.arange(60) % 4, np.ones(60), ends * 0, ends, final_observations=final)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one good file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    d = dataset()
    for name in ("log.npz", "log.hdf5", "log.parquet", "log.csv", "log"):
        sources.write(d, folder / name)
    minari.write(d, folder / "log-v0")
    return folder


def outcome(path: Path, **options: Any) -> str:
    """Returns "read" or the error's one line; anything but a DataError fails the test."""
    try:
        sources.read(path, **options)
    except DataError as error:
        message = str(error)
    else:
        return "read"
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["log.npz", "log.parquet", "log.hdf5"])
def test_cut_at_every_sixteenth(whole: Path, tmp_path: Path, name: str) -> None:
    content = (whole / name).read_bytes()
    for sixteenth in range(16):
        (tmp_path / name).write_bytes(content[: len(content) * sixteenth // 16])
        apart = {} if name == "log.npz" or sixteenth % 5 == 0 else {"isolated": False}  # processes take their time to start
        assert outcome(tmp_path / name, **apart) != "read", sixteenth


def test_a_cut_csv_is_refused_or_shorter(whole: Path, tmp_path: Path) -> None:
    content = (whole / "log.csv").read_bytes()
    for sixteenth in range(16):
        (tmp_path / "log.csv").write_bytes(content[: len(content) * sixteenth // 16])
        if outcome(tmp_path / "log.csv") == "read":
            assert len(sources.read(tmp_path / "log.csv")) < 60


@pytest.mark.parametrize("name", ["dataset.json", "rewards.npy", "offsets.npy", "final_observations.npy"])
def test_a_cut_column_is_refused(whole: Path, tmp_path: Path, name: str) -> None:
    dataset().save(tmp_path / "log")
    content = (whole / "log" / name).read_bytes()
    for sixteenth in range(16):
        (tmp_path / "log" / name).write_bytes(content[: len(content) * sixteenth // 16])
        assert outcome(tmp_path / "log") != "read", sixteenth


FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=8)


def flipped(content: bytes, flips: list[tuple[float, int]]) -> bytes:
    damaged = bytearray(content)
    for place, bit in flips:
        damaged[int(place * len(damaged))] ^= 1 << bit
    return bytes(damaged)


@pytest.mark.parametrize("name", ["log.npz", "log.csv"])
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=FLIPS)
def test_flipped_bits(whole: Path, tmp_path: Path, name: str, flips: list[tuple[float, int]]) -> None:
    (tmp_path / name).write_bytes(flipped((whole / name).read_bytes(), flips))
    outcome(tmp_path / name)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=FLIPS, name=st.sampled_from(["dataset.json", "rewards.npy", "offsets.npy", "terminals.npy"]))
def test_flipped_bits_in_a_saved_dataset(whole: Path, tmp_path: Path, name: str, flips: list[tuple[float, int]]) -> None:
    if not (tmp_path / "log").exists():
        dataset().save(tmp_path / "log")
    original = (whole / "log" / name).read_bytes()
    (tmp_path / "log" / name).write_bytes(flipped(original, flips))
    outcome(tmp_path / "log")
    (tmp_path / "log" / name).write_bytes(original)


@pytest.mark.parametrize("name", ["log.hdf5", "log.parquet", "log-v0"])
@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=FLIPS)
def test_flipped_bits_cannot_crash_this_process(whole: Path, tmp_path: Path, name: str, flips: list[tuple[float, int]]) -> None:
    if name == "log-v0":
        inside = tmp_path / name / "data"
        inside.mkdir(parents=True, exist_ok=True)
        (inside / "metadata.json").write_bytes((whole / name / "data" / "metadata.json").read_bytes())
        (inside / "main_data.hdf5").write_bytes(flipped((whole / name / "data" / "main_data.hdf5").read_bytes(), flips))
    else:
        (tmp_path / name).write_bytes(flipped((whole / name).read_bytes(), flips))
    outcome(tmp_path / name)


def test_a_reader_that_crashes_or_hangs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stitchrl.data.sources import isolation

    (tmp_path / "doomed_reader.py").write_text(
        "import os, time\ndef crash(path, options, sink):\n    os.kill(os.getpid(), 11)\n"
        "def hang(path, options, sink):\n    time.sleep(60)\ndef shout(path, options, sink):\n    print('{}')\n    return {}\n"
    )
    (tmp_path / "log.bin").write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    doomed_reader = importlib.import_module("doomed_reader")
    monkeypatch.setattr(isolation, "_CHILD", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + isolation._CHILD)
    monkeypatch.setattr(isolation.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError, match=r"log.bin: the library that reads it crashed \(SIGSEGV\)"):
        isolation.extract(doomed_reader.crash, tmp_path / "log.bin", {}, True, 1 << 20)
    with pytest.raises(DataError, match="log.bin: not read after 2 seconds"):
        isolation.extract(doomed_reader.hang, tmp_path / "log.bin", {}, True, 1 << 20, seconds=2)
    assert isolation.extract(doomed_reader.shout, tmp_path / "log.bin", {}, True, 1 << 20) == ({}, {})
    assert not list(tmp_path.glob("stitchrl-read-*"))


@pytest.mark.parametrize("name", ["log.npz", "log.hdf5", "log.parquet", "log.csv", "unnamed"])
def test_a_pickle_in_disguise_is_not_run(tmp_path: Path, name: str) -> None:
    import pickle

    (tmp_path / name).write_bytes(pickle.dumps(Hostile()))
    assert outcome(tmp_path / name) != "read"
    assert CANARY == []


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    objects = np.empty(2, dtype=object)
    objects[:] = [Hostile(), Hostile()]
    np.savez(tmp_path / "log.npz", observations=np.zeros((2, 1)), actions=objects)
    CANARY.clear()
    assert "pickle" in outcome(tmp_path / "log.npz")
    np.save(tmp_path / "column.npy", objects, allow_pickle=True)
    with pytest.raises(DataError, match="pickle"):
        open_npy(tmp_path / "column.npy")
    assert CANARY == []


def npy(header: str, data: bytes = b"", length: int | None = None, version: int = 2) -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n", b"\0" * 8),
            "4,000,000,000,0.. bytes, and the file has",
        ),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", b"\0" * 4), "cut or damaged"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", b"\0" * 12), "cut or damaged"),
        (npy("{}", length=(1 << 32) - 1), "claims 4,294,967,295 bytes"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 8), "pickle"),
        (npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }\n", b"\0" * 4), "unreadable .npy header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }\n"), "unreadable .npy header"),
        (npy("__import__('os').system('true')"), "unreadable .npy header"),
        (npy("(" * 4000), "unreadable .npy header"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 40 + "), }\n", b"\0" * 4), "40 dimensions"),
        (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }\n", version=9), "format version 9"),
        (b"\x93NUM", "not a .npy file"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "column.npy").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_npy(tmp_path / "column.npy")
    with zipfile.ZipFile(tmp_path / "log.npz", "w") as archive:
        archive.writestr("observations.npy", content)
    assert outcome(tmp_path / "log.npz") != "read"


def test_a_link_out_of_a_saved_dataset_is_not_followed(tmp_path: Path) -> None:
    dataset().save(tmp_path / "log")
    (tmp_path / "log" / "rewards.npy").rename(tmp_path / "elsewhere.npy")
    (tmp_path / "log" / "rewards.npy").symlink_to(tmp_path / "elsewhere.npy")
    assert "not a regular file" in outcome(tmp_path / "log")


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (300 << 20,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("observations.npy", "w", force_zip64=True) as member:
        member.write(header.getvalue())
        for _ in range(300):
            member.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "refused as a zip bomb" in outcome(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_archives_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "log.npz"
    np.savez(path, observations=np.zeros((1000, 3)), actions=np.zeros(1000), terminals=np.zeros(1000))
    content = path.read_bytes()
    larger = content.replace(struct.pack("<II", 24128, 24128), struct.pack("<II", 24128, 1 << 30))  # declared size of one member
    assert larger != content
    path.write_bytes(larger)
    assert outcome(path) != "read"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escape.txt", "x")
    assert "not a .npy member" in outcome(path)
    end = content.rfind(b"PK\x05\x06")
    path.write_bytes(content[: end + 12] + struct.pack("<I", 1 << 31) + content[end + 16 :])
    assert "table of contents claims" in outcome(path)


def hostile_hdf5(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.hdf5"
    secret = folder / "secret.hdf5"
    with h5py.File(secret, "w") as file:
        file["observations"] = np.ones((4, 2), np.float32)
    with h5py.File(path, "w") as file:
        file["actions"], file["rewards"] = np.zeros(4, np.int64), np.zeros(4, np.float32)
        file["terminals"] = np.array([0, 0, 0, 1], bool)
        if kind == "external link":
            file["observations"] = h5py.ExternalLink("secret.hdf5", "/observations")
        elif kind == "soft link":
            file["observations"] = h5py.SoftLink("/rewards")
        elif kind == "soft loop":
            file["observations"] = h5py.SoftLink("/observations")
        elif kind == "hard loop":
            group = file.create_group("observations")
            group["again"] = group
        elif kind == "another file":
            (folder / "raw.bin").write_bytes(b"\x01" * 32)
            file.create_dataset("observations", (4, 2), np.float32, external=[("raw.bin", 0, 32)])
        elif kind == "virtual dataset":
            layout = h5py.VirtualLayout((4, 2), np.float32)
            layout[:] = h5py.VirtualSource(str(secret), "observations", (4, 2))
            file.create_virtual_dataset("observations", layout)
        elif kind == "decompression bomb":
            file.create_dataset("observations", (1 << 36, 2), np.float32, chunks=(1 << 16, 2))
        elif kind == "chunks of":
            file.create_dataset("observations", (1 << 27, 2), np.float32, chunks=(1 << 27, 2))
        elif kind == "nested more than":
            file.create_group("/".join("abcdefghij"))
        elif kind == "holds text":
            file["observations"] = ["a", "b", "c", "d"]
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("external link", "an external link"),
        ("soft link", "a soft link"),
        ("soft loop", "a soft link"),
        ("hard loop", "appears twice"),
        ("another file", "in another file"),
        ("virtual dataset", "virtual dataset"),
        ("decompression bomb", "decompression bomb"),
        ("chunks of", "chunks of"),
        ("nested more than", "nested more than"),
        ("holds text", "no column 'observations'"),
    ],
)
def test_hdf5_that_points_elsewhere_is_refused_before_it_is_read(tmp_path: Path, kind: str, message: str) -> None:
    path = hostile_hdf5(kind, tmp_path)
    with pytest.raises(DataError, match=message):
        d4rl_hdf5.read(path, isolated=False)
    if kind == "external link":
        assert message in outcome(path)


def test_hdf5_with_an_unknown_filter_or_too_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stitchrl.data.sources import hdf5_extraction

    with h5py.File(tmp_path / "filter.hdf5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((32,))
        properties.set_filter(4 if h5py.h5z.filter_avail(4) else 305, h5py.h5z.FLAG_OPTIONAL, (4, 8))
        space = h5py.h5s.create_simple((32,))
        h5py.h5d.create(file.id, b"observations", h5py.h5t.NATIVE_INT32, space, properties)
    with pytest.raises(DataError, match="needs the filter"):
        d4rl_hdf5.read(tmp_path / "filter.hdf5", isolated=False)
    with h5py.File(tmp_path / "many.hdf5", "w") as file:
        for index in range(40):
            file.create_group(f"g{index}")
    monkeypatch.setattr(hdf5_extraction, "MAX_OBJECTS", 30)
    with pytest.raises(DataError, match="more than 30 objects"):
        d4rl_hdf5.read(tmp_path / "many.hdf5", isolated=False)


def test_minaris_links_are_not_followed(whole: Path, tmp_path: Path) -> None:
    inside = tmp_path / "log-v0" / "data"
    inside.mkdir(parents=True)
    (inside / "metadata.json").write_bytes((whole / "log-v0" / "data" / "metadata.json").read_bytes())
    (inside / "main_data.hdf5").write_bytes((whole / "log-v0" / "data" / "main_data.hdf5").read_bytes())
    with h5py.File(inside / "main_data.hdf5", "a") as file:
        del file["episode_1/rewards"]
        file["episode_1/rewards"] = h5py.ExternalLink("/etc/hostname", "/rewards")
    assert "an external link" in outcome(tmp_path / "log-v0", isolated=False)
    record = json.loads((inside / "metadata.json").read_text())
    for deep in ("[" * 100_000, json.dumps(record | {"total_episodes": 10**9})):
        (inside / "metadata.json").write_text(deep)
        assert outcome(tmp_path / "log-v0", isolated=False) != "read"


def test_parquet_that_lies_about_its_footer(whole: Path, tmp_path: Path) -> None:
    content = (whole / "log.parquet").read_bytes()
    for length in (0, 7, len(content), (1 << 31) - 1, (1 << 32) - 1):
        (tmp_path / "log.parquet").write_bytes(content[:-8] + struct.pack("<I", length) + b"PAR1")
        assert outcome(tmp_path / "log.parquet", isolated=False) != "read"


def test_parquet_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 1 << 22
    frame = pl.DataFrame({"obs_0": pl.repeat(1.0, rows, eager=True), "action": pl.repeat(0, rows, eager=True)})
    frame.with_columns(reward=pl.lit(0.0), terminal=pl.lit(True)).write_parquet(tmp_path / "rows.parquet", compression="zstd")
    monkeypatch.setattr(parquet, "_RATIO_FREE", 1 << 20)
    assert "refused as a decompression bomb" in outcome(tmp_path / "rows.parquet", isolated=False)
    wide = pl.DataFrame({f"c{i}": [0] for i in range(300)})
    wide.write_parquet(tmp_path / "wide.parquet")
    monkeypatch.setattr(parquet, "MAX_COLUMNS", 200)
    assert "300 columns; expected at most 200" in outcome(tmp_path / "wide.parquet", isolated=False)


def test_arrow_extension_types_and_nesting_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    def written(column: Any) -> Path:
        folder = tmp_path / "0"
        folder.mkdir(exist_ok=True)
        with (
            pa.OSFile(str(folder / "part-0.arrow"), "wb") as sink,
            pa.ipc.new_file(sink, pa.schema([("observations", column.type)])) as writer,
        ):
            writer.write(pa.record_batch([column], names=["observations"]))
        return tmp_path

    options = {"total_episodes": 1, "observations": [""], "infos": [], "format": "arrow"}
    extension = pa.ExtensionArray.from_storage(pa.json_(), pa.array(["1", "2"]))
    with pytest.raises(DataError, match="an extension type"):
        arrow_extraction.extract_episodes(written(extension), options, None)  # type: ignore[arg-type]
    nested: Any = pa.array([1, 2])
    for _ in range(20):
        nested = pa.StructArray.from_arrays([nested], names=["x"])
    with pytest.raises(DataError, match="nested more than 8 deep"):
        arrow_extraction.extract_episodes(written(nested), options, None)  # type: ignore[arg-type]


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    with gzip.open(tmp_path / "log.csv.gz", "wb") as stream:
        for _ in range(64):
            stream.write(b"0" * (1 << 20))
    assert "decompression bomb" in outcome(tmp_path / "log.csv.gz", max_bytes=16 << 20)
    content = (tmp_path / "log.csv.gz").read_bytes()
    (tmp_path / "log.csv.gz").write_bytes(content[:2000])
    assert "cannot be read" in outcome(tmp_path / "log.csv.gz")


def test_reading_needs_little_more_memory_than_the_file(tmp_path: Path) -> None:
    d = Dataset.from_flat(
        np.zeros((300_000, 30), np.float32), np.zeros((300_000, 6), np.float32), np.zeros(300_000), np.arange(300_000) % 1000 == 999
    )
    sources.write(d, tmp_path / "log.npz")
    program = (
        "import resource, sys; from stitchrl.data.sources import npz; npz.read; import numpy, zipfile\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"npz.read({str(tmp_path / 'log.npz')!r})\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env={**os.environ, "PYTHONPATH": "src"}, check=True)
    assert int(done.stdout) * 1024 < 2 * (tmp_path / "log.npz").stat().st_size + (64 << 20)


def test_the_good_files_are_read(whole: Path) -> None:
    spec: Spec = dataset().spec
    for name in ("log.npz", "log.hdf5", "log", "log-v0"):
        assert sources.read(whole / name).fingerprint() == dataset().fingerprint()
    for name in ("log.parquet", "log.csv"):
        assert sources.read(whole / name, spec=spec).fingerprint() == dataset().fingerprint()
