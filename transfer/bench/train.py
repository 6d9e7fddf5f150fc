"""Speed of training: images per second, and model FLOPs utilisation (MFU) against the machine's peak matmul rate."""

import itertools
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from transfer.bench.plain import Faces, PlainTraining
from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.faces.store import store_writer
from transfer.models.registry import create_model
from transfer.params import ModelParams, TrainParams
from transfer.training.batches import FaceStore, training_batches
from transfer.training.device import choose_device, choose_precision
from transfer.training.epoch import EpochMeter
from transfer.training.loop import WeightAverage, make_optimizer, train_epoch

OURS, PLAIN, HELD = "transfer", "plain loop", "transfer, one batch held"
FACES, CLASSES = 96, 7
QUALITY = 95
PASSES = 3
"""A backward pass takes two products for each one of the forward pass."""

_RATE = 1e-5  # of learning: too small for a loss to explode in the few steps of a measurement


SIZES = {"cuda": (8192,), "cpu": (512, 1024, 2048)}
"""Sides of the square matrices of the peak matmul rate; the fastest counts."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


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


def resident(*names: str) -> dict[str, int]:
    """Bytes of this process (Linux): VmHWM (peak of all), RssAnon (its own), RssFile (mapped files)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) * 1024 for name in names}


@dataclass(frozen=True)
class Source:
    """Faces to train on: the rows of an aligned store, and the class of each row."""

    name: str
    store: Path
    rows: np.ndarray
    labels: np.ndarray
    classes: int


def synthetic_faces(folder: Path, side: int) -> Source:
    """Synthetic faces in a new store below ``folder``."""
    names = list(EXPRESSIONS)[:CLASSES]
    labels = np.arange(FACES) % CLASSES
    with store_writer(folder / "synthetic.npy", FACES, side) as store:
        for row, label in enumerate(labels):
            store[row] = render_face(np.random.default_rng(row), names[label], 0.8, side).image
    return Source("synthetic faces", folder / "synthetic.npy", np.arange(FACES), labels, CLASSES)


def stored_faces(dataset: str, store: Path, table: Path, folder: Path, count: int = 512) -> Source:
    """A random sample of a dataset's aligned faces: aligned.npy, and aligned.parquet in the same order.

    ``folder``, for temporary files, is not used.
    """
    labels = pd.read_parquet(table, columns=["label"])["label"].to_numpy(copy=True)  # torch wants it writable
    rows = np.sort(np.random.default_rng(0).permutation(len(labels))[:count])
    return Source(dataset, store, rows, labels, int(labels.max()) + 1)


