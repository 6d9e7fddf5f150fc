"""Cost of large experiments, on made-up runs, hashes and files: planning, a table, the search for duplicates, a start.

    python benchmarks/scale.py [--plans 90 900 4500] [--runs 500] [--images 300000]

Needs about 2 GB for temporary files. Memory is the peak of the process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from startup import stand_ins

from transfer.audit.copies import HASHES, MIRRORED, THUMBNAIL
from transfer.datasets.registry import get as parser
from transfer.layout import Layout
from transfer.params import Params
from transfer.params.read import load
from transfer.runs.metrics import evaluate
from transfer.runs.predictions import PROTOCOLS, predictions_frame, write_predictions
from transfer.utils.digests import contents
from transfer.utils.environment import environment
from transfer.utils.files import write_json

_FACES = {"val": 1000, "test": 3000}
_DATASET = "demo_rafdb"


def measure(folder: Path, plans: list[int], runs: int, images: int) -> Iterator[tuple[str, dict[str, float]]]:
    """What was measured and its cost, one after the other: a dry run of each number of runs in ``plans``, a table of
    ``runs`` runs, the duplicates among ``images`` images, and looking whether a folder of them has changed.

    Each is a process of its own in the empty ``folder``.
    """
    root = Path.cwd()
    for name in ("params", "workflow", "profiles", "Snakefile"):
        (folder / name).symlink_to(root / name)
    os.chdir(folder)
    try:
        raw = Path("raw")
        stand_ins(raw)
        for number in plans:
            seeds = f"seeds=[{','.join(map(str, range(-(-number // 18))))}]"
            plan = ["snakemake", "-n", "--quiet", "rules", "--configfile", "params/paper.yaml"]
            yield f"dry run of {number:,} runs", _measured(*plan, "--config", f"raw_dir={raw}", seeds)
        values = ["experiment=scale", f"seeds=[{','.join(map(str, range(-(-runs // 18))))}]"]
        params = load([], values)
        for dataset in params.datasets:
            made_up_runs(params, dataset)
        options = [word for value in values for word in ("--set", value)]
        yield f"table 1 of {len(params.runs()):,} runs", _measured("transfer", "table", *options)
        made_up_hashes(Layout("scale").data(_DATASET), images)
        yield (
            f"duplicates among {images:,} images",
            _measured("transfer", "duplicates", "--dataset", _DATASET, *options),
        )
        made_up_files(Path("files"), images)
        yield f"digests of {images:,} new files", _timed(lambda: contents(Path("files")))
        time.sleep(0.1)  # what was written a moment ago is read again
        contents(Path("files"))
        yield "the same, unchanged since", _timed(lambda: contents(Path("files")))
    finally:
        os.chdir(root)


def made_up_runs(params: Params, dataset: str) -> None:
    """All runs of a dataset as they lie there when finished, with random predictions."""
    layout, rng = Layout(params.experiment), np.random.default_rng(0)
    data = layout.data(dataset)
    data.mkdir(parents=True)
    definition = params.dataset_definitions[dataset]
    classes = parser(definition.parser).classes(**definition.options)
    split = np.repeat([*_FACES, "train"], [*_FACES.values(), 10])
    pd.DataFrame({"split": split}).to_parquet(data / "split.parquet")
    tested = {"sha256": "0" * 64, "source_sha256": "0" * 64}
    policies = params.face_params(dataset).alignment()
    write_json(data / "faces.json", {"counts": {"found": 1, "images": 1}, "policies": policies, "evaluation": tested})
    labels = {part: rng.integers(0, len(classes), count) for part, count in _FACES.items()}
    about = environment()
    for recipe in params.recipes:
        settings = params.run(dataset, recipe).model_dump(mode="json")
        for seed in params.seeds:
            run, frames = layout.run(dataset, recipe, seed), []
            for protocol in PROTOCOLS:
                for part, truth in labels.items():
                    random = rng.random((len(truth), len(classes)), np.float32)
                    random[np.arange(len(truth)), truth] += 0.5
                    names = [f"{part}{number:05}" for number in range(len(truth))]
                    random /= random.sum(axis=1, keepdims=True)
                    frames.append(
                        predictions_frame(
                            names, truth.tolist(), random, classes, split=part, protocol=protocol, epoch=1
                        )
                    )
            write_predictions(run / "predictions.parquet", pd.concat(frames, ignore_index=True))
            write_json(run / "env.json", about | {"params": settings})
            (run / "history.csv").write_text("epoch\n1\n")
            evaluate(run, experiment=params.experiment, dataset=dataset, recipe=recipe, seed=seed)
            written = [run / name for name in ("predictions.parquet", "env.json", "history.csv")]
            layout.chain.note(written, [data / "split.parquet"])
            layout.chain.note([run / "metrics.json"], written[:1])


def made_up_hashes(data: Path, images: int) -> None:
    """Random hashes and thumbnails of ``images`` images, as `transfer hash` leaves them."""
    rng = np.random.default_rng(0)
    names = [f"{number:07}" for number in range(images)]
    table = pd.DataFrame({"sample": names, "split": "train", "class_name": "happiness", "sha256": names, "error": ""})
    table[HASHES + MIRRORED] = rng.integers(0, 2**64, (images, len(HASHES + MIRRORED)), np.uint64)
    table.to_parquet(data / "hashes.parquet", index=False)
    np.save(data / "thumbnails.npy", rng.integers(0, 256, (images, THUMBNAIL, THUMBNAIL), np.uint8))


def made_up_files(folder: Path, number: int) -> None:
    """Small files in folders of a thousand."""
    for i in range(number):
        path = folder / f"{i // 1000}" / f"{i}.jpg"
        if i % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%08d" % i * 250)


def _measured(*command: str) -> dict[str, float]:
    """Processor seconds, seconds and peak memory in GB of ``python -m command``."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"error: python -m {' '.join(command)}: exit code {process.returncode}; run it by hand to see why")
    used = usage.ru_utime + usage.ru_stime
    return {"processor": used, "seconds": time.perf_counter() - begun, "gigabytes": usage.ru_maxrss / 1e6}


def _timed(call: Callable[[], Any]) -> dict[str, float]:
    """Processor seconds and seconds of a call in this process."""
    begun, used = time.perf_counter(), time.process_time()
    call()
    return {"processor": time.process_time() - used, "seconds": time.perf_counter() - begun}


def main() -> None:
    """Print what was measured, line by line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, nargs="*", default=[90, 900, 4500])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--images", type=int, default=300_000)
    options = parser.parse_args()
    print(f"{'':36}{'processor':>12}{'seconds':>12}{'memory':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for name, cost in measure(Path(folder), options.plans, options.runs, options.images):
            memory = f"{cost['gigabytes']:9.2f} GB" if "gigabytes" in cost else ""
            print(f"{name:36}{cost['processor']:10.1f} s{cost['seconds']:10.1f} s{memory}", flush=True)


if __name__ == "__main__":
    main()
