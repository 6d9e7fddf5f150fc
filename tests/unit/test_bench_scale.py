"""The benchmark of large experiments: that it measures what it says, never how fast it is."""

from pathlib import Path

from transfer.bench.scale import bench_scale

ROOT = Path(__file__).parents[2]


def test_large_experiments_are_measured_on_made_up_ones(tmp_path, monkeypatch):
    """At a small size; a table and its runs are read by the code that reads real ones."""
    monkeypatch.chdir(ROOT)
    costs = dict(bench_scale(tmp_path, [18], 18, 200))
    assert list(costs) == [
        "dry run of 18 runs",
        "table 1 of 18 runs",
        "duplicates among 200 images",
        "digests of 200 new files",
        "the same, unchanged since",
    ]
    assert all(cost["processor"] > 0 for cost in costs.values()) and costs["table 1 of 18 runs"]["gigabytes"] > 0.05
    assert (tmp_path / "results/scale/table1.csv").exists() and Path.cwd() == ROOT
