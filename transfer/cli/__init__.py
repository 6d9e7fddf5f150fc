"""The command line: one verb per step of the workflow; ``transfer.layout`` names the files."""

import sys

import typer

from transfer.cli import bench, configuration, data, explain, figures, runs, search, tables, track
from transfer.utils.errors import UserError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="TransFER and its ablations, step by step; the workflow (snakemake) calls the same verbs. "
    "R stands for results/EXPERIMENT, D for R/data/DATASET, RUN for R/runs/DATASET/RECIPE/seedSEED. "
    "With --debug anywhere on the line an error shows its traceback.",
)
for part in (configuration, data, runs, explain, search, tables):
    app.add_typer(part.app)
app.add_typer(track.top)
app.add_typer(figures.app, name="figure")
app.add_typer(bench.app, name="bench")
app.add_typer(track.app, name="track")


def main() -> None:
    """Run the command line: exit code 0, or 1 with one line on stderr (a training that a signal stopped: 128 and its
    number); a traceback only under ``--debug``."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        sys.exit(app(args=arguments or ["--help"], prog_name="transfer", standalone_mode=False))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UserError):
            message = str(error)
            if error.details:
                print(error.details, flush=True)  # before the line, also where both streams go into one file
        elif hasattr(error, "format_message"):  # a mistake on the command line, found by typer
            message = f"{error.format_message()} (see transfer --help)"
        else:
            message = f"{type(error).__name__}: {error} (unexpected: --debug shows where)"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
