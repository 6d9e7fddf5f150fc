"""What the networks of finished runs cost to use, and whether a face's prediction depends on the rest of its batch."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfer.evaluation.network import BATCH, Network, load_network, read_faces
from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.read import read_run
from transfer.training.loop import predict
from transfer.utils.environment import cpu
from transfer.utils.errors import UserError
from transfer.utils.files import write_json
from transfer.utils.progress import progress

_SMALL, _SECONDS = 7, 1.0


def measure_inference(params: Params, layout: Layout, finished: bool = False) -> Path:
    """Write R/inference.json: for the first seed of each recipe (of the ``finished`` runs), what `measure` returns.

    Raises UserError: files missing or of other runs.
    """
    first: dict[tuple[str, str], int] = {}
    for dataset, recipe, seed in params.runs():
        if not finished or (layout.run(dataset, recipe, seed) / "metrics.json").exists():
            first.setdefault((dataset, recipe), seed)
    if not first:
        raise UserError(f"{layout.root / 'runs'}: no finished run; train some first: snakemake --cores all train_all")
    found = {}
    with progress("measuring", len(first), "models") as report:
        for (dataset, recipe), seed in first.items():
            run, faces = read_run(params, layout, dataset, recipe, seed), read_faces(layout.data(dataset))
            train = params.run(dataset, recipe).train
            network = load_network(run, train, "measuring", faces)
            measured = measure(network, faces.pixels(np.arange(min(BATCH, len(faces.rows)))))
            cuda = network.device.type == "cuda"
            hardware = torch.cuda.get_device_name(network.device) if cuda else f"{cpu()}, threads: {train.threads}"
            about = {"seed": seed, "weights_sha256": run.environment["weights_sha256"], "hardware": hardware}
            found[f"{dataset}/{recipe}"] = about | measured
            report(len(found))
    write_json(layout.inference, {"runs": found})
    return layout.inference


def measure(network: Network, faces: np.ndarray) -> dict[str, Any]:
    """Difference and speed of a network on faces (N, side, side, 3) uint8.

    difference: the largest of any probability in fp32 when the faces come in other, smaller batches; faces_per_second:
    with one batch of all, in the precision of the run and with its test-time flip, without reading images.
    """
    flip = network.about["hflip_tta"]
    order = np.random.default_rng(0).permutation(len(faces))
    batches = [faces[order[start : start + _SMALL]] for start in range(0, len(faces), _SMALL)]
    apart = predict(network.model, network.images(batches), "fp32", flip)
    together = predict(network.model, network.images([faces]), "fp32", flip)[order]
    images, precision = list(network.images([faces])), network.run.environment["precision"]
    predict(network.model, iter(images), precision, flip)  # the first pass prepares kernels
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < _SECONDS or not count:
        predict(network.model, iter(images), precision, flip)
        count += len(faces)
    return {"difference": float(abs(apart - together).max()), "faces_per_second": round(count / elapsed, 1)}
