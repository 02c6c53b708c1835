"""Checkpoints that are whole or absent: tensors as safetensors, the rest as JSON, a manifest of hashes last, one rename.

Nothing is ever unpickled. A directory whose name ends in `.tmp-…` was being written when its process died and is ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from stitchrl.core.errors import CheckpointError
from stitchrl.core.files import read_json, write_json

if TYPE_CHECKING:
    from stitchrl.training.trainer import Learning

FORMAT = 1
NAME = re.compile(r"step_(\d{10})")


def save(directory: Path, step: int, tensors: Mapping[str, Tensor], extra: dict[str, Any], keep: int) -> Path:
    """Writes `directory/step_N` and removes all but the newest `keep`; raises CheckpointError if it cannot; older ones stay."""
    from safetensors.torch import save as to_bytes

    final = directory / f"step_{step:010d}"
    temporary = directory / f"{final.name}.tmp-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(directory)
        temporary.mkdir()
        _failpoint("made")
        contents = to_bytes({name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())})
        _write(temporary / "state.safetensors", contents)
        _failpoint("weights")
        write_json(temporary / "state.json", {"format": FORMAT, "step": step, **extra})
        _failpoint("state")
        files = {file.name: _hash(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / "manifest.json", {"format": FORMAT, "sha256": files})
        _failpoint("manifest")
        if _whole(final):  # the same step, saved before a resume: the same state
            shutil.rmtree(temporary)
        else:
            shutil.rmtree(final, ignore_errors=True)
            os.rename(temporary, final)
        _sync(directory)
        _failpoint("renamed")
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: the checkpoint of step {step:,} could not be written ({error.strerror}); older ones are intact"
        ) from error
    for old in set(steps(directory)[:-keep]) - {step}:  # which may lie below damaged ones that were gone back from
        try:
            shutil.rmtree(directory / f"step_{old:010d}")
        except OSError as error:
            warnings.warn(f"{directory}: the old checkpoint of step {old:,} could not be removed ({error.strerror})", stacklevel=2)
    return final


def steps(directory: Path) -> list[int]:
    """Returns the steps of the checkpoints that were written whole, oldest first: by step, never by time. Some may be damaged since."""
    if not directory.is_dir():
        return []
    found = [(NAME.fullmatch(entry.name), entry) for entry in directory.iterdir()]
    return sorted(int(match.group(1)) for match, entry in found if match and entry.is_dir() and not entry.is_symlink())


def load_newest(directory: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns tensors and JSON of the newest undamaged checkpoint, warning of each damaged one; raises CheckpointError if there is none."""
    for step in reversed(steps(directory)):
        try:
            return load(directory / f"step_{step:010d}")
        except CheckpointError as error:
            warnings.warn(f"{error}; going back to the checkpoint before it", stacklevel=2)
    raise CheckpointError(
        f"{directory}: no complete checkpoint is left; train that run anew with --overwrite (policy/, if it is there, can still be used)"
    )


def restore(learner: Learning, checkpoints: Path, last: int) -> float:
    """Goes back to the newest complete checkpoint, if there is one; returns the seconds that the run had taken.

    Raises CheckpointError where more than `last` steps are done already, or where a run has learned, saved its policy, and lost its checkpoints.
    """
    if not steps(checkpoints):
        metrics = checkpoints.parent / "metrics.jsonl"
        has_learned = metrics.is_file() and metrics.stat().st_size > 0  # a stop before the first step leaves a policy, too
        if has_learned and any(any(checkpoints.parent.glob(name)) for name in ("policy", "earlier/*/policy")):
            raise CheckpointError(f"{checkpoints.parent}: holds a policy and no checkpoint to go on from; --overwrite trains it anew")
        return 0.0
    tensors, extra = load_newest(checkpoints)
    if (done := int(extra["step"])) > last:
        raise CheckpointError(f"{checkpoints.parent}: has taken {done:,} steps, and steps is {last:,}; give at least as many")
    try:
        learner.restore(tensors, done)
    except KeyError as error:
        raise CheckpointError(f"{checkpoints.parent}: its checkpoint has no {error}, as another kind of run makes it; start anew") from None
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoints.parent}: {error}. Resume as it was begun, or start anew with --overwrite") from None
    return float(extra["seconds"])


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns tensors and JSON of one checkpoint after checking every hash; raises CheckpointError for a damaged or newer one."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise CheckpointError(f"{path}: format {found!r}; this version reads {FORMAT}. Upgrade stitchrl")
    hashes = manifest.get("sha256")
    for name in ("state.safetensors", "state.json"):
        file = path / name
        if not isinstance(hashes, dict) or not file.is_file() or _hash(file) != hashes.get(name):
            raise CheckpointError(f"{file}: damaged (its sha256 is not the manifest's)")
    try:
        return from_bytes((path / "state.safetensors").read_bytes()), read_json(path / "state.json")
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from None


def _whole(path: Path) -> bool:
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(directory: Path) -> None:
    for entry in directory.glob("step_*.tmp-*"):
        if not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)


def _failpoint(name: str) -> None:
    # the fault tests kill the process here, as a power cut would
    if os.environ.get("STITCHRL_FAILPOINT") == f"checkpoint:{name}":
        os.kill(os.getpid(), signal.SIGKILL)
