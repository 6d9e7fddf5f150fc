"""How fast the aligned store is against JPEG files, and how much memory an epoch from a large one takes."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from transfer.bench.memory import resident
from transfer.datasets.synthetic.render import EXPRESSIONS, render_face
from transfer.faces.store import store_writer
from transfer.params import Augmentation
from transfer.training.batches import FaceStore, training_batches

SIZE = 112
BATCH = 128
QUALITY = 95
DRAWN, COPIES = 256, 8  # more faces than the store keeps mapped at a time; drawing is slow
FACES = DRAWN * COPIES
ROUNDS = 5
_SIZES = ("store", "before", "peak", "peak_anon")
_OFF = Augmentation(rotate=0, crop_scale=(1, 1), flip=0, grey=0, jitter=0, erase=0)


def bench_store(faces: int, img_size: int) -> dict[str, Any]:
    """Reading speed from the store and from JPEG files, and the peak memory of an epoch over ``faces`` faces.

    Writes to the folder for temporary files (TMPDIR), and removes it. Returns "speed" (see :func:`speed`) and "memory"
    (see :func:`epoch_memory`), the latter measured in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        measured = speed(Path(folder))
        # A fresh process: its peak is that of the epoch alone.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            memory = pool.submit(epoch_memory, Path(folder), faces, img_size).result()
    return {"speed": measured, "memory": memory}


def speed(folder: Path) -> dict[str, Any]:
    """Images per second of random batches, from the store and from JPEG files that hold the same faces, same order.

    Both give (BATCH, SIZE, SIZE, 3) uint8. "warm": everything is in the system's page cache; "cold": the kernel was
    asked to drop the files from it first (the disk or its host may have a cache of its own). Medians of several rounds.
    """
    store_file, jpegs = _draw(folder)
    store = FaceStore(store_file, SIZE, np.arange(FACES))
    rows = np.random.default_rng(0).permutation(FACES)
    batches = [rows[start : start + BATCH] for start in range(0, FACES, BATCH)]
    readers: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Sequence[Path]]] = {
        "store": (store.faces, [store_file]),
        "jpeg": (lambda batch: np.stack([_decoded(jpegs[row]) for row in batch]), jpegs),
    }
    rates: dict[str, dict[str, list[float]]] = {state: {name: [] for name in readers} for state in ("warm", "cold")}
    for read, _ in readers.values():
        _rate(read, batches)
    for state in rates:
        for _ in range(ROUNDS):
            for name, (read, files) in readers.items():
                if state == "cold":
                    store.release()  # mapped pages are not dropped
                    _drop(files)
                rates[state][name].append(_rate(read, batches))
    result: dict[str, Any] = {"faces": FACES, "drawn": DRAWN, "batch": BATCH, "size": SIZE, "jpeg_quality": QUALITY}
    result["jpeg_bytes"] = round(np.mean([file.stat().st_size for file in jpegs]))
    for state, by_name in rates.items():
        medians = {name: round(median(values)) for name, values in by_name.items()}
        result[state] = medians | {"ratio": round(medians["store"] / medians["jpeg"], 1)}
    return result


def epoch_memory(folder: Path, faces: int, img_size: int, size: int = SIZE) -> dict[str, Any]:
    """Peak resident memory of an epoch of shuffled batches over a store of ``faces`` faces, read as training reads it.

    The store is a sparse file: it has its full length, and takes no disk. Augmentation is off, which only costs time.
    Returns bytes: store, before (the libraries alone), peak (VmHWM: everything, pages of the file too), peak_anon (the
    process's own, sampled at every batch); and images_per_second.
    """
    torch.set_num_threads(1)
    path = folder / "sparse.npy"
    with store_writer(path, faces, size):
        pass
    before = resident("VmHWM")["VmHWM"]
    rows = np.arange(faces)
    store = FaceStore(path, img_size, rows)
    batches = training_batches(
        store, torch.zeros(faces, dtype=torch.long), rows, BATCH, _OFF, 1, 2, torch.device("cpu")
    )
    peak_anon = seen = 0
    start = time.perf_counter()
    for images, _ in batches:
        seen += len(images)
        peak_anon = max(peak_anon, resident("RssAnon")["RssAnon"])
    seconds = time.perf_counter() - start
    return {
        "faces": faces,
        "seen": seen,
        "img_size": img_size,
        "store": path.stat().st_size,
        "before": before,
        "peak": resident("VmHWM")["VmHWM"],
        "peak_anon": peak_anon,
        "images_per_second": round(seen / seconds),
    }


def table(result: dict[str, Any]) -> str:
    """The result of :func:`bench_store` for readers."""
    rates, memory = result["speed"], result["memory"]
    side, gigabytes = rates["size"], {key: f"{memory[key] / 1e9:.2f} GB" for key in _SIZES}
    lines = [
        f"{rates['faces']:,} faces of {side}x{side} ({rates['drawn']} drawn ones, several times each), "
        f"random batches of {rates['batch']}, images/s:",
        f"{'':6}{'store':>12}{'JPEG':>10}{'ratio':>8}",
    ]
    for state in ("warm", "cold"):
        values = rates[state]
        lines.append(f"{state:6}{values['store']:>12,}{values['jpeg']:>10,}{values['ratio']:>8}")
    return "\n".join(
        [
            *lines,
            "warm: in the page cache; cold: dropped from it first, as far as the kernel can",
            f"An epoch over {memory['faces']:,} faces ({gigabytes['store']}, sparse) at {memory['img_size']} pixels: "
            f"peak {gigabytes['peak']} resident ({gigabytes['before']} before it), of which the process's own at most "
            f"{gigabytes['peak_anon']}; {memory['images_per_second']:,} images/s",
        ]
    )


def _draw(folder: Path) -> tuple[Path, list[Path]]:
    """Drawn faces as JPEG files, and a store of the same faces."""
    jpegs = [folder / f"{row}.jpg" for row in range(FACES)]
    names = list(EXPRESSIONS)
    with store_writer(folder / "drawn.npy", FACES, SIZE) as store:
        for i in range(DRAWN):
            face = render_face(np.random.default_rng(i), names[i % len(names)], 0.8, SIZE).image
            for row in range(i, FACES, DRAWN):
                Image.fromarray(face).save(jpegs[row], quality=QUALITY)
                store[row] = _decoded(jpegs[row])
    return folder / "drawn.npy", jpegs


def _decoded(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def _rate(read: Callable[[np.ndarray], np.ndarray], batches: Sequence[np.ndarray]) -> float:
    start = time.perf_counter()
    for batch in batches:
        read(batch)
    return sum(map(len, batches)) / (time.perf_counter() - start)


def _drop(files: Sequence[Path]) -> None:
    """Write the files to the disk and ask the kernel to forget its copies."""
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