def bench_train(
    model: ModelParams,
    train: TrainParams,
    source: Callable[[Path], Source],
    *,
    threads: int,
    rounds: int = 3,
    seconds: float = 2.0,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train a little, in turns with a plain loop (transfer/bench/plain.py) and with square matrix products.

    ``source`` gets a folder for temporary files and returns the faces. In each of ``rounds`` every way trains for about
    ``seconds``, at least for one batch, and the order is turned; what comes before the first round warms up and does
    not count. Returns medians of the rounds, for each way images_per_second, tflops (3 x 2 x MACs an image),
    mfu (divided by the peak matmul rate of all rounds in the way's precision) and its rounds; outside_model,
    the share of our way's time; peak_memory, bytes of this process before the plain one began (CUDA: of the device).
    """
    device = choose_device(train.device)
    precision = choose_precision(train, device)
    train = train.model_copy(update={"lr": _RATE, "warmup_epochs": 0.0})
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        progress("faces")
        faces = source(Path(name))
        progress("first steps")
        ours = _Ours(model, train, faces, device, precision)
        ways: dict[str, Callable[[int], None]] = {OURS: ours}
        ours(1)
        steps = {OURS: _steps(ours, seconds, device)}  # from the second step on the optimiser's state is there as well
        memory = _peak_memory(device)
        macs, parameters = count_macs(ours.model, model.img_size, device), _parameters(ours.model)
        ways[PLAIN] = _plain(model, train, faces, device, threads, Path(name))
        if device.type == "cuda":
            ways[HELD] = ours.held
        steps |= {way: _steps(ways[way], seconds, device) for way in ways if way not in steps}
        rates = {name: PeakMatmul(name, device) for name in dict.fromkeys((precision, "fp32"))}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        waits = []
        for turn in range(rounds):
            progress(f"round {turn + 1} of {rounds}")
            for rate in rates.values():
                rate()
            for way in _turned(list(ways), turn):
                ours.waited = 0.0
                taken[way].append(_timed(ways[way], steps[way], device) / steps[way])
                if way == OURS:
                    waits.append(ours.waited / steps[way] / taken[way][-1])
    result = {
        "model": model.name,
        "parameters": parameters,
        "gmacs": round(macs / 1e9, 3),
        "faces": faces.name,
        "img_size": model.img_size,
        "batch_size": train.batch_size,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": threads,
        "torch": torch.__version__,
        "rounds": rounds,
        "steps": steps,
        "peak_matmul": {name: {"tflops": rate.best[0] / 1e12, "side": rate.best[1]} for name, rate in rates.items()},
        "ways": {},
    }
    for way, step_seconds in taken.items():
        images = [train.batch_size / value for value in step_seconds]
        operations = PASSES * 2 * macs * median(images)
        rate = rates["fp32" if way == PLAIN else precision].best[0]
        result["ways"][way] = {
            "images_per_second": median(images),
            "tflops": operations / 1e12,
            "mfu": operations / rate,
            "rounds": images,
        }
    # On a CPU the loop stands still while a batch is made. A device works on, so that there only its absence tells.
    outside = 1 - median(taken[HELD]) / median(taken[OURS]) if HELD in taken else median(waits)
    result["outside_model"] = max(outside, 0.0)
    result["peak_memory"] = memory
    result["times_plain"] = median(np.divide(taken[PLAIN], taken[OURS]).tolist())
    return result


def table(result: dict[str, Any]) -> str:
    """The result of :func:`bench_train` for readers."""
    r = result
    lines = [
        f"{r['model']} ({r['parameters']:,} parameters, {r['gmacs']} GMACs an image), {r['img_size']}x{r['img_size']}, "
        f"batches of {r['batch_size']}, {r['precision']}, {r['device']}, {r['threads']} threads, {r['faces']}",
        f"{'':26}{'images/s':>10}{'TFLOP/s':>10}{'MFU':>10}",
    ]
    for way, values in r["ways"].items():
        precision = "fp32" if way == PLAIN else r["precision"]
        lines.append(
            f"{way + ', ' + precision:26}{values['images_per_second']:>10.2f}{values['tflops']:>10.3f}"
            f"{values['mfu']:>10.1%}"
        )
    rates = (f"{name} {value['tflops']:.3f} TFLOP/s ({value['side']}^3)" for name, value in r["peak_matmul"].items())
    return "\n".join(
        [
            *lines,
            f"peak matmul rate: {', '.join(rates)}; the best of {r['rounds']} rounds, medians for training",
            f"{r['times_plain']:.1f} times the plain loop; outside the model (data, host) {r['outside_model']:.2%} of "
            f"the time; peak memory {r['peak_memory'] / 1e9:.2f} GB",
        ]
    )


class _Ours:
    """The project's own training step, by the functions that ``transfer train`` runs."""

    def __init__(
        self, model: ModelParams, train: TrainParams, faces: Source, device: torch.device, precision: str
    ) -> None:
        torch.manual_seed(0)
        self.train, self.device, self.precision = train, device, precision
        self.model = create_model(model, faces.classes).to(device, memory_format=torch.channels_last)
        self.average = WeightAverage(self.model, train.ema) if train.ema else None
        self.optimizer = make_optimizer(self.model, train)
        self.store = FaceStore(faces.store, model.img_size, faces.rows)
        self.rows, self.labels = faces.rows, torch.from_numpy(faces.labels)
        self.calls = 0
        self.waited = 0.0
        self.batch: tuple[Tensor, Tensor] | None = None

    def __call__(self, steps: int) -> None:
        """Train for so many batches; ``waited`` grows by the seconds until their images are there."""
        self._steps(self._clocked(self._batches(steps)), steps)

    def held(self, steps: int) -> None:
        """The same on one batch that is there already: the model alone."""
        self.batch = self.batch or next(self._batches(1))
        self._steps(itertools.repeat(self.batch, steps), steps)

    def _steps(self, batches: Iterator[tuple[Tensor, Tensor]], steps: int) -> None:
        train_epoch(
            self.model,
            self.optimizer,
            batches,
            EpochMeter(0, steps, self.device),
            self.train,
            self.precision,
            on_batch=lambda images: None,
            average=self.average,
        )

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        self.calls += 1
        rows = np.resize(self.rows, steps * self.train.batch_size)
        augment = self.train.augment
        return training_batches(
            self.store, self.labels, rows, self.train.batch_size, augment, self.calls, self.calls, self.device
        )

    def _clocked(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def _plain(
    model: ModelParams, train: TrainParams, faces: Source, device: torch.device, workers: int, folder: Path
) -> PlainTraining:
    random.seed(0)
    torch.manual_seed(0)
    pixels = np.load(faces.store, mmap_mode="r")
    files = [folder / f"{row}.jpg" for row in faces.rows]
    for row, file in zip(faces.rows, files, strict=True):
        Image.fromarray(pixels[row]).save(file, quality=QUALITY)
    items = Faces(files, faces.labels[faces.rows].tolist(), model.img_size, train.augment)
    return PlainTraining(create_model(model, faces.classes), items, train.batch_size, train, device, workers)


def count_macs(model: nn.Module, side: int, device: torch.device) -> int:
    """Multiplications of one image's forward pass, counted as it runs: matrix products and convolutions."""
    training = model.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, 3, side, side, device=device))
    model.train(training)
    return counter.get_total_flops() // 2


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _peak_memory(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")["VmHWM"]


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


def _turned(ways: Sequence[str], turn: int) -> list[str]:
    start = turn % len(ways)
    return [*ways[start:], *ways[:start]]
