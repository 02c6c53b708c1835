"""Checkpoints: what is damaged is told and passed over, what is half written is never read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from stitchrl.core.errors import CheckpointError
from stitchrl.training import checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64), "c": torch.tensor([1, 2], dtype=torch.uint8)}


def test_tensors_and_extra_come_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 12, TENSORS, {"note": [1, None]}, keep=2)
    tensors, extra = checkpoint.load(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS)
    assert extra["step"] == 12 and extra["note"] == [1, None]


def test_the_newest_are_kept_by_step(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    assert checkpoint.steps(tmp_path) == [20, 100]
    assert checkpoint.load_newest(tmp_path)[1]["step"] == 100


def test_what_was_just_saved_is_kept_below_a_damaged_one(tmp_path: Path) -> None:
    for step in (50, 100):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    (tmp_path / "step_0000000100" / "state.json").write_text("{}")
    checkpoint.save(tmp_path, 75, TENSORS, {}, keep=1)
    with pytest.warns(UserWarning, match="damaged .* going back"):
        assert checkpoint.load_newest(tmp_path)[1]["step"] == 75
    checkpoint.save(tmp_path, 100, TENSORS, {}, keep=1)
    assert checkpoint.load_newest(tmp_path)[1]["step"] == 100 and checkpoint.steps(tmp_path) == [100]


def test_the_same_step_again_never_leaves_nothing(tmp_path: Path) -> None:
    # after a resume the same step holds the same state: a whole checkpoint stays, so that no instant is without one
    checkpoint.save(tmp_path, 5, TENSORS, {"run": 1}, keep=1)
    checkpoint.save(tmp_path, 5, TENSORS, {"run": 2}, keep=1)
    assert checkpoint.load_newest(tmp_path)[1]["run"] == 1
    (tmp_path / "step_0000000005" / "state.json").write_text("{}")
    checkpoint.save(tmp_path, 5, TENSORS, {"run": 3}, keep=1)
    assert checkpoint.load_newest(tmp_path)[1]["run"] == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_0000000005"]


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "bit", "gone"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_read(tmp_path: Path, file: str, damage: str) -> None:
    for step in (5, 6):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    path = tmp_path / "step_0000000006" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content[:20] + bytes([content[20] ^ 1]) + content[21:])
    with pytest.warns(UserWarning, match="step_0000000006.*going back"):
        assert checkpoint.load_newest(tmp_path)[1]["step"] == 5


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "sha256": []}'])
def test_a_strange_manifest_is_refused(tmp_path: Path, content: str) -> None:
    path = checkpoint.save(tmp_path, 5, TENSORS, {}, keep=2)
    (path / "manifest.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match="format|damaged"):
        checkpoint.load(path)


def test_a_newer_format_asks_to_upgrade(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, TENSORS, {}, keep=2)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="99.*Upgrade"):
        checkpoint.load(path)


def test_checkpoints_that_all_lost_their_manifest_are_no_new_beginning(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, TENSORS, {}, keep=2)
    (path / "manifest.json").unlink()
    assert checkpoint.steps(tmp_path) == [5]
    with pytest.warns(UserWarning, match="manifest.json: no such file; going back"), pytest.raises(CheckpointError, match="no complete"):
        checkpoint.load_newest(tmp_path)


def test_nothing_to_resume_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        checkpoint.load_newest(tmp_path / "nowhere")


def test_leftovers_are_ignored_and_removed(tmp_path: Path) -> None:
    (tmp_path / "step_0000000009.tmp-1").mkdir(parents=True)
    assert checkpoint.steps(tmp_path) == []
    checkpoint.save(tmp_path, 3, TENSORS, {}, keep=2)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step_0000000003"]
