import sys

import typer

from transfer import cli
from transfer.bench.startup import REFERENCE, bench_startup, commands
from transfer.cli import bench


def test_seconds_and_ratios_of_whole_processes():
    busy = "import time\nwhile time.process_time() < 0.6: pass"
    result = bench_startup({REFERENCE: [sys.executable, "-c", ""], "busy": [sys.executable, "-c", busy]}, 1)
    assert result[REFERENCE]["ratio"] == 1
    assert result["busy"]["seconds"] >= 0.5 and result["busy"]["ratio"] > 2


def test_every_verb_is_measured():
    verbs = bench.verbs(typer.main.get_command(cli.app))
    assert {"train", "evaluate", "bench train", "track sync"} <= set(verbs)
    assert {f"transfer {verb}, wrong option" for verb in verbs} <= set(commands(verbs))
