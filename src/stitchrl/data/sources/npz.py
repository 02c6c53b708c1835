"""NumPy's .npz (a zip of .npy): read with declared sizes checked first, checksums verified, and nothing unpickled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from stitchrl.core.errors import DataError
from stitchrl.data.columns import EPISODE_NAMES, Array
from stitchrl.data.dataset import Dataset
from stitchrl.data.npy import NpyHeader, read_npy_header
from stitchrl.data.sources import arrays
from stitchrl.data.storage import replace_file

MAX_BYTES = 64 << 30  # of all arrays together
_MAX_RATIO, _RATIO_FREE = 300, 256 << 20  # below 256 MiB any ratio is harmless; frames of Atari reach 150
_MAX_DIRECTORY = 4 << 20
_CHUNK = 1 << 18
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError, struct.error, OverflowError)


def read(path: str | Path, *, max_bytes: int = MAX_BYTES, **options: Any) -> Dataset:
    """Returns the dataset of an .npz file. Options: those of `arrays.read` (layout, infos, spec, transitions, …).

    Raises DataError for a damaged or hostile archive before anything large is allocated.
    """
    path = Path(path)
    with _Archive(path, max_bytes) as archive:
        dataset = arrays.read(archive, where=path.name, shapes=archive.shapes, **options)
        if arrays.OWN_RECORD not in archive:
            arrays.leave_out(dataset.metadata, archive.text)
        return dataset


def write(dataset: Dataset, path: str | Path, compressed: bool = False) -> None:
    """Writes the flat layout with one final observation for each episode; complete or not at all."""
    columns: dict[str, Any] = arrays.columns_of(dataset)

    def write_to(temporary: str) -> None:
        with open(temporary, "wb") as stream:  # a stream, since numpy would add its suffix to a name
            (np.savez_compressed if compressed else np.savez)(stream, **columns)

    replace_file(Path(path), write_to)


@final
class _Archive(Mapping[str, Array]):
    """The arrays of a checked archive; each is read when it is looked up."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.where = path.name
        _check_directory_size(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except _BAD_ZIP as error:
            raise DataError(f"{self.where}: not a readable .npz archive ({str(error)[:120]})") from None
        self._members: dict[str, tuple[zipfile.ZipInfo, NpyHeader]] = {}
        try:
            self._check(path.stat().st_size, max_bytes)
        except BaseException:
            self._zip.close()
            raise
        self.shapes = {name: header.shape for name, (_, header) in self._members.items()}

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> Array:
        info, header = self._members[name]
        place = f"{self.where}/{info.filename[:80]}"
        array = np.empty(header.shape, header.dtype, "F" if header.fortran else "C")
        view = array.reshape(-1, order="F" if header.fortran else "C").view(np.uint8)
        try:
            with self._zip.open(info) as stream:
                read_npy_header(stream, info.file_size, place, kinds="fiubUS" if name in EPISODE_NAMES else "fiub")
                filled = 0
                while filled < header.nbytes:
                    piece = stream.read(min(_CHUNK, header.nbytes - filled))
                    if not piece:
                        raise DataError(f"{place}: ends after {filled:,} of {header.nbytes:,} bytes; the file is cut")
                    view[filled : filled + len(piece)] = np.frombuffer(piece, np.uint8)
                    filled += len(piece)
                if stream.read(1):  # this also makes the archive's checksum be compared
                    raise DataError(f"{place}: holds more than the {header.nbytes:,} bytes that it declares")
        except DataError:
            raise
        except _BAD_ZIP as error:
            raise DataError(f"{place}: damaged ({str(error)[:120]})") from None
        return array

    def _check(self, size: int, max_bytes: int) -> None:
        infos = self._zip.infolist()
        declared = sum(info.file_size for info in infos)
        if declared > max_bytes or (declared > _RATIO_FREE and declared > _MAX_RATIO * size):
            raise DataError(
                f"{self.where}: {size:,} bytes that declare {declared:,}; refused as a zip bomb. Raise max_bytes only for a file you made"
            )
        if sum(info.compress_size for info in infos) > size:
            raise DataError(f"{self.where}: members overlap; the archive is damaged or hostile")
        for info in infos:
            name = info.filename.removesuffix(".npy")
            place = f"{self.where}/{info.filename[:80]}"
            if not info.filename.endswith(".npy") or name in self._members:
                raise DataError(f"{place}: not a .npy member, or twice in the archive; expected what numpy.savez writes")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
                raise DataError(f"{place}: compressed or encrypted in a way that numpy.savez does not use")
            try:
                with self._zip.open(info) as stream:
                    header = read_npy_header(stream, info.file_size, place, kinds="fiubUS")
            except DataError:
                raise
            except _BAD_ZIP as error:
                raise DataError(f"{place}: damaged ({str(error)[:120]})") from None
            self._members[name] = (info, header)
        single = {name for name, (_, header) in self._members.items() if header.shape in ((), (1,))}  # as text a description, no column
        episode = next((name for name in EPISODE_NAMES if name in self._members), None)  # the one of these that is read
        kept = {"observations", "actions"} | ({episode} - single)
        text = [name for name, (_, header) in self._members.items() if header.dtype.kind in "US" and name not in kept]
        self.text = [name for name in text if name not in single]
        for name in text:
            del self._members[name]


def _check_directory_size(path: Path) -> None:
    """Raises DataError where the archive's table of contents is missing or too long to be that of some arrays."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(6)
            stream.seek(max(0, size - (1 << 16) - 128))
            tail = stream.read()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if start[:1] == b"\x80" or start[:2] in (b"(d", b"c_"):
        raise DataError(f"{path.name}: a pickle, which could run code when read, and no .npz; it is not opened")
    end = tail.rfind(b"PK\x05\x06")
    if start[:2] != b"PK" or end < 0 or len(tail) < end + 22:
        raise DataError(f"{path.name}: not a complete .npz archive (its first bytes are {start!r}); it is cut or of another kind")
    length = int.from_bytes(tail[end + 12 : end + 16], "little")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0:
        length = max(length if length != 0xFFFFFFFF else 0, int.from_bytes(tail[wide + 40 : wide + 48], "little"))
    if length > _MAX_DIRECTORY:
        raise DataError(f"{path.name}: its table of contents claims {length:,} bytes; expected at most {_MAX_DIRECTORY:,}")
