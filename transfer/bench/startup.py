"""Processor seconds (user and system, of whole processes) before a command does any work, against ``import torch``."""

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from transfer.params.read import load
from transfer.sources.table import get
from transfer.utils.errors import UserError

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


def stand_ins(folder: Path) -> None:
    """Make empty archives and weights in ``folder``, so that params/paper.yaml can be planned."""
    params = load([Path("params/paper.yaml")], [f"raw_dir={folder}"])
    for dataset, recipe in {run[:2] for run in params.selected_runs()}:
        (folder / params.dataset_definitions[dataset].archive).mkdir(parents=True, exist_ok=True)
        for name in params.run(dataset, recipe).model.pretrained:
            path = folder / get(name).files[0].path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def commands(verbs: Sequence[str], run: Sequence[str] = (), raw_dir: Path = Path("data/raw")) -> dict[str, list[str]]:
    """What is measured, by name; ``run`` are the options of a `transfer train` that is stopped at its first step.

    ``raw_dir`` holds what params/paper.yaml needs.
    """
    found = {REFERENCE: ["-c", REFERENCE], "transfer --help": ["-m", "transfer", "--help"]}
    found |= {f"transfer {verb}, wrong option": ["-m", "transfer", *verb.split(), _WRONG] for verb in verbs}
    if run:
        found["transfer train, until the first step"] = ["-c", _FIRST_STEP, *run]
    plan = ["-m", "snakemake", "-n", "--quiet", "all", "--configfile", "params/paper.yaml"]
    found["snakemake -n, params/paper.yaml"] = [*plan, "--config", f"raw_dir={raw_dir}"]
    return {name: [sys.executable, *arguments] for name, arguments in found.items()}


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a process and its children. Raises UserError if it ends otherwise than expected."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode != int(_WRONG in command):
        raise UserError(f"{shlex.join(command)}: exit code {done.returncode}; run it by hand to see why")
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    return float(used)


def bench_startup(measured: dict[str, list[str]], rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each command over ``rounds``, in turns, and the ratio to ``import torch``."""
    taken: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, command in measured.items():
            taken[name].append(processor_seconds(command))
    reference = median(taken[REFERENCE])
    return {name: {"seconds": median(all_), "ratio": median(all_) / reference} for name, all_ in taken.items()}
