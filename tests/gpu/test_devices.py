"""CUDA devices: locks of real ones, and a run on two."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "unit"))
from tiny_training import tiny_dataset, tiny_params  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

JOB = """
import sys
from transfer.params import TrainParams
from transfer.training.device import claim_device
import torch
device = claim_device(TrainParams(device="cuda"), sys.argv[1])
assert torch.ones(1, device=device).device == device == torch.device("cuda", torch.cuda.current_device())
print(torch.cuda.get_device_properties(device).uuid, flush=True)
input()
"""


def job(name, folder, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | environment
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", JOB, name], env=environment, text=True, **pipes)


def test_a_device_is_free_again_when_its_job_is_killed(tmp_path):
    """Shown by its UUID to one job and by its number to the other."""
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    first = job("first", tmp_path, CUDA_VISIBLE_DEVICES=f"GPU-{uuid.removeprefix('GPU-')}")
    assert first.stdout.readline().strip() == uuid
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    second = job("second", tmp_path, CUDA_VISIBLE_DEVICES=visible)
    assert "second: waiting for 1 of 1 GPUs" in second.stderr.readline()
    first.kill()
    assert second.stdout.readline().strip() == uuid
    for process in (first, second):
        process.kill()
        process.communicate()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_jobs_use_different_devices(tmp_path):
    jobs = [job(name, tmp_path) for name in ("first", "second")]
    assert len({process.stdout.readline() for process in jobs}) == 2
    for process in jobs:
        process.kill()
        process.communicate()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_as_one(tmp_path):
    # A small rate, so that rounding does not grow; no augmentation, which each process draws for itself
    still = dict.fromkeys(("rotate", "flip", "grey", "jitter", "erase"), 0.0) | {"crop_scale": [1.0, 1.0]}
    changes = {"device": "cuda", "epochs": 3, "lr": 0.002, "augment": still}
    histories = []
    for gpus in (1, 2):
        folder = tmp_path / str(gpus)
        layout = tiny_dataset(folder / "results")
        (folder / "params").mkdir()
        values = tiny_params(train=changes | {"gpus": gpus})
        text = yaml.safe_dump(values.model_dump(mode="json", exclude_defaults=True, exclude_none=True))
        (folder / "params" / "default.yaml").write_text(text)
        subprocess.run(
            [sys.executable, "-m", "transfer", "train", "--dataset=faces", "--recipe=baseline", "--seed=0"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
            check=True,
        )
        histories.append(pd.read_csv(layout.run("faces", "baseline", 0) / "history.csv"))
    assert np.allclose(*histories, rtol=1e-2, atol=1e-3)  # TF32
