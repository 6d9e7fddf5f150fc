"""What the verbs share: options, the parameters that these name, and errors for missing files."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from transfer.layout import Layout
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    import pandas as pd

    from transfer.params import Params
    from transfer.utils.chain import Chain

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
    files: list[Path] | None,
    values: list[str] | None,
    dataset: str | None = None,
    recipe: str | None = None,
    search: str | None = None,
    table: str | None = None,
) -> "tuple[Params, Layout]":
    """The parameters and the paths of their experiment. Raises UserError for a name that the experiment lacks."""
    from transfer.losses.registry import check_losses
    from transfer.models.registry import check_models
    from transfer.params import read

    params = read.load(files or (), values or (), checks=[check_models, check_losses])
    experiment = f"experiment {params.experiment}"
    for option, name, known, where in (
        ("dataset", dataset, params.all_datasets(), experiment),
        ("recipe", recipe, params.all_recipes(), experiment),
        ("search", search, params.searches, experiment),
        ("name", table, list(params.table_definitions), "table_definitions"),
    ):
        if name is not None and name not in known:
            more = "; name it in searches" if option == "search" and not known else ""
            raise UserError(f"--{option} {name}: not in {where}; {choices(name, known)}{more}")
    return params, Layout(params.experiment)


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function to ``app``: it gets the parameters and paths of the experiment that --params and --set describe.

    Its arguments called dataset, recipe, search and table must be names of that experiment.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function, assigned=("__module__", "__name__", "__doc__"))
        def command(files: ParamFiles = None, values: Values = None, **options: Any) -> None:
            names = {key: options.get(key) for key in ("dataset", "recipe", "search", "table")}
            params, layout = load(files, values, **names)
            function(params, layout, **options)
            layout.chain.note_rest()

        own = list(inspect.signature(function).parameters.values())[2:]
        shared = list(inspect.signature(command, follow_wrapped=False).parameters.values())[:2]
        command.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        return app.command(name)(command)

    return register


def classes_of(params: "Params", dataset: str) -> list[str]:
    """Class names in label order."""
    from transfer.datasets import registry

    definition = params.dataset_definitions[dataset]
    return registry.get(definition.parser).classes(**definition.options)


def existing(path: Path, verb: str, chain: "Chain | None" = None) -> Path:
    """``path``, which ``transfer VERB`` makes. Raises UserError if it is missing, or breaks the chain of digests."""
    if not path.exists():
        raise UserError(f"{path}: missing; make it with transfer {verb}, or let snakemake do it")
    if chain:
        chain.check(path)
    return path


def read_table(path: Path, verb: str, chain: "Chain | None" = None) -> "pd.DataFrame":
    """The parquet file that ``transfer VERB`` makes. Raises UserError as `existing`."""
    existing(path, verb, chain)

    import pandas as pd

    return pd.read_parquet(path)


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write ``frame`` as parquet, atomically."""
    from transfer.utils.files import atomic

    with atomic(path) as part:
        frame.to_parquet(part, index=False)
