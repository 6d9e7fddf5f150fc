"""Processor seconds (user and system, of whole processes) before a command does any work, against `import torch`.

    python benchmarks/startup.py [--dataset demo_rafdb] [--rounds 3]

With a dataset, whose data must be prepared, a run of its recipe `full` is started too, until its first step.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import typer

from transfer import cli
from transfer.params.read import load
from transfer.sources.table import get

REFERENCE = "import torch"
_WRONG = "--no-such-option"
# A run that ends after its first step, without leaving a state.
_FIRST_STEP = """
import os, sys
from transfer import cli
from transfer.training.epoch import EpochMeter
EpochMeter.add = lambda *step: os._exit(0)
sys.argv = ["transfer", "train", *sys.argv[1:]]
cli.main()
"""


def verbs() -> Iterator[str]:
    """All verbs, such as "train" and "track sync"."""
    for name, command in typer.main.get_command(cli.app).commands.items():
        yield from (f"{name} {sub}".strip() for sub in getattr(command, "commands", [""]))


def stand_ins(folder: Path) -> None:
    """Make empty archives and weights in ``folder``, so that params/paper.yaml can be planned."""
    params = load([Path("params/paper.yaml")], [f"raw_dir={folder}"])
    for dataset, recipe in {run[:2] for run in params.selected_runs()}:
        (folder / params.dataset_definitions[dataset].archive).mkdir(parents=True, exist_ok=True)
        for name in params.run(dataset, recipe).model.pretrained:
            path = folder / get(name).files[0].path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def commands(raw_dir: Path, dataset: str | None = None) -> dict[str, list[str]]:
    """What is measured, by name; ``raw_dir`` holds what params/paper.yaml needs."""
    found = {REFERENCE: ["-c", REFERENCE], "transfer --help": ["-m", "transfer", "--help"]}
    found |= {f"transfer {verb}, wrong option": ["-m", "transfer", *verb.split(), _WRONG] for verb in verbs()}
    if dataset:
        run = ["--dataset", dataset, "--recipe", "full", "--seed", "0", "--set", "tracking=false"]
        found["transfer train, until the first step"] = ["-c", _FIRST_STEP, *run]
    plan = ["-m", "snakemake", "-n", "--quiet", "all", "--configfile", "params/paper.yaml"]
    found["snakemake -n, params/paper.yaml"] = [*plan, "--config", f"raw_dir={raw_dir}"]
    return {name: [sys.executable, *arguments] for name, arguments in found.items()}


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a process and its children. Exits if it ends otherwise than expected."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode != int(_WRONG in command):
        sys.exit(f"error: {' '.join(command)}: exit code {done.returncode}; run it by hand to see why")
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def main() -> None:
    """Print the least of the rounds, in turns, and its ratio to that of `import torch`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stand_ins(Path(folder))
        measured = commands(Path(folder), options.dataset)
        rounds = [
            {name: processor_seconds(command) for name, command in measured.items()} for _ in range(options.rounds)
        ]
    seconds = {name: min(taken[name] for taken in rounds) for name in measured}
    for name, value in seconds.items():
        print(f"{name:45}{value:8.2f} s{value / seconds[REFERENCE]:8.2f}")


if __name__ == "__main__":
    main()
