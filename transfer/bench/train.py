"""Speed of training: images per second, and model FLOPs utilisation (MFU) against the machine's peak matmul rate."""

import math
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from transfer.bench.plain import Faces, plain_steps
from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.faces.store import store_writer
from transfer.models.registry import count_macs, create_model, input_of
from transfer.params import ModelParams, TrainParams
from transfer.training.batches import FaceStore, training_batches
from transfer.training.device import choose_device, choose_precision
from transfer.training.epoch import EpochMeter
from transfer.training.loop import WeightAverage, make_optimizer, train_epoch

OURS, PLAIN = "transfer", "plain loop"
FACES, CLASSES = 96, 7
PASSES = 3
"""A backward pass takes two products for each one of the forward pass."""
SIZES = {"cuda": (8192,), "cpu": (512, 1024, 2048)}
"""Sides of the square matrices of the peak matmul rate; the fastest counts."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}

_RATE = 1e-5  # of learning: too small for a loss to explode in the few steps of a measurement


def bench_train(
    model: ModelParams,
    train: TrainParams,
    *,
    threads: int,
    rounds: int = 3,
    seconds: float = 2.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a little on synthetic faces, in turns with a plain loop (transfer/bench/plain.py) and with square products.

    In each of ``rounds`` both ways train for about ``seconds``, at least for one batch, and the order is turned; what
    comes before the first round warms up and does not count. Returns medians of the rounds, for each way
    images_per_second, tflops (3 x 2 x MACs an image), mfu (divided by the peak matmul rate in the way's precision) and
    its rounds; peak_memory, bytes of this process before the plain loop began (CUDA: of the device).
    """
    device, side = choose_device(train.device), int(input_of(model)["img_size"])
    precision = choose_precision(train, device)
    train = train.model_copy(update={"lr": _RATE, "warmup_epochs": 0.0})
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        progress("faces")
        store, labels = synthetic_faces(Path(name), side)
        progress("first steps")
        network, ours = _ours(model, train, store, labels, device, precision)
        ours(1)
        steps = {OURS: _steps(ours, seconds, device)}  # from the second step on the optimiser's state is there as well
        memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak_resident()
        macs = count_macs(network, side, device)
        ways: dict[str, Callable[[int], None]] = {
            OURS: ours,
            PLAIN: _plain(model, train, store, labels, device, threads),
        }
        steps[PLAIN] = _steps(ways[PLAIN], seconds, device)
        rates = {name: PeakMatmul(name, device) for name in dict.fromkeys((precision, "fp32"))}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for rate in rates.values():
                rate()
            for way in list(ways)[:: -1 if turn % 2 else 1]:
                taken[way].append(_timed(ways[way], steps[way], device) / steps[way])
    found = {}
    for way, step_seconds in taken.items():
        images = [train.batch_size / value for value in step_seconds]
        operations = PASSES * 2 * macs * median(images)
        found[way] = {
            "images_per_second": median(images),
            "tflops": operations / 1e12,
            "mfu": operations / rates["fp32" if way == PLAIN else precision].best[0],
            "rounds": images,
        }
    return {
        "model": model.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "gmacs": round(macs / 1e9, 3),
        "img_size": side,
        "batch_size": train.batch_size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": threads,
        "rounds": rounds,
        "peak_matmul": {name: {"tflops": rate.best[0] / 1e12, "side": rate.best[1]} for name, rate in rates.items()},
        "ways": found,
        "peak_memory": memory,
        "times_plain": median(np.divide(taken[PLAIN], taken[OURS]).tolist()),
    }


def table(result: dict[str, Any]) -> str:
    """The result of :func:`bench_train` for readers."""
    r = result
    lines = [
        f"{r['model']} ({r['parameters']:,} parameters, {r['gmacs']} GMACs an image), {r['img_size']}x{r['img_size']}, "
        f"batches of {r['batch_size']}, {r['precision']}, {r['device']}, {r['threads']} threads",
        f"{'':26}{'images/s':>10}{'TFLOP/s':>10}{'MFU':>10}",
    ]
    for way, values in r["ways"].items():
        name = f"{way}, {'fp32' if way == PLAIN else r['precision']}"
        lines.append(f"{name:26}{values['images_per_second']:>10.2f}{values['tflops']:>10.3f}{values['mfu']:>10.1%}")
    rates = (f"{name} {value['tflops']:.3f} TFLOP/s ({value['side']}^3)" for name, value in r["peak_matmul"].items())
    lines.append(f"peak matmul rate: {', '.join(rates)}; the best of {r['rounds']} rounds, medians for training")
    lines.append(f"{r['times_plain']:.1f} times the plain loop; peak memory {r['peak_memory'] / 1e9:.2f} GB")
    return "\n".join(lines)


