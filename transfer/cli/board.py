"""The leaderboard: tasks, entries, and its pages."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import verb
from transfer.layout import Layout
from transfer.utils.errors import UserError

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer(help="The leaderboard: new entries, their checks, and the pages (docs/leaderboard.md).")
Finished = Annotated[bool, typer.Option("--finished", help="Only datasets and runs that are there, instead of all.")]
EntryName = Annotated[str, typer.Argument(metavar="NAME", help="A folder in leaderboard/entries.")]


@verb(app)
def task(
    params: "Params",
    layout: Layout,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A file in leaderboard/tasks, without .yaml.")],
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="What changed, for a new version.")] = None,
) -> None:
    """Fill in number and digest of a task's test faces, as a new version if it had others. Reads: D/index.parquet.
    Writes: leaderboard/tasks/NAME.yaml."""
    from transfer.leaderboard.tasks import fill

    print(fill(name, params, layout, why))


@verb(app)
def new(
    params: "Params",
    layout: Layout,
    name: EntryName,
    task: Annotated[str, typer.Option(metavar="NAME", help="A file in leaderboard/tasks, without .yaml.")],
) -> None:
    """Start an entry: a commented entry.yaml, and the list of test faces to fill in. Reads: D/index.parquet.
    Writes: leaderboard/entries/NAME/entry.yaml, seed0.csv."""
    from transfer.leaderboard import entries, tasks

    found = tasks.named(tasks.load_tasks(), task)
    truth = tasks.checked_truth(task, found, layout)
    folder = entries.FOLDER / name
    entries.new_entry(folder, f"{task}@{found.version}", found.classes, truth.samples)
    print(
        f"{folder}: fill in entry.yaml and seed0.csv ({len(truth.samples):,} faces), then: transfer board check {name}"
    )


@verb(app)
def check(
    params: "Params",
    layout: Layout,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Entries; default: all of the experiment's datasets."),
    ] = None,
) -> None:
    """Check entries as the build does, and list all their faults. Reads: leaderboard/, D/index.parquet.
    Writes: nothing."""
    from transfer.leaderboard import board, tasks
    from transfer.utils.errors import choices

    found = board.submissions()
    for name in names or []:
        if name not in found:
            raise UserError(f"entry {name!r}: not in leaderboard/entries; {choices(name, found)}")
    known = tasks.load_tasks()
    names = names or list(board.present(params, known))
    board.refuse(board.check_entries(found, names, known, {}, layout))
    print(f"{len(names)} entries: no faults")


@verb(app)
def measure(params: "Params", layout: Layout, finished: Finished = False) -> None:
    """Speed of each recipe's network on this machine, and whether a face's prediction depends on the rest of its batch.
    Reads: RUN/model.safetensors, RUN/predictions.parquet, RUN/env.json, D/aligned.npy, D/aligned.parquet,
    D/split.parquet. Writes: R/inference.json."""
    from transfer.evaluation.inference import measure_inference

    print(measure_inference(params, layout, finished))


@verb(app)
def build(
    params: "Params",
    layout: Layout,
    finished: Finished = False,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another experiment, whose finished runs are rows too; repeatable."),
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where to; default: results/leaderboard.")] = None,
) -> None:
    """Make the pages of the experiment's boards. Reads: leaderboard/, params/reported.yaml, D/index.parquet,
    D/duplicates.parquet, all runs of the experiment, their robustness.parquet and R/inference.json if there.
    Writes: results/leaderboard/."""
    from transfer.leaderboard.board import build as build_boards

    print(build_boards(params, layout, finished, also or (), to))


@app.command()
def checks() -> None:
    """Print the table of checks of docs/leaderboard.md. Reads: nothing. Writes: the table on stdout."""
    from transfer.leaderboard.checks import markdown

    print(markdown())
