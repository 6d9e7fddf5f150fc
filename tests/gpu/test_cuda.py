"""The training on a CUDA device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from transfer.evaluation.predict import load_model
from transfer.faces.align import LANDMARK_COLUMNS
from transfer.faces.detect import detect
from transfer.faces.mtcnn import Cascade
from transfer.models.transfer import transfer_tiny
from transfer.params import Augmentation, TrainParams
from transfer.runs.predictions import read_predictions
from transfer.training.augment import Augment, shift_hue
from transfer.training.device import choose_device, choose_precision
from transfer.training.epoch import Diverged, EpochMeter
from transfer.training.loop import make_optimizer, predict, train_epoch
from transfer.training.run import fit, train

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from tiny_training import OUTPUTS, tiny_dataset, tiny_params  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

CUDA = torch.device("cuda")


def test_auto_takes_the_device():
    assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    assert choose_device("cpu").type == "cpu"
    assert choose_precision(TrainParams(precision="fp32"), CUDA) == "fp32"


def test_augmentation_on_the_device():
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    shift = torch.linspace(-0.5, 0.5, 8).view(-1, 1, 1)
    assert torch.allclose(shift_hue(images.to(CUDA), shift.to(CUDA)).cpu(), shift_hue(images, shift), atol=1e-5)

    def outcome(seed):
        augment = Augment(Augmentation(), seed)
        return augment.erase(augment(images.to(CUDA)))

    assert outcome(1).device.type == "cuda" and torch.equal(outcome(1), outcome(1))
    assert not torch.equal(outcome(1), outcome(2))
    on_device, on_cpu = (Augment(Augmentation(), 1)(values).cpu() for values in (images.to(CUDA), images))
    assert torch.allclose(on_device, on_cpu, atol=1e-4)  # the same parameters


def test_the_device_predicts_as_the_cpu_does():
    torch.manual_seed(0)
    model = transfer_tiny(img_size=32)
    torch.nn.init.normal_(model.head.weight)
    images = torch.randn(6, 3, 32, 32)
    expected = predict(model, iter([images]), "fp32", True)
    model.to(CUDA, memory_format=torch.channels_last)
    assert np.allclose(predict(model, iter([images.to(CUDA)]), "fp32", True), expected, atol=0.01)  # TF32
    assert np.allclose(predict(model, iter([images.to(CUDA)]), "bf16", True), expected, atol=0.1)


def test_detection_finds_the_same_faces_as_on_the_cpu():
    golden = np.load(Path(__file__).parents[1] / "unit" / "golden" / "faces.npz")
    found = Cascade("cuda").find(golden["pictures"], 36.0)
    assert [len(faces.boxes) for faces in found] == golden["count"].tolist()
    boxes, points = (np.concatenate(values) for values in zip(*found, strict=True))
    assert np.abs(boxes[:, :4] - golden["boxes"][:, :4]).max() < 0.25
    assert np.abs(points - golden["points"]).max() < 0.25
    images = [(i, picture, "") for i, picture in enumerate(golden["pictures"])]
    tables = [detect(images, list("abcd"), device=device) for device in ("cpu", "cuda")]
    assert (tables[0]["n_faces"] == tables[1]["n_faces"]).all()
    assert np.allclose(*(table[LANDMARK_COLUMNS] for table in tables), atol=0.25)


def test_dropping_does_not_wait_for_the_device():
    model = transfer_tiny(img_size=32, mad=0.6, msad=0.3).to(CUDA).train()
    images = torch.randn(4, 3, 32, 32, device=CUDA)
    model(images)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(images).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_training_and_its_weights_on_the_cpu(tmp_path):
    layout = tiny_dataset(tmp_path)
    params = tiny_params(train={"device": "cuda", "precision": "auto", "epochs": 2})
    train(params, "faces", "full", 0, layout)
    folder = layout.run("faces", "full", 0)
    assert sorted(file.name for file in folder.iterdir()) == sorted(OUTPUTS)
    assert json.loads((folder / "env.json").read_text())["device"] == torch.cuda.get_device_name()
    assert len(read_predictions(folder / "predictions.parquet"))
    assert next(load_model(folder / "model.safetensors")[0].parameters()).device.type == "cpu"


def test_resuming_on_the_device(tmp_path):
    layout = tiny_dataset(tmp_path)
    params = tiny_params(train={"device": "cuda", "precision": "fp32", "epochs": 2})
    fit(params, "faces", "full", 0, layout)
    resumed = fit(params, "faces", "full", 0, layout)
    assert len(resumed.history) == 2
    assert all(value.device.type == "cuda" for value in resumed.model.state_dict().values())
    velocities = resumed.optimizer.velocity.values()
    assert velocities and all(velocity.device.type == "cuda" for velocity in velocities)
    train(params, "faces", "full", 0, layout)
    assert (layout.run("faces", "full", 0) / "predictions.parquet").is_file()


def test_no_step_of_the_loop_waits_for_the_device():
    """Looking at the loss does, and is done now and then."""
    model = transfer_tiny(img_size=32, mad=0.6, msad=0.3).to(CUDA)
    params = TrainParams(lr=0.01, epochs=2)
    optimizer = make_optimizer(model, params)
    images, targets = torch.randn(8, 3, 32, 32, device=CUDA), torch.arange(8, device=CUDA) % 7
    meter = EpochMeter(0, 30, CUDA)

    def batches():
        yield images, targets  # the first step makes the optimizer's state
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(20):
            yield images, targets
        torch.cuda.set_sync_debug_mode("default")

    try:
        train_epoch(model, optimizer, batches(), meter, params, "bf16", lambda n: None, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert meter.step == 21 < meter.check_every
    meter.check()


def test_a_loss_lost_on_the_device_names_its_step():
    meter = EpochMeter(0, 100, CUDA)
    one = torch.ones((), device=CUDA)
    with pytest.raises(Diverged, match="epoch 1, step 8 of 100") as caught:
        for step in range(100):
            meter.add(one * (float("nan") if step >= 7 else 1), one, one.long(), 4, 0.1)
    assert meter.step == 50 and "one step before 1 and 1" in str(caught.value)


# In a process of its own: cuBLAS reads its setting once.
DETERMINISTIC = """
import json, os, signal, sys, torch
from pathlib import Path
from tiny_training import contents, tiny_dataset, tiny_params
from transfer.training import run
from transfer.training.signals import Stopped
params = tiny_params(
    model={"img_size": 32},
    train={"device": sys.argv[2], "precision": sys.argv[3], "epochs": 2, "deterministic": True, "hflip_tta": True},
)
layout = tiny_dataset(Path(sys.argv[1]))
found = []
for attempt in range(2):
    run.train(params, "faces", "full", 0, layout)
    found.append(contents(layout, "full"))
noted = json.loads((layout.run("faces", "full", 0) / "env.json").read_text())["deterministic"]
batches = run.training_batches
def stopping(*arguments, first, **shared):
    for number, batch in enumerate(batches(*arguments, first=first, **shared)):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        yield batch
run.training_batches = stopping
try:
    run.train(params, "faces", "full", 0, layout)
except Stopped as stop:
    assert "after step 2 of 3" in str(stop), stop
run.training_batches = batches
run.train(params, "faces", "full", 0, layout)
found.append(contents(layout, "full"))
print(noted, found[0] == found[1], found[0] == found[2])
"""


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_deterministic_means_the_same_bits_also_after_sigterm(tmp_path, precision, device="cuda"):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", DETERMINISTIC, tmp_path, device, precision],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests/unit")])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"] * 3