def synthetic_faces(folder: Path, side: int) -> tuple[Path, np.ndarray]:
    """Synthetic faces in a new store below ``folder``, and the class of each row."""
    names, labels = list(EXPRESSIONS)[:CLASSES], np.arange(FACES) % CLASSES
    with store_writer(folder / "synthetic.npy", FACES, side) as store:
        for row, label in enumerate(labels):
            store[row] = render_face(np.random.default_rng(row), names[label], 0.8, side).image
    return folder / "synthetic.npy", labels


class PeakMatmul:
    """Square products in one precision, bf16 or fp32; ``best`` is the fastest yet: operations per second and side."""

    def __init__(self, precision: str, device: torch.device, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.best = (0.0, 0)
        generator = torch.Generator(device).manual_seed(0)
        self.matrices = [
            torch.randn(n, n, generator=generator, device=device).to(DTYPES[precision]) for n in SIZES[device.type]
        ]
        self()  # the first product of a shape builds its kernel; it is slow, so that it never counts

    def __call__(self) -> None:
        """Multiply for about ``seconds`` at each size, at least twice."""
        for matrix in self.matrices:
            begin, times = time.perf_counter(), 0
            while times < 2 or time.perf_counter() - begin < self.seconds:
                start = time.perf_counter()
                matrix @ matrix
                if matrix.is_cuda:
                    torch.cuda.synchronize()
                self.best = max(self.best, (2 * len(matrix) ** 3 / (time.perf_counter() - start), len(matrix)))
                times += 1


def _ours(
    model: ModelParams, train: TrainParams, path: Path, labels: np.ndarray, device: torch.device, precision: str
) -> tuple[nn.Module, Callable[[int], None]]:
    """The network, and so many steps of it by the functions that ``transfer train`` runs."""
    torch.manual_seed(0)
    network = create_model(model, CLASSES).to(device).to(memory_format=torch.channels_last)
    average = WeightAverage(network, train.ema) if train.ema else None
    optimizer, targets = make_optimizer(network, train), torch.from_numpy(labels)
    store = FaceStore(path, rows=np.arange(len(labels)), **input_of(model))
    calls = 0

    def steps(number: int) -> None:
        nonlocal calls
        calls += 1
        size, meter = train.batch_size, EpochMeter(0, number, device)
        rows = np.resize(np.arange(len(labels)), number * size)
        batches = training_batches(store, targets, rows, size, train.augment, calls, calls, device)
        train_epoch(network, optimizer, batches, meter, train, precision, lambda images: None, average=average)

    return network, steps


def _plain(
    model: ModelParams, train: TrainParams, store: Path, labels: np.ndarray, device: torch.device, workers: int
) -> Callable[[int], None]:
    random.seed(0)
    torch.manual_seed(0)
    files = [store.with_name(f"{row}.jpg") for row in range(len(labels))]
    for pixels, file in zip(np.load(store), files, strict=True):
        Image.fromarray(pixels).save(file, quality=95)
    faces = Faces(files, labels.tolist(), input_of(model)["img_size"], train.augment)
    return plain_steps(create_model(model, CLASSES), faces, train.batch_size, train, device, workers)


def peak_resident() -> int:
    """Peak of this process's memory in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _timed(way: Callable[[int], None], steps: int, device: torch.device) -> float:
    start = time.perf_counter()
    way(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _steps(way: Callable[[int], None], seconds: float, device: torch.device) -> int:
    """Steps that take about ``seconds``; a first one that is short may have been mostly a beginning."""
    once = _timed(way, 1, device)
    return max(1, math.ceil(seconds / (once if once > seconds else _timed(way, 1, device))))
