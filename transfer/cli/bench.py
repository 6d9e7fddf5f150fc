"""Measurements: what the project says about its speed and memory, to be tried on another machine."""

import json
from typing import Annotated

import typer

app = typer.Typer(help="Measure speed, as ratios in one run.")


@app.callback()
def bench() -> None:
    """Measure speed, as ratios in one run."""


@app.command()
def store(
    faces: Annotated[int, typer.Option(min=128, help="Rows of the sparse store; AffectNet has 283901.")] = 20_000,
    img_size: Annotated[int, typer.Option(min=16, help="Side that the network wants; the store has 112.")] = 112,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The aligned store against JPEG files, and the memory of an epoch. Reads: nothing. Writes: temporary files."""
    from transfer.bench.store import bench_store, table

    result = bench_store(faces, img_size)
    print(json.dumps(result, indent=2) if as_json else table(result))
