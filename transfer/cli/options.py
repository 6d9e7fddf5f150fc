"""What the verbs share: options, the parameters that these name, and errors for missing files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.layout import Layout
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    import pandas as pd

    from transfer.params import Params

ParamFiles = Annotated[
    list[Path] | None,
    typer.Option("--params", metavar="FILE", help="Parameter file on top of params/default.yaml; repeatable."),
]
Values = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A single parameter, such as train.epochs=3; repeatable."),
]
Dataset = Annotated[str, typer.Option(metavar="NAME", help="One of the experiment's datasets.")]
Recipe = Annotated[str, typer.Option(metavar="NAME", help="One of the experiment's recipes.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the run.")]


def load(
    files: list[Path] | None, values: list[str] | None, dataset: str | None = None, recipe: str | None = None
) -> "tuple[Params, Layout]":
    """The parameters and the paths of their experiment. Raises UserError for an unknown dataset or recipe."""
    from transfer.models.registry import check_models
    from transfer.params import read

    params = read.load(files or (), values or (), checks=[check_models])
    for what, name, known in (("dataset", dataset, params.all_datasets()), ("recipe", recipe, params.all_recipes())):
        if name is not None and name not in known:
            raise UserError(f"--{what} {name}: not in experiment {params.experiment}; {choices(name, known)}")
    return params, Layout(params.experiment)


def classes_of(params: "Params", dataset: str) -> list[str]:
    """Class names in label order."""
    from transfer.datasets import registry

    definition = params.dataset_definitions[dataset]
    return registry.get(definition.parser).classes(**definition.options)


def existing(path: Path, verb: str) -> Path:
    """``path``, which ``transfer VERB`` makes. Raises UserError if it is missing."""
    if not path.exists():
        raise UserError(f"{path}: missing; make it with transfer {verb}, or let snakemake do it")
    return path


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write ``frame`` as parquet, atomically."""
    from transfer.utils.files import atomic

    with atomic(path) as part:
        frame.to_parquet(part, index=False)
