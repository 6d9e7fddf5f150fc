"""Writes dvc.yaml for an experiment: python -m workflow.dvc.stages [FILE...], the FILEs being parameter files.

The stages are few and each is one Snakemake target: DVC says whether anything that a stage depends on has changed, and
versions what it makes; which jobs run is Snakemake's decision alone.
"""

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from transfer.datasets import registry
from transfer.datasets.subsets import list_files
from transfer.layout import Layout
from transfer.params import Params
from transfer.params.read import DEFAULT, load
from transfer.sources.table import archive_path, weights_path
from transfer.tables import kinds
from transfer.utils.errors import UserError
from transfer.utils.files import write_text
from workflow.dvc.records import FOLDER, PIPELINE

# The Snakemake targets of each stage: what `dvc repro` makes, and what is taken over after `dvc pull`.
TARGETS = {
    "data": ["draw_archives"],
    "align": ["prepare_data"],
    "train": ["train_all"],
    "tables": ["tables"],
    "search": ["search"],
}
# Parameters of each stage in params/default.yaml. Of another parameter file every stage depends as a whole, since DVC
# refuses a key that is not there and does not notice one that is added.
_EXPERIMENT = ["experiment", "datasets", "dataset_definitions"]
_RUNS = ["model", "train", "sampling.upsample", "recipe_definitions"]
_TABLES = ["tables", "table_definitions"]
PARAMETERS = {
    "data": ["raw_dir", "datasets", "dataset_definitions"],
    "align": [
        *("raw_dir", *_EXPERIMENT),
        *("faces", "sampling.val_fraction", "sampling.split_seed", "sampling.duplicates"),
    ],
    "train": [*_EXPERIMENT, *_RUNS, *_TABLES, "recipes", "seeds", "protocols"],
    "tables": [
        *(*_EXPERIMENT, *_TABLES, "robustness", "model", "recipe_definitions"),
        *("recipes", "seeds", "protocols", "baseline"),
    ],
    "search": [*_EXPERIMENT, *_RUNS, "searches", "search_definitions"],
}
# The code of each stage; what its steps import may lie nowhere else (a unit test looks).
_FACES = ["transfer/faces", "transfer/faces/store.py"]
_DATASETS = ["transfer/datasets", "transfer/utils/filetype.py"]
_RUN = ["transfer/training", "transfer/models", "transfer/evaluation", "transfer/faces/store.py"]
CODE = {
    "data": _DATASETS,
    "align": [*_DATASETS, *_FACES, "transfer/audit", "transfer/datasets/sampling.py"],
    "train": [*_DATASETS, *_RUN],
    "tables": ["transfer/tables", "transfer/explain", *_DATASETS, *_FACES, *_RUN],
    "search": ["transfer/search", *_DATASETS, *_RUN],
}
_DESCRIPTIONS = {
    "data": "Archives that the workflow draws itself; archives of real datasets are never stored",
    "align": "Index, aligned faces, splits and upsampling plans of the datasets, and the quality pages",
    "train": "Weights, histories, predictions and metrics of all trainings",
    "tables": "The tables and their figures, and what dvc metrics and dvc plots show",
    "search": "The searches' studies, figures and best.yaml",
}


def pipeline(files: Sequence[Path]) -> dict[str, Any]:
    """The content of dvc.yaml for the experiment of ``files`` on top of params/default.yaml.

    Raises UserError where a parameter is wrong or an archive of a real dataset is missing.
    """
    params = load(files)
    layout = Layout(params.experiment)
    drawn = _drawn(params)
    real = [name for name in params.selected_datasets() if _is_real(params, name)]
    given = [archive_path(params, name) for name in real]
    weights = _pretrained(params)
    data, runs = layout.root / "data", layout.root / "runs"
    asked = any(kinds.get(params.table_definitions[name].kind).evaluation for name in params.tables)
    made = {
        "data": drawn,
        "align": [data],
        "train": [runs, *([layout.root / "weights"] if weights else [])],
        "tables": [
            *(layout.results / "table1.csv", layout.results / "table1.md"),
            *(layout.table(name, suffix) for name in params.tables for suffix in ("csv", "md", "tex")),
            *(layout.root / name for name in ("metrics", "history.csv", "figures", "report")),
            *([layout.root / "evaluations"] if asked else []),
        ],
        "search": [layout.root / "search"],
    }
    needed = {
        "data": [],
        "align": [*drawn, *given, *_lists(params)],
        "train": [data, *weights],
        "tables": [data, runs, "params/reported.yaml"],
        "search": [data],
    }
    for name, paths in made.items():
        made[name] = [*paths, layout.root / FOLDER / f"{name}.json"] if paths else []
    private = [data] if real else []
    names = [name for name in TARGETS if made[name] and (name != "search" or params.searches)]
    artifacts = {}
    for path in drawn:
        artifacts[_artifact_name("archive", path.name.partition(".")[0])] = _artifact("dataset", path, "drawn archive")
    for name in params.selected_datasets():
        store = data / name / "aligned.npy"
        artifacts[_artifact_name("aligned", name)] = _artifact("dataset", store, "aligned faces, N x side x side x 3")
        artifacts[_artifact_name("checkpoints", name)] = _artifact("model", runs / name, "trained weights, all recipes")
    return {
        "stages": {name: _stage(name, files, needed[name], made[name], private) for name in names},
        "metrics": [str(layout.metrics)],
        "plots": _plots(layout),
        "artifacts": artifacts,
    }


