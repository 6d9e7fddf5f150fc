"""Table 1 of a whole experiment: its runs, and what readers have to know about data and hardware."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.layout import Layout
from transfer.params import Params
from transfer.tables.reported import load_reported
from transfer.tables.table1 import table1, write_table1

REPORTED = Path("params/reported.yaml")
PARTS = {"train": "to train on", "val": "to validate on", "test": "to test on"}
_REAL = {"rafdb": "RAF-DB", "ferplus": "FERPlus", "affectnet": "AffectNet"}
_ENVIRONMENT = ("commit", "python", "torch", "timm", "cpu", "cores", "device", "precision", "deployment")


def write_experiment(params: Params, layout: Layout) -> None:
    """Write table1.csv and table1.md of the experiment. Raises UserError, naming the run, if one is missing."""
    parts = {
        (dataset, recipe): params.run(dataset, recipe).model.model_dump(include={"num_lanets", "mad", "msad"})
        for dataset in params.datasets
        for recipe in params.recipes
    }
    table = table1(
        layout.root / "runs",
        parts,
        {dataset: params.dataset_definitions[dataset].reported_as for dataset in params.datasets},
        params.seeds,
        params.protocols,
        load_reported(REPORTED),
        experiment=params.experiment,
        baseline=params.baseline,
    )
    write_table1(
        table,
        layout.root / "table1.csv",
        layout.root / "table1.md",
        data={dataset: describe(params, layout, dataset) for dataset in params.datasets},
        environment=environment(params, layout),
    )


def describe(params: Params, layout: Layout, dataset: str) -> str:
    """What readers must know of a dataset: what it is, its options, its faces by part, and how many were found."""
    definition = params.dataset_definitions[dataset]
    about = f"{definition.about.rstrip('.')}. " if definition.about else ""
    if definition.synthetic is not None:
        about = f"**Drawn faces: not a result on {_REAL[definition.parser]}.**\n\n{about}"
    options = "".join(f", {key} {value}" for key, value in definition.options.items())
    parts = pd.read_parquet(layout.data(dataset) / "split.parquet", columns=["split"])["split"].value_counts()
    faces = ", ".join(f"{parts[part]:,} {name}" for part, name in PARTS.items())
    if "dropped" in parts:
        way = params.sampling_params(dataset).duplicates
        faces += f"; {parts['dropped']:,} more left out of training as copies of held-out faces ({way})"
    report = _json(layout.data(dataset) / "faces.json")
    counts, policies, evaluation = report["counts"], report["policies"], report["evaluation"]
    kind = policies["template"] if isinstance(policies["template"], str) else "of its own"
    return (
        f"{about}Layout {definition.parser}{options}; faces: {faces}; "
        f"MTCNN found a face in {counts['found'] / counts['images']:.1%} of {counts['images']:,} images; "
        f"landmarks {policies['landmarks']}, template {kind}, size {policies['size']}, margin {policies['margin']:g}; "
        f"test faces {evaluation['sha256'][:12]}, their files {evaluation['source_sha256'][:12]} (docs/alignment.md)."
    )


def environment(params: Params, layout: Layout) -> dict[str, str]:
    """What the runs ran in; where they differ, all of it."""
    values: dict[str, dict[str, None]] = {}
    for dataset in params.datasets:
        for recipe in params.recipes:
            for seed in params.seeds:
                env = _json(layout.run(dataset, recipe, seed) / "env.json")
                for name, value in (env | env["packages"]).items():
                    if name in _ENVIRONMENT:
                        values.setdefault(name, {})[str(value or "unknown")] = None
    return {name: " and ".join(values[name]) for name in _ENVIRONMENT}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
