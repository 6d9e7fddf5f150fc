"""The training on a CUDA device."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from transfer.evaluation.predictions import read_predictions
from transfer.faces.cascade import Cascade
from transfer.faces.detect import detect
from transfer.faces.template import LANDMARK_COLUMNS
from transfer.models.transfer import transfer_tiny
from transfer.params import Augmentation, TrainParams
from transfer.training.augment import Augment, shift_hue
from transfer.training.device import choose_device, choose_precision
from transfer.training.loop import predict
from transfer.training.predict import load_model
from transfer.training.run import Training, train

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
        augment = Augment(Augmentation(), torch.Generator(CUDA).manual_seed(seed))
        return augment.erase(augment(images.to(CUDA)))

    assert outcome(1).device.type == "cuda" and torch.equal(outcome(1), outcome(1))
    assert not torch.equal(outcome(1), outcome(2))


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


def test_resuming_on_the_device(tmp_path, monkeypatch):
    layout = tiny_dataset(tmp_path)
    params = tiny_params(train={"device": "cuda", "precision": "fp32", "epochs": 2})
    with monkeypatch.context() as patch:
        patch.setattr(Training, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(params, "faces", "full", 0, layout)
    resumed = Training(params, "faces", "full", 0, layout)
    resumed._resume()
    assert len(resumed.history) == 2
    assert all(value.device.type == "cuda" for value in resumed.model.state_dict().values())
    momenta = [entry["momentum_buffer"] for entry in resumed.optimizer.state.values()]
    assert momenta and all(momentum.device.type == "cuda" for momentum in momenta)
    resumed.run()
    assert (layout.run("faces", "full", 0) / "predictions.parquet").is_file()
