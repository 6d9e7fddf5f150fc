import resource
from pathlib import Path

import pytest
import torch

from transfer.errors import UserError
from transfer.training.state import load_state, save_state

IDENTITY = {"recipe": "full", "seed": "0", "code": "c1", "data": "d1"}
STATE = {
    "model": {"weight": torch.arange(2000.0), "count": torch.tensor(3)},
    "history": [{"epoch": 1, "val_loss": 0.1 + 0.2}],
    "best": {"last": {"epoch": 1, "probabilities": {"val": torch.rand(4, 3)}}},
    "mlflow_run": None,
}


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "seed0" / "last.pt"
    save_state(path, IDENTITY, STATE)
    return path


def test_what_is_saved_is_loaded(path):
    state = load_state(path, IDENTITY)
    assert torch.equal(state["model"]["weight"], STATE["model"]["weight"])
    assert state["history"] == STATE["history"] and state["mlflow_run"] is None
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_no_state(tmp_path, capsys):
    assert load_state(tmp_path / "last.pt", IDENTITY) is None
    assert capsys.readouterr().err == ""


def test_a_state_of_another_training_is_not_used(path, capsys):
    assert load_state(path, IDENTITY | {"code": "c2", "recipe": "baseline"}) is None
    expected = "resume state of another training (recipe full instead of baseline, other code); training starts over"
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
