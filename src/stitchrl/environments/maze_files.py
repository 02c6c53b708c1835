"""Mazes are compiled from a file that their packages write and leave behind, OGBench's with its descriptor open: here both go at once.

A run that is judged often opens thousands of mazes; it would fill /tmp and end at the limit of open files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cleared() -> Iterator[None]:
    """Within it, what is made by `tempfile` lies in a folder of its own; afterwards the folder and `mkstemp`'s descriptors are gone."""
    directory_before, mkstemp = tempfile.tempdir, tempfile.mkstemp
    opened: list[int] = []

    def remembered(*args: Any, **kwargs: Any) -> tuple[int, str]:
        descriptor, path = mkstemp(*args, **kwargs)
        opened.append(descriptor)
        return descriptor, path

    with tempfile.TemporaryDirectory(prefix="stitchrl-maze-") as directory:
        tempfile.tempdir, tempfile.mkstemp = directory, remembered  # type: ignore[assignment]
        try:
            yield
        finally:
            tempfile.tempdir, tempfile.mkstemp = directory_before, mkstemp
            for descriptor in opened:
                os.close(descriptor)
