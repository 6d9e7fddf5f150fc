"""Processor seconds (user and system, of whole processes) before a command does any work, against ``import torch``."""

import os
import subprocess
import sys
from collections.abc import Sequence
from statistics import median

REFERENCE = "import torch"
# A run that ends after its first step, without leaving a state.
_FIRST_STEP = """
import os, sys
from transfer import cli
from transfer.training.epoch import EpochMeter
EpochMeter.add = lambda *step: os._exit(0)
sys.argv = ["transfer", "train", *sys.argv[1:]]
cli.main()
"""


def commands(verbs: Sequence[str], run: Sequence[str] = ()) -> dict[str, list[str]]:
    """What is measured, by name; ``run`` are the options of a `transfer train` that is stopped at its first step."""
    found = {REFERENCE: ["-c", REFERENCE], "transfer --help": ["-m", "transfer", "--help"]}
    found |= {f"transfer {verb}, wrong option": ["-m", "transfer", *verb.split(), "--no-such-option"] for verb in verbs}
    if run:
        found["transfer train, until the first step"] = ["-c", _FIRST_STEP, *run]
    plan = ["-m", "snakemake", "-n", "--quiet", "all", "--configfile", "params/paper.yaml"]
    found["snakemake -n, params/paper.yaml"] = plan
    return {name: [sys.executable, *arguments] for name, arguments in found.items()}


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a process and its children."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
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
