from __future__ import annotations

import errno
import os
import random

import pytest
import torch

from truing.errors import CheckpointError
from truing.train import checkpoint
from truing.train.checkpoint import load_latest, rng_state, save, set_rng_state

FILES = ["tensors.safetensors", "state.json", "manifest.json"]


def put(folder, step, keep=2):
    tensors = {"w": torch.full((3, 5), float(step)), "half": torch.ones(2, dtype=torch.bfloat16)}
    return save(folder, step, tensors, {"step": step, "text": "déjà"}, keep)


def steps(folder):
    return sorted(int(p.name[5:13]) for p in folder.glob("step_*"))


def test_what_is_saved_is_loaded(tmp_path):
    put(tmp_path / "c", 7)
    found = load_latest(tmp_path / "c")
    assert found.step == 7
    assert found.skipped == ()
    assert found.state == {"step": 7, "text": "déjà"}
    assert torch.equal(found.tensors["w"], torch.full((3, 5), 7.0))
    assert found.tensors["half"].dtype == torch.bfloat16


def test_no_checkpoint_is_none(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "absent") is None


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "grown"])
def test_peer_20_truncated_checkpoint_is_refused_and_the_previous_used(tmp_path, name, damage):
    put(tmp_path, 1)
    path = put(tmp_path, 2) / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[:-1], "grown": content + b" "}[damage])
    found = load_latest(tmp_path)
    assert (found.step, found.tensors["w"][0, 0].item()) == (1, 1.0)
    assert len(found.skipped) == 1
    assert "step_00000002" in found.skipped[0]
    assert name in found.skipped[0]


@pytest.mark.parametrize("name", FILES)
def test_peer_20_any_flipped_bit_is_refused(tmp_path, name):
    put(tmp_path, 1)
    path = put(tmp_path, 2) / name
    content = path.read_bytes()
    draw = random.Random(0)
    places = range(len(content)) if name == "manifest.json" else draw.sample(range(len(content)), 12)
    for place in places:
        flipped = bytearray(content)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        assert load_latest(tmp_path).step == 1, f"byte {place}"
    path.write_bytes(content)
    assert load_latest(tmp_path).step == 2


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
    put(tmp_path, 1)
    put(tmp_path, 2).rename(tmp_path / "step_00000009")
    assert load_latest(tmp_path).step == 1


def test_all_damaged_is_an_error_that_names_each(tmp_path):
    for step in (1, 2):
        (put(tmp_path, step) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"step_00000002.*step_00000001"):
        load_latest(tmp_path)


def test_peer_21_old_checkpoints_go_only_after_the_new_one_is_in_place(tmp_path, monkeypatch):
    for step in (1, 2):
        put(tmp_path, step)
    removed = []
    real = checkpoint._remove

    def watched(path):
        assert load_latest(tmp_path).step == 3
        removed.append(path.name)
        real(path)

    monkeypatch.setattr(checkpoint, "_remove", watched)
    put(tmp_path, 3)
    assert removed == ["step_00000001"]
    assert steps(tmp_path) == [2, 3]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_rotation_keeps_the_newest(tmp_path, keep):
    for step in range(1, 6):
        put(tmp_path, step, keep)
    assert steps(tmp_path) == list(range(6 - keep, 6))


@pytest.mark.parametrize("call", ["save_file", "_sync", "_sha256", "_canonical"])
def test_peer_21_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, call):
    put(tmp_path, 1, keep=1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, call, full)
        with pytest.raises(CheckpointError, match=r"step 2 could not be saved.*No space left"):
            put(tmp_path, 2, keep=1)
    assert load_latest(tmp_path).step == 1
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    put(tmp_path, 2, keep=1)
    assert load_latest(tmp_path).step == 2


def test_what_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    put(tmp_path, 1)
    with pytest.raises(ValueError, match="JSON"):
        save(tmp_path, 2, {"w": torch.ones(1)}, {"loss": float("nan")}, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    (tmp_path / ".partial_save").mkdir()
    (tmp_path / ".partial_save" / "tensors.safetensors").write_bytes(b"half")
    (tmp_path / ".partial_step_00000001").mkdir()
    assert load_latest(tmp_path) is None
    put(tmp_path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]


def test_saving_a_step_again_replaces_it_without_a_gap(tmp_path):
    put(tmp_path, 1)
    (put(tmp_path, 2) / "state.json").write_text("damaged")
    save(tmp_path, 2, {"w": torch.zeros(1)}, {"again": True}, 2)
    found = load_latest(tmp_path)
    assert (found.step, found.state, found.skipped) == (2, {"again": True}, ())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000002.1"]


def test_a_damaged_later_step_never_crowds_out_the_one_just_saved(tmp_path):
    put(tmp_path, 1, keep=1)
    (put(tmp_path, 9, keep=2) / "manifest.json").unlink()
    assert load_latest(tmp_path).step == 1
    put(tmp_path, 2, keep=1)
    assert steps(tmp_path) == [2]


def test_a_sound_later_step_is_never_overtaken(tmp_path):
    put(tmp_path, 9)
    with pytest.raises(CheckpointError, match="later than step 2"):
        put(tmp_path, 2)
    assert steps(tmp_path) == [9]


def test_keep_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        put(tmp_path, 1, keep=0)


def test_peer_19_random_state_survives_a_checkpoint(tmp_path):
    import numpy

    def draw():
        return [random.random(), random.gauss(0, 1), numpy.random.rand(), *torch.rand(3).tolist()]

    # beartype's own checks draw from Python's generator, so the bare functions are called
    take, put_back = (getattr(f, "__wrapped__", f) for f in (rng_state, set_rng_state))
    draw()
    tensors, state = take()
    expected = [draw() for _ in range(3)]
    save(tmp_path, 1, tensors, state, 1)
    found = load_latest(tmp_path)
    put_back(found.tensors, found.state)
    assert [draw() for _ in range(3)] == expected


def test_random_state_of_more_gpus_than_there_are_is_an_error():
    tensors, state = rng_state()
    extra = {f"cuda.{i}": tensors["cpu"] for i in range(torch.cuda.device_count() + 1)}
    with pytest.raises(CheckpointError, match="GPUs"):
        set_rng_state(tensors | extra, state)
