"""How long an experiment's trainings take on so many devices, computed from a measured rate; nothing is trained."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from transfer.datasets import registry
from transfer.datasets.sampling import split_rows, upsampling_plan
from transfer.layout import Layout
from transfer.params import Params
from transfer.utils.errors import UserError

FORWARD = 3.0
"""Images predicted in the time of one that is trained: the backward pass counts for two forward passes, as is usual."""


@dataclass(frozen=True)
class Images:
    """What one training goes through: images of its training steps and predicted images, all epochs together."""

    trained: int
    predicted: int

    def hours(self, per_second: float, predicted_per_second: float) -> float:
        """Hours at these rates; reading the data and starting Python, some seconds, are left out."""
        return (self.trained / per_second + self.predicted / predicted_per_second) / 3600


def grid(params: Params, layout: Layout) -> dict[tuple[str, str], Images]:
    """(dataset, recipe) -> the images of one of its trainings. Raises UserError for a dataset of unknown size.

    Counted from split.parquet and the plan where they are there, else from the official numbers of images where the
    dataset is expected to have them.
    """
    found = {}
    for dataset in params.datasets:
        sizes = {}
        for recipe in params.recipes:
            run = params.run(dataset, recipe)
            upsample = run.sampling.upsample
            if upsample not in sizes:
                sizes[upsample] = _sizes(params, layout, dataset, upsample)
            epoch, val, test = sizes[upsample]
            epochs, views = run.train.epochs, 2 if run.train.hflip_tta else 1
            batch = min(run.train.batch_size, epoch)
            # As transfer.training.run: the validation part after every epoch, and the test part too where an epoch is
            # chosen on it; else only after the best and the last epoch, which counts as once.
            tested = epochs if "test_selected" in params.protocols else 1
            trained = epochs * (epoch // batch) * batch
            found[dataset, recipe] = Images(trained, views * (epochs * val + tested * test))
    return found


def _sizes(params: Params, layout: Layout, dataset: str, upsample: str) -> tuple[int, int, int]:
    """Rows of an epoch, of the validation part and of the test part."""
    file, plan = layout.data(dataset) / "split.parquet", layout.plan(dataset, upsample)
    if file.exists() and plan.exists():
        split = pd.read_parquet(file, columns=["split"])["split"].value_counts()
        return len(np.load(plan, mmap_mode="r")), int(split["val"]), int(split["test"])
    definition, sampling = params.dataset_definitions[dataset], params.sampling_params(dataset)
    parser = registry.get(definition.parser)
    names = parser.classes(**definition.options)
    known = parser.official(**definition.options) if definition.expect == "official" else []
    counts = next((one for one in known if all(isinstance(part, list) for part in one.values())), None)
    if counts is None:
        advice = f"run snakemake {file} first, or leave the dataset out"
        raise UserError(f"dataset {dataset}: how many images it has of each class is not known beforehand; {advice}")
    rows = [(part, label) for part, each in counts.items() for label, n in enumerate(each) for _ in range(n)]
    table = pd.DataFrame(rows, columns=["split", "label"])
    table["sample"] = table.index
    split = split_rows(table, sampling.val_fraction, sampling.split_seed)
    training = split[split["split"] == "train"]
    labels, numbers = training["label"].to_numpy(), training["row"].to_numpy()
    epoch = upsampling_plan(labels, numbers, upsample, sampling.split_seed, names)
    return len(epoch), int((split["split"] == "val").sum()), int((split["split"] == "test").sum())


def makespan(hours: Sequence[float], devices: int) -> float:
    """Hours until all trainings are done, each on one device, the longest started first."""
    free = [0.0] * devices
    for each in sorted(hours, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)


def any_order(hours: Sequence[float], devices: int) -> float:
    """What :func:`makespan` is at most if they are started in any order (Graham 1966): sum/m + (1 - 1/m) longest."""
    return sum(hours) / devices + (1 - 1 / devices) * max(hours)


def estimate(
    params: Params, layout: Layout, per_second: float, predicted_per_second: float | None, devices: Sequence[int]
) -> dict[str, Any]:
    """Hours of the experiment's trainings, per dataset and for each number of devices; rates are images/s of one."""
    predicting = predicted_per_second or FORWARD * per_second
    images, seeds = grid(params, layout), len(params.seeds)
    hours = {run: each.hours(per_second, predicting) for run, each in images.items()}
    trainings = [each for each in hours.values() for _ in range(seeds)]
    datasets = []
    for dataset in params.datasets:
        runs = [run for run in images if run[0] == dataset]
        datasets.append(
            {
                "dataset": dataset,
                "trainings": len(runs) * seeds,
                "trained": sum(images[run].trained for run in runs) * seeds,
                "predicted": sum(images[run].predicted for run in runs) * seeds,
                "longest_hours": max(hours[run] for run in runs),
                "hours": sum(hours[run] for run in runs) * seeds,
            }
        )
    return {
        "experiment": params.experiment,
        "images_per_second": per_second,
        "predicted_per_second": predicting,
        "trainings": len(trainings),
        "datasets": datasets,
        "hours": sum(trainings),
        "devices": [
            {"devices": n, "hours": makespan(trainings, n), "any_order": any_order(trainings, n)} for n in devices
        ],
    }


def as_text(result: dict[str, Any]) -> str:
    """The estimate as tables for a terminal."""
    lines = [
        f"{result['experiment']}: {result['trainings']} trainings at {result['images_per_second']:,g} trained and "
        f"{result['predicted_per_second']:,g} predicted images/s",
        f"{'dataset':<24}{'trainings':>10}{'trained':>15}{'predicted':>14}{'longest':>10}{'together':>12}",
    ]
    for each in result["datasets"]:
        lines.append(
            f"{each['dataset']:<24}{each['trainings']:>10}{each['trained']:>15,}{each['predicted']:>14,}"
            f"{each['longest_hours']:>8,.1f} h{each['hours']:>10,.1f} h"
        )
    lines.append(f"{'devices':<24}{'longest first':>15}{'any order, at most':>22}")
    for each in result["devices"]:
        lines.append(f"{each['devices']:<24}{each['hours']:>13,.1f} h{each['any_order']:>20,.1f} h")
    return "\n".join(lines)
