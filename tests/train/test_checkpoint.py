import json
import os
import shutil

import pytest
import torch

from elmnet.errors import CheckpointError
from elmnet.train.checkpoint import (
    Checkpoint,
    clean_up,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    set_aside,
    step_of,
)

CHECKPOINT = Checkpoint({"w": torch.arange(3.0)}, {"rng.torch": torch.get_rng_state()}, {"step": 3, "loss": 0.1})


def test_comes_back_exactly(tmp_path):
    again = load_checkpoint(save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2))
    assert torch.equal(again.model["w"], CHECKPOINT.model["w"])
    assert torch.equal(again.training["rng.torch"], CHECKPOINT.training["rng.torch"])
    assert again.numbers == CHECKPOINT.numbers


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 30, 4):
        save_checkpoint(tmp_path, step, CHECKPOINT, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000030", "step-00000004"]


@pytest.mark.parametrize("file", ["model.safetensors", "training.safetensors", "training.json", "manifest.json"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "missing"])
def test_damage_is_noticed(tmp_path, file, how):
    path = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)
    data = bytearray((path / file).read_bytes())
    if how == "truncated":
        (path / file).write_bytes(data[:-5])
    elif how == "flipped":
        data[len(data) // 2] ^= 255
        (path / file).write_bytes(data)
    else:
        (path / file).unlink()
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_failed_write_names_the_last_good_one(tmp_path, monkeypatch):
    good = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elmnet.train.checkpoint.to_bytes", full)
    with pytest.raises(CheckpointError, match=f"No space left on device; the last good one is {good}"):
        save_checkpoint(tmp_path, 4, CHECKPOINT, keep=2)
    assert load_checkpoint(good).numbers["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003"]


def test_what_others_put_beside_checkpoints_is_left_alone(tmp_path):
    good = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)
    for copy in ("step-00000003.bak", "step-00000003 (copy)"):
        shutil.copytree(good, tmp_path / copy)
    (tmp_path / "step-00000009").touch()
    assert list_checkpoints(tmp_path) == [good]
    save_checkpoint(tmp_path, 4, CHECKPOINT, keep=1)
    assert len(list(tmp_path.iterdir())) == 4
    assert (tmp_path / "step-00000004" / "model.safetensors").stat().st_mode & 0o044 == 0o044 & ~umask()


def umask():
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_new_checkpoint_is_never_pruned(tmp_path):
    for step in (50, 60, 7):
        newest = save_checkpoint(tmp_path, step, CHECKPOINT, keep=2)
    assert load_checkpoint(newest).numbers["step"] == 3


def test_the_newest_is_the_largest_step(tmp_path):
    """Also beyond the width of the names."""
    for step in (9, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, CHECKPOINT, keep=3)
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [100_000_000, 99_999_999, 9]


def test_damaged_ones_are_set_aside_and_leftovers_swept(tmp_path):
    path = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)
    (tmp_path / ".step-00000004.tmp").mkdir()
    assert set_aside(path).name == "damaged-step-00000003"
    clean_up(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["damaged-step-00000003"]
    assert list_checkpoints(tmp_path) == []


def test_killed_while_the_same_step_is_saved_again(tmp_path):
    path = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)
    path.rename(tmp_path / ".step-00000003.old")  # as a kill between the two renames leaves it
    (tmp_path / ".step-00000003.tmp").mkdir()
    clean_up(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    load_checkpoint(path)


def test_what_cannot_be_read_now_is_not_damaged(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)

    def stale(_):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("elmnet.train.checkpoint.sha256", stale)
    with pytest.raises(OSError, match="Stale"):
        load_checkpoint(path)


def test_nothing_is_unpickled(tmp_path):
    path = save_checkpoint(tmp_path, 3, CHECKPOINT, keep=2)
    assert sorted(p.suffix for p in path.iterdir()) == [".json", ".json", ".safetensors", ".safetensors"]
    assert set(json.loads((path / "manifest.json").read_text())) == {
        "model.safetensors",
        "training.safetensors",
        "training.json",
    }
