import sys
from pathlib import Path

import typer

from transfer import cli
from transfer.bench.scale import bench_scale
from transfer.bench.startup import REFERENCE, bench_startup, commands
from transfer.cli import bench

ROOT = Path(__file__).parents[2]


def test_seconds_and_ratios_of_whole_processes():
    busy = "import time\nwhile time.process_time() < 0.6: pass"
    result = bench_startup({REFERENCE: [sys.executable, "-c", ""], "busy": [sys.executable, "-c", busy]}, 1)
    assert result[REFERENCE]["ratio"] == 1
    assert result["busy"]["seconds"] >= 0.5 and result["busy"]["ratio"] > 2


def test_every_verb_is_measured():
    verbs = bench.verbs(typer.main.get_command(cli.app))
    assert {"train", "evaluate", "bench train", "track sync"} <= set(verbs)
    assert {f"transfer {verb}, wrong option" for verb in verbs} <= set(commands(verbs))


def test_large_experiments_are_measured_on_made_up_ones(tmp_path, monkeypatch):
    """At a small size; a table and its runs are read by the code that reads real ones."""
    monkeypatch.chdir(ROOT)
    costs = dict(bench_scale(tmp_path, [], 18, 200))
    assert list(costs) == [
        "table 1 of 18 runs",
        "duplicates among 200 images",
        "digests of 200 new files",
        "the same, unchanged since",
    ]
    assert all(cost["processor"] > 0 for cost in costs.values()) and costs["table 1 of 18 runs"]["gigabytes"] > 0.05
    assert (tmp_path / "results/scale/table1.csv").exists() and Path.cwd() == ROOT