def _stage(
    name: str, files: Sequence[Path], needed: Iterable[Any], made: Iterable[Path], private: Collection[Path]
) -> dict[str, Any]:
    command = f"snakemake --cores all --use-conda {' '.join(TARGETS[name])}"
    if files:
        command += f" --configfile {' '.join(map(str, files))}"
    deps = ["Snakefile", "workflow/rules", *CODE[name], *map(str, needed)]
    return {
        "desc": _DESCRIPTIONS[name],
        "cmd": [command, f"python -m workflow.dvc.records {name}"],
        "deps": deps,
        "params": [{str(DEFAULT): PARAMETERS[name]}, *({str(file): None} for file in files)],
        # persist: DVC would remove them before each run, and Snakemake would begin anew.
        # push: faces of licensed datasets go to no remote by themselves.
        "outs": [{str(path): {"persist": True} | ({"push": False} if path in private else {})} for path in made],
    }


def _plots(layout: Layout) -> list[dict[str, Any]]:
    """Templates of the same names lie in .dvc/plots/."""
    table, history = str(layout.root / "table1.csv"), str(layout.root / "history.csv")
    accuracy = {"x": "accuracy", "y": {table: "recipe"}, "template": "accuracy", "x_label": "accuracy / %"}
    curves = {"x": "epoch", "template": "learning"}
    val = {"y": {history: "val_accuracy"}, "y_label": "accuracy / %", "title": "Validation accuracy, mean over seeds"}
    loss = {"y": {history: "train_loss"}, "y_label": "loss", "title": "Training loss, mean over seeds"}
    return [
        {"accuracy": accuracy | {"title": "Test accuracy, mean over seeds and 95 % interval"}},
        {"learning_curves": curves | val},
        {"training_loss": curves | loss},
    ]


def _is_real(params: Params, dataset: str) -> bool:
    return params.dataset_definitions[dataset].synthetic is None


def _drawn(params: Params) -> list[Path]:
    """The archives that the workflow draws; UserError where DVC could not store them."""
    paths = [archive_path(params, name) for name in params.selected_datasets() if not _is_real(params, name)]
    if paths and os.path.relpath(params.raw_dir).startswith(".."):
        raise UserError(f"raw_dir: {params.raw_dir} lies outside of the repository, where DVC stores no drawn archives")
    return list(dict.fromkeys(paths))


def _lists(params: Params) -> list[Path]:
    """The files besides the archives that the indexes and the challenge subsets read."""
    found: list[Path] = []
    for definition in (params.dataset_definitions[name] for name in params.selected_datasets()):
        found += registry.get(definition.parser).lists(params.raw_dir, **definition.options).values()
        found += list_files(params.raw_dir, definition).values()
    return list(dict.fromkeys(found))


def _pretrained(params: Params) -> list[str]:
    """The files of the weights that trainings begin with."""
    runs = [params.run(dataset, recipe) for dataset, recipe, _ in params.selected_runs()]
    names = dict.fromkeys(name for run in runs for name in run.model.pretrained)
    return [str(weights_path(params, name)) for name in names]


def _artifact_name(kind: str, name: str) -> str:
    """DVC allows letters, digits and hyphens."""
    return f"{kind}-{name.replace('_', '-')}"


def _artifact(kind: str, path: Path, description: str) -> dict[str, str]:
    return {"path": str(path), "type": kind, "desc": description}


def to_text(files: Sequence[Path]) -> str:
    """dvc.yaml as it is written."""
    command = " ".join(["python -m workflow.dvc.stages", *map(str, files)])
    text = yaml.safe_dump(pipeline(files), sort_keys=False, width=120)
    return f"# Written by {command} (docs/dvc.md). DVC versions; what runs inside a stage is up to Snakemake.\n{text}"


def main() -> None:
    """Write dvc.yaml; exit code 1 and one line on stderr where a parameter is wrong."""
    try:
        write_text(PIPELINE, to_text([Path(file) for file in sys.argv[1:]]))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
