"""Between runs: what may go, always shown and asked for first."""

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated

import typer

from transfer.cleaning.removal import Item, remove
from transfer.cli.options import ParamFiles, Values, load
from transfer.layout import Layout
from transfer.utils.errors import UserError
from transfer.utils.locks import nobody_else

app = typer.Typer()

DryRun = Annotated[bool, typer.Option("--dry-run", "-n", help="Show what would go, and remove nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def clean(
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of a folder in results/.")],
    part: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="runs, state, search, weights, audit, logs or data; repeatable."),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole folder, with the data.")] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Remove what was made of an experiment: all but its data, or the parts that you name. Reads: R. Writes: nothing;
    removes R/PART, and results/table1.csv and .md where they are this experiment's. Archives, published tables and
    MLflow stay."""
    from transfer.cleaning.parts import parts_of

    layout = Layout(experiment)
    _remove(lambda: parts_of(layout, part or [], everything), lambda entry: remove(entry.path), dry_run, yes)


@app.command()
def prune(files: ParamFiles = None, values: Values = None, dry_run: DryRun = False, yes: Yes = False) -> None:
    """Remove what no table needs: checkpoints of trainings that neither these parameters nor those of the last workflow
    name, resume states that nothing continues, imported weights without a recipe, models in MLflow without an alias.
    Reads: R, MLflow's store. Writes: nothing; removes RUN/model.safetensors, R/state/..., R/weights/..., logged models
    and their registered versions. Figures and predictions stay."""
    chosen, layout = load(files, values)

    from mlflow.exceptions import MlflowException

    from transfer.cleaning.registry import remove_model, unneeded_models
    from transfer.cleaning.unneeded import needed_by, unneeded
    from transfer.tracking import store
    from transfer.tracking.sync import alone

    if not layout.root.is_dir():
        raise UserError(f"{layout.root}: no experiment; nothing to remove")
    try:
        client = store.open_existing()
    except UserError as error:
        client = None
        print(f"{error}; its models are left as they are", file=sys.stderr)

    def found() -> list[Item]:
        items = unneeded(layout, needed_by(layout, chosen))
        return items + list(unneeded_models(client, layout, {entry.path for entry in items}) if client else ())

    def take_away(entry: Item) -> None:
        if entry.model:
            remove_model(client, entry)
        else:
            remove(entry.path)

    @contextmanager
    def quiet() -> Iterator[None]:
        with nobody_else(), alone(layout):
            yield

    try:
        _remove(found, take_away, dry_run, yes, quiet)
    except MlflowException as error:
        line = store.one_line(error)
        raise UserError(f"MLflow's store: {line}; what is gone stays gone, and the next prune goes on") from error


def _remove(
    find: Callable[[], list[Item]],
    take_away: Callable[[Item], None],
    dry_run: bool,
    yes: bool,
    quiet: Callable[[], AbstractContextManager[None]] = nobody_else,
) -> None:
    """Show what ``find`` finds, ask, and remove what is still found; nothing else changes files while ``quiet``."""
    from transfer.tracking.disk import human

    with nullcontext() if dry_run else quiet():
        items = find()
    if not items:
        print("nothing to remove")
        return
    for entry in items:
        print(f"{human(entry.size):>10}  {entry.path}{f': {entry.why}' if entry.why else ''}")
    total = f"{len(items)} files and folders, {human(sum(entry.size for entry in items))}"
    if dry_run:
        print(f"{total}; nothing was removed")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UserError(f"{total}: nobody to ask, since this is no terminal; give --yes to remove them")
        if not typer.confirm(f"Remove {total}?"):
            print("nothing was removed")
            return
    with quiet():
        still = {entry.path for entry in find()}
        gone = [entry for entry in items if entry.path in still]
        for entry in gone:
            take_away(entry)
    print(f"removed: {len(gone)} files and folders, {human(sum(entry.size for entry in gone))}")
