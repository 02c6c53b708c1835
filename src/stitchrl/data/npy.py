"""The .npy format, read by its own strict parser: nothing is allocated or mapped before the header is compared with the file's size."""

from __future__ import annotations

import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, final

import numpy as np

from stitchrl.core.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096  # numpy's own are under 200 bytes
_HEADER = re.compile(
    r"\{\s*'descr'\s*:\s*'(?P<descr>[<>|=][?a-zA-Z]\d{0,6})'\s*,\s*'fortran_order'\s*:\s*(?P<fortran>True|False)\s*,"
    r"\s*'shape'\s*:\s*\(\s*(?P<shape>(?:\d{1,18}L?\s*,?\s*)*)\)\s*,?\s*\}\s*"
)
_KINDS = "fiub"  # numbers and truth values; objects (pickle), text, dates and records are refused


@final
@dataclass(frozen=True)
class NpyHeader:
    """What a .npy file says it holds. `start`: bytes before the data."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(stream: IO[bytes], size: int, where: str, kinds: str = _KINDS) -> NpyHeader:
    """Returns the checked header, with the stream after it; `size` is the file's whole size in bytes. Raises DataError.

    kinds: letters of numpy's dtype kinds that are let through; objects never are.
    """
    start = stream.read(8)
    if len(start) < 8 or start[:6] != _MAGIC:
        raise DataError(f"{where}: not a .npy file (its first bytes are {start[:6]!r})")
    if start[6] not in (1, 2, 3):
        raise DataError(f"{where}: .npy format version {start[6]}; expected 1, 2 or 3")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > _LONGEST_HEADER:
        raise DataError(
            f"{where}: the .npy header claims {length:,} bytes; expected at most {_LONGEST_HEADER:,}. The file is damaged or hostile"
        )
    text = stream.read(length)
    found = _HEADER.fullmatch(text.decode("latin-1"))
    if len(text) < length or found is None:
        raise DataError(f"{where}: unreadable .npy header {text[:60]!r}; expected plain numbers saved by numpy")
    try:
        dtype = np.dtype(found["descr"])
    except (TypeError, ValueError):
        raise DataError(f"{where}: unknown .npy element type {found['descr']!r}") from None
    if dtype.kind not in kinds.replace("O", "") or (dtype.kind in _KINDS and dtype.itemsize > 8):
        hint = " (objects would need pickle, which can run code)" if dtype.kind == "O" else ""
        raise DataError(f"{where}: elements of type {found['descr']!r}{hint}; expected numbers. Save the column as numbers")
    shape = tuple(int(x.strip().rstrip("L")) for x in found["shape"].split(",") if x.strip())
    if len(shape) > 8:
        raise DataError(f"{where}: an array of {len(shape)} dimensions; expected at most 8")
    header = NpyHeader(dtype, shape, found["fortran"] == "True", 8 + width + length)
    if header.start + header.nbytes != size:
        said = f"{list(shape)} {dtype}, {header.start + header.nbytes:,} bytes"
        raise DataError(f"{where}: the header says {said}, and the file has {size:,} bytes; it is cut or damaged")
    return header


def open_npy(path: Path, where: str | None = None) -> Array:
    """Returns the array of a .npy file, memory-mapped read-only. Raises DataError; follows no symbolic link."""
    where = where or path.name
    try:
        status = path.lstat()
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror})") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{where}: not a regular file; links and devices are not followed")
    with path.open("rb") as stream:
        header = read_npy_header(stream, status.st_size, where)
    order: Any = "F" if header.fortran else "C"
    if not header.nbytes:
        return np.zeros(header.shape, header.dtype, order)
    if header.shape == ():
        return np.fromfile(path, header.dtype, 1, offset=header.start)[0]  # type: ignore[no-any-return]
    return np.memmap(path, header.dtype, "r", header.start, header.shape, order)
