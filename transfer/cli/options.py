"""What the verbs share: their options, the parameters that these name, and the errors for what is not there."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.layout import Layout
from transfer.models.registry import check_models
from transfer.params import Params
from transfer.params import read as config
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

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
Seed = Annotated[int, typer.Option(min=0, help="Seed of the training.")]


def load(
    files: list[Path] | None, values: list[str] | None, dataset: str | None = None, recipe: str | None = None
) -> tuple[Params, Layout]:
    """The parameters and where their files lie; UserError for a dataset or recipe that the experiment has not."""
    chosen = config.load(files or (), values or (), checks=[check_models])
    for what, name, known in (("dataset", dataset, chosen.every_dataset()), ("recipe", recipe, chosen.every_recipe())):
        if name is not None and name not in known:
            raise UserError(f"--{what} {name}: not in experiment {chosen.experiment}; allowed: {', '.join(known)}")
    return chosen, Layout(chosen.experiment)


def classes_of(chosen: Params, dataset: str) -> list[str]:
    """Class names in label order."""
    from transfer.datasets import registry

    definition = chosen.dataset_definitions[dataset]
    return registry.get(definition.parser).classes(**definition.options)


def existing(path: Path, verb: str) -> Path:
    """``path``, which ``transfer VERB`` makes; UserError if it is not there."""
    if not path.exists():
        raise UserError(f"{path}: not there; make it with transfer {verb}, or let snakemake do it")
    return path


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write ``frame`` as parquet, atomically."""
    from transfer.utils.files import atomic

    with atomic(path) as part:
        frame.to_parquet(part, index=False)
