"""The command line: one verb per step of the workflow; ``transfer.layout`` names the files.

A verb imports its implementation when it runs, so that help and mistakes cost no start of pandas or torch.
"""

import gc
import os
import sys

import typer

from transfer.cli import bench, board, data, runs, tables, track, use
from transfer.utils.errors import UserError, message, one_line

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="TransFER and its ablations, step by step; the workflow (snakemake) calls the same verbs. "
    "R stands for results/EXPERIMENT, D for R/data/DATASET, RUN for R/runs/DATASET/RECIPE/seedSEED. "
    "With --debug anywhere on the line an error shows its traceback.",
)
_PANELS = {
    "Use": [use.app],
    "Data": [data.app],
    "Runs": [runs.app],
    "Tables": [tables.app],
    "Search": [runs.search_app],
    "Tracking": [track.top],
    "Tools": [data.tools],
}
for panel, apps in _PANELS.items():
    for part in apps:
        for command in part.registered_commands:
            command.rich_help_panel = panel
            about = " ".join((command.callback.__doc__ or "").split())
            command.short_help = about.partition(" Reads:")[0].partition(" Writes:")[0]
        app.add_typer(part)
app.add_typer(tables.figure_app, name="figure", rich_help_panel="Tables")
app.add_typer(board.app, name="board", rich_help_panel="Tables")
app.add_typer(track.app, name="track", rich_help_panel="Tracking")
app.add_typer(bench.app, name="bench", rich_help_panel="Tools")


def main() -> None:
    """Run the command line: exit code 0, or 1 with one line on stderr (128 + N for a run stopped by signal N).

    A traceback appears only under ``--debug``.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    try:
        code = app(args=arguments or ["--help"], prog_name="transfer", standalone_mode=False)
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not when the interpreter ends
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except BrokenPipeError:  # such as `transfer params | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be written at the end
        sys.exit(128 + 13)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, UserError) and error.details:
            print(error.details, flush=True)  # before the line, even if both streams go to one file
        # typer's errors about the command line have format_message
        usage = f"{error.format_message()} (see transfer --help)" if hasattr(error, "format_message") else ""
        print(f"error: {one_line(usage or message(error))}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, UserError) else 1)
    finally:
        # Else Python looks through all of torch's objects once more before it ends: 0.3 s. Triton, which timm brings,
        # needs that look: what it still holds is reported as leaked, in many lines.
        if "triton" not in sys.modules:
            gc.freeze()
