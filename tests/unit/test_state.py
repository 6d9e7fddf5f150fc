import os
import resource
from pathlib import Path

import pytest
import torch

from transfer.training.state import load_state, save_state
from transfer.utils.errors import UserError

IDENTITY = {"recipe": "full", "seed": "0", "code": "c1", "data": "d1"}
STATE = {
    "model": {"weight": torch.arange(2000.0), "count": torch.tensor(3)},
    "history": [{"epoch": 1, "val_loss": 0.1 + 0.2}],
    "best": {"last": {"epoch": 1, "probabilities": {"val": torch.rand(4, 3)}}},
}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "seed0" / "last.pt"
    save_state(path, IDENTITY, STATE)
    return path


def test_what_is_saved_is_loaded(path):
    state = load_state(path, IDENTITY)
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert state["history"] == STATE["history"]
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_no_state(tmp_path, capsys):
    assert load_state(tmp_path / "last.pt", IDENTITY) is None
    assert capsys.readouterr().err == ""


def test_a_state_of_another_training_is_not_used(path, capsys):
    assert load_state(path, IDENTITY | {"code": "c2", "recipe": "baseline"}) is None
    expected = "resume state of another run (recipe full instead of baseline, other code); the run starts over"
    assert capsys.readouterr().err == f"{path}: {expected}\n"


@pytest.mark.parametrize("part", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_state_is_not_used(path, part, capsys):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert load_state(path, IDENTITY) is None
    error = capsys.readouterr().err
    assert "damaged" in error and "starts over" in error and error.count("\n") == 1


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_are_not_used(path, seed, capsys):
    """Damage in the first 600 bytes, where the structure lies, or a file of something else."""
    generator = torch.Generator().manual_seed(seed)
    damage = torch.randint(256, (600,), generator=generator, dtype=torch.uint8).numpy().tobytes()
    path.write_bytes(damage + (path.read_bytes()[600:] if seed % 2 else b""))
    assert load_state(path, IDENTITY) is None
    assert capsys.readouterr().err.count("\n") == 1


def test_one_wrong_bit_is_found_wherever_it_lies(path):
    """Most of the file are the bytes of tensors, which torch.load takes as they are."""
    content, refused = path.read_bytes(), 0
    expected = torch.load(path, weights_only=True)
    places = range(7, len(content), 97)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        state = load_state(path, IDENTITY)
        if state is None:
            refused += 1
        else:  # between two records, where nothing is read
            assert torch.equal(state["model"]["weight"], expected["model"]["weight"])
            assert state["history"] == expected["history"]
    assert refused > 0.8 * len(places)


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "noise"])
def test_a_damaged_state_starts_over_with_one_line(path, damage, capsys):
    content = path.read_bytes()
    middle = len(content) // 2
    left = {
        "empty": b"",  # a file system that loses the content at a power cut
        "cut": content[:middle],
        "bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "noise": bytes(range(256)) * 40,
    }
    path.write_bytes(left[damage])
    assert load_state(path, IDENTITY) is None
    said = capsys.readouterr().err
    assert said.startswith(f"{path}: damaged resume state (") and said.endswith("); the run starts over\n")


def test_only_the_newest_is_kept(path):
    for epoch in range(2, 6):
        save_state(path, IDENTITY, STATE | {"history": [epoch]})
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]
    assert load_state(path, IDENTITY)["history"] == [5]


def test_a_power_cut_at_any_moment_finds_a_whole_state(path, monkeypatch):
    """The content reaches the disk before the name, and the name before anything else is done."""
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{handle}")).name))
        fsync(handle)

    def renamed(old, new):
        done.append(("rename", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    save_state(path, IDENTITY, STATE)
    content, name, folder = done
    assert content[0] == "sync" and content[1].startswith(".last.")
    assert name == ("rename", content[1], "last.pt") and folder == ("sync", "seed0")


def test_a_file_that_holds_no_state(path):
    torch.save([1, 2, 3], path)
    assert load_state(path, IDENTITY) is None


@pytest.mark.parametrize("room", [0, 1000, 8000])
def test_a_full_disk_leaves_the_state_before_it(path, room):
    before = path.read_bytes()
    assert room < len(before)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        with pytest.raises(UserError) as caught:
            save_state(path, IDENTITY, STATE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(caught.value) and "make room" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "seed0").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        save_state(tmp_path / "seed0" / "last.pt", IDENTITY, STATE)
