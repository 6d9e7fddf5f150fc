import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import contents, tiny_dataset, tiny_params
from torch import nn

from transfer.evaluation.predict import load_model
from transfer.params import TrainParams
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.training import run
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.epoch import EpochMeter
from transfer.training.loop import WeightAverage, make_optimizer, predict, train_epoch
from transfer.training.run import fit, train

CPU = torch.device("cpu")


class One(nn.Module):
    """A weight, a statistic and a count."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(5.0))
        self.register_buffer("statistic", torch.tensor(5.0))
        self.register_buffer("count", torch.tensor(0))

    def set(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
            self.statistic.fill_(10 * value)
            self.count.fill_(value)


def test_the_average_by_hand():
    """The first step copies; then the share of the old average is 1/10, 2/11, 3/12 and so on, at most the decay."""
    model = One()
    average = WeightAverage(model, 0.2)
    found = []
    for value in [8, 18, 7, 27]:
        model.set(value)
        average.update_parameters(model)
        found.append([tensor.item() for tensor in average.module.state_dict().values()])
    weights = [8, 0.1 * 8 + 0.9 * 18]
    weights.append(2 / 11 * weights[1] + 9 / 11 * 7)
    weights.append(0.2 * weights[2] + 0.8 * 27)  # not 3/12
    assert np.allclose(found, [[w, 10 * w, count] for w, count in zip(weights, [8, 18, 7, 27], strict=True)])
    assert model.weight.item() == 27


def test_the_warm_up_ends_where_the_docs_say():
    average = WeightAverage(One(), 0.9999)
    assert [round(average.decay_after(steps), 4) for steps in (1, 892, 8992)] == [0.1, 0.99, 0.999]
    assert average.decay_after(10**6) == 0.9999


def test_the_average_is_timms_to_the_bit():
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))
    ours = WeightAverage(model, 0.4)
    theirs = ModelEmaV3(model, 0.4, use_warmup=True, warmup_gamma=9.0, warmup_power=1.0)
    for step in range(12):
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.tensor(step))
        ours.update_parameters(model)
        theirs.update(model, step + 1)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(value, ours.module.state_dict()[name]), name


def test_the_average_over_the_steps_of_two_epochs(monkeypatch):
    """Steps count on from epoch to epoch; batch norm's statistics go with the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 3))
    params = TrainParams(lr=0.5, epochs=2, ema=0.25)
    average, optimizer = WeightAverage(model, params.ema), make_optimizer(model, params)
    made = [(torch.randn(6, 3, 2, 2), torch.arange(6) % 3) for _ in range(3)]
    seen = []

    def note(images):
        seen.append([value.double().clone() for value in model.state_dict().values()])

    for epoch in range(2):
        train_epoch(model, optimizer, made, EpochMeter(epoch, 3, CPU), params, "fp32", note, average=average)
    expected = seen[0]
    for n, state in enumerate(seen[1:]):
        decay = min(0.25, (1 + n) / (10 + n))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, state, strict=True)]
    for (name, found), value in zip(average.module.state_dict().items(), expected, strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6, msg=name)
    assert average.module[0].num_batches_tracked == 6
    assert not torch.allclose(average.module[0].running_mean, model[0].running_mean, rtol=1e-3)


# --- in a training ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two finished runs, without and with an average, and their folders."""
    found = []
    for ema in (0.0, 0.8):
        layout = tiny_dataset(tmp_path_factory.mktemp("results"))
        params = tiny_params(train={"ema": ema, "epochs": 4})
        found.append((fit(params, "faces", "full", 0, layout), layout))
        train(params, "faces", "full", 0, layout)
    return found


def test_an_average_does_not_change_the_training(trained):
    (plain, _), (averaged, _) = trained
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, averaged.model.state_dict()[name]), name
    histories = [pd.read_csv(training.directory / "history.csv") for training, _ in trained]
    same = ["epoch", "lr", "train_loss", "train_accuracy"]
    assert histories[0][same].equals(histories[1][same])
    assert (histories[0]["val_loss"] != histories[1]["val_loss"]).all()


@pytest.mark.parametrize("protocol", ["last", "val_selected"])
def test_the_average_is_what_is_kept_and_predicts(tmp_path, protocol):
    layout = tiny_dataset(tmp_path)
    params = tiny_params(train={"ema": 0.8, "epochs": 2}, protocols=[protocol])
    training = fit(params, "faces", "full", 0, layout)
    train(params, "faces", "full", 0, layout)
    model, about = load_model(layout.run("faces", "full", 0) / "model.safetensors")
    assert not torch.equal(model.head.weight, training.model.head.weight)
    if about["epoch"] == 2:
        for name, value in training.average.module.state_dict().items():
            assert torch.equal(value, model.state_dict()[name]), name
    predictions = read_predictions(layout.run("faces", "full", 0) / "predictions.parquet")
    for part in ("val", "test"):
        rows = training.data.rows[part]
        store = FaceStore(layout.data("faces") / "aligned.npy", 16, rows)
        again = predict(model, evaluation_batches(store, rows, CPU), "fp32", False)
        assert np.allclose(again, probabilities_of(predictions.query("split == @part")), atol=1e-6)


def test_every_epoch_is_evaluated_with_its_average(tmp_path, monkeypatch):
    seen, original = [], run.predict

    def watched(model, *rest):
        seen.append(model)
        return original(model, *rest)

    monkeypatch.setattr(run, "predict", watched)
    training = fit(tiny_params(train={"ema": 0.8, "epochs": 2}), "faces", "full", 0, tiny_dataset(tmp_path))
    assert len(seen) == 4 and all(model is training.average.module for model in seen)


def test_a_seed_fixes_every_bit(trained, tmp_path):
    _, layout = trained[1]
    again = tiny_dataset(tmp_path)
    train(tiny_params(train={"ema": 0.8, "epochs": 4}), "faces", "full", 0, again)
    assert contents(again, "full") == contents(layout, "full")
