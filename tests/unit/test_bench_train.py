"""The benchmark of the training: what it reports, never how fast it is."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from transfer import cli
from transfer.bench import train as bench
from transfer.bench.plain import DropInALoop, Faces, make_plain, plain_steps
from transfer.bench.train import (
    OURS,
    PLAIN,
    PeakMatmul,
    bench_train,
    synthetic_faces,
    table,
)
from transfer.models.dropping import MAD, MSAD
from transfer.models.ir50 import PReLU
from transfer.models.registry import count_macs
from transfer.models.transfer import IMAGENET_MEAN, IMAGENET_STD, transfer_tiny
from transfer.params import Augmentation, ModelParams, TrainParams
from transfer.training import loop

CPU = torch.device("cpu")
OFF = Augmentation(rotate=0, crop_scale=(1, 1), flip=0, grey=0, jitter=0, erase=0)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(bench, "FACES", 6)
    monkeypatch.setattr("transfer.bench.train.SIZES", {"cpu": (32, 64)})
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(**changes):
    options = {"threads": 1, "rounds": 3, "seconds": 0.0} | changes
    model = ModelParams(name="transfer_tiny", img_size=16)
    train = TrainParams(batch_size=4, precision="fp32", device="cpu", lr=10)  # a rate that the measurement must not use
    return bench_train(model, train, **options)


def test_what_it_reports_is_consistent(monkeypatch):
    seconds = iter(range(1, 1000))
    monkeypatch.setattr(bench, "_timed", lambda way, steps, device: way(steps) or float(next(seconds)))
    result = run(seconds=0.5)
    macs = count_macs(transfer_tiny(img_size=16), 16, CPU)
    assert result["gmacs"] == pytest.approx(macs / 1e9, abs=5e-4)
    assert result["parameters"] == sum(p.numel() for p in transfer_tiny(img_size=16).parameters())
    assert set(result["ways"]) == {OURS, PLAIN}
    # The clock said 1 and 2 before the rounds; then both ways in turns, the order turned: (3, 4), (6, 5), (7, 8).
    ours, plain = (result["ways"][way] for way in (OURS, PLAIN))
    assert ours["rounds"] == pytest.approx([4 / 3, 4 / 6, 4 / 7])
    assert plain["rounds"] == pytest.approx([4 / 4, 4 / 5, 4 / 8])
    assert ours["images_per_second"] == pytest.approx(4 / 6) and plain["images_per_second"] == pytest.approx(4 / 5)
    assert result["times_plain"] == pytest.approx(8 / 7)  # of 4/3, 5/6, 8/7
    for way in (ours, plain):
        assert way["tflops"] == pytest.approx(6 * macs * way["images_per_second"] / 1e12)
        assert way["mfu"] == pytest.approx(way["tflops"] / result["peak_matmul"]["fp32"]["tflops"])
    assert result["peak_matmul"]["fp32"]["side"] in (32, 64)
    assert result["peak_memory"] > 1e8


def test_the_mfu_of_bf16_is_of_its_own_rate():
    model = ModelParams(name="transfer_tiny", img_size=16)
    train = TrainParams(batch_size=4, precision="bf16", device="cpu")
    result = bench_train(model, train, threads=1, rounds=1, seconds=0)
    for way, precision in ((OURS, "bf16"), (PLAIN, "fp32")):
        values = result["ways"][way]
        assert values["mfu"] == pytest.approx(values["tflops"] / result["peak_matmul"][precision]["tflops"])
    assert "transfer, bf16" in table(result) and "plain loop, fp32" in table(result)


def test_a_step_of_the_bench_is_a_step_of_the_training(tmp_path):
    store, labels = synthetic_faces(tmp_path, 16)
    model, train = ModelParams(name="transfer_tiny", img_size=16), TrainParams(batch_size=4, lr=0.01)
    network, ours = bench._ours(model, train, store, labels, CPU, "fp32")
    before = network.stem.input_layer[0].weight.detach().clone()
    ours(3)
    assert not torch.equal(network.stem.input_layer[0].weight, before)


def test_macs_are_counted_and_leave_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Flatten(), nn.Linear(5 * 16, 2)).train()
    assert count_macs(model, 4, CPU) == 16 * 5 * 27 + 5 * 16 * 2
    assert model.training


def test_the_peak_matmul_rate_is_that_of_the_fastest_product(monkeypatch):
    # begin, then start and end of each product; the loop looks once more before the third one.
    first = [0, 0, 4, 4, 6, 9, 10, 10, 11, 11, 12, 19]
    times = iter([*first, *(3 * at for at in first)])  # the second round is slower
    monkeypatch.setattr("transfer.bench.train.time.perf_counter", lambda: float(next(times)))
    rate = PeakMatmul("fp32", CPU, seconds=1)
    assert rate.best == (2 * 64**3 / 1, 64)
    rate()
    assert rate.best == (2 * 64**3 / 1, 64) and rate.matrices[0].dtype == torch.float32


def test_the_plain_model_is_the_same_function():
    torch.manual_seed(0)
    model = transfer_tiny(img_size=16, mad=0.6, msad=0.3)
    nn.init.normal_(model.head.weight)
    state, images = {k: v.clone() for k, v in model.state_dict().items()}, torch.randn(3, 3, 16, 16)
    expected = model.eval()(images)
    assert make_plain(model) is model
    torch.testing.assert_close(model(images), expected)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(isinstance(module, PReLU | MAD | MSAD) for module in model.modules())
    assert sorted(m.rate for m in model.modules() if isinstance(m, DropInALoop)) == [0.3, 0.3, 0.6]


def test_dropping_in_a_loop_drops_one_branch_of_some_samples():
    drop = DropInALoop(0.5)
    x = torch.ones(4000, 4, 1, 1)
    zeros = (drop(x) == 0).flatten(1)
    assert zeros.sum(1).max() == 1 and zeros.any(1).float().mean() == pytest.approx(0.5, abs=0.05)
    assert zeros.float().mean(0).tolist() == pytest.approx([0.125] * 4, abs=0.03)
    assert (x == 1).all() and torch.equal(drop.eval()(x), x)


def test_the_plain_loop_reads_the_files(tmp_path):
    files, labels = [tmp_path / f"{i}.png" for i in range(3)], [2, 0, 1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    for file, face in zip(files, pixels, strict=True):
        Image.fromarray(face).save(file)
    faces = Faces(files, labels, 16, OFF)
    for i in range(3):
        image, label = faces[i]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        expected = pil_to_tensor(Image.open(files[i])) / 255
        assert label == labels[i] and torch.allclose(image * std + mean, expected, atol=1e-6)
    assert not torch.equal(Faces(files, labels, 16, Augmentation(flip=1))[0][0], faces[0][0])

    seen = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 3))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    before = model[1].weight.detach().clone()
    plain_steps(model, faces, 2, TrainParams(), CPU, workers=0)(4)
    assert seen == [(2, 3, 16, 16)] * 4 and not torch.equal(model[1].weight, before)


def test_it_prints_a_table_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    small = ["--model", "transfer_tiny", "--img-size", "16", "--batch-size", "2", "--rounds", "1", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["transfer", "bench", "train", *small, "--set", "train.device=cpu"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr().out
    assert not end.value.code and "transfer_tiny" in out and "16x16, batches of 2" in out
    assert "plain loop" in out and "peak matmul rate" in out and "peak memory" in out
    assert not [file for file in tmp_path.iterdir() if not file.name.startswith("pymp-")]


def test_the_bench_runs_the_training_loop_itself():
    assert bench.train_epoch is loop.train_epoch and bench.make_optimizer is loop.make_optimizer
