"""Table 1, interrupted runs and a search through SLURM with profiles/slurm, on a cluster of one node."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pandas as pd
import pytest
from repository import SMALLEST, Repository
from slurm import Cluster, missing
from unit.postgres import PASSWORD, Postgres

pytestmark = pytest.mark.workflow

EPOCHS = 40
# Two runs, long enough to be interrupted.
TABLE = ("results/table1.csv", "--config", "datasets=[demo_rafdb]", "seeds=[0]", f"train={{epochs: {EPOCHS}}}")
RUNS = "results/smallest/runs/demo_rafdb"


class OnCluster(Repository):
    """A copy of the repository whose jobs go to a cluster, with what the profile says."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        super().__init__(root, *SMALLEST)
        path = f"{cluster.folder}/bin{os.pathsep}{self.environment['PATH']}"
        self.environment |= cluster.environment | {"PATH": path}
        self.log = root / "snakemake.out"

    def command(self, target: str, *arguments: str) -> list[str]:
        # One thread each, as on this machine otherwise: the profile's eight would add up in another order.
        here = ["--slurm-init-seconds-before-status-checks", "1", "--set-threads", "train_model=1", "search_worker=1"]
        return ["snakemake", "--profile", "profiles/slurm", "--use-conda", target, *here, *arguments, *self.options]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with open(self.log, "wb") as log:
            return super().start(*arguments, log=log)


def wait(running: subprocess.Popen[bytes], repository: OnCluster, ready) -> None:
    """Until ``ready`` says something true; the run must not have ended before."""
    end = time.monotonic() + 600
    while not ready():
        assert running.poll() is None and time.monotonic() < end, repository.log.read_text()
        time.sleep(0.05)


def time_of(state: Path) -> int:
    """When it was last written; 0 in the moment in which the next one takes its place."""
    try:
        return state.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.fixture(scope="module")
def cluster():
    if reason := missing():
        pytest.skip(reason)
    started = Cluster()
    try:
        started.start()
        yield started
    finally:
        started.remove()


@pytest.fixture(scope="module")
def table(cluster, sources, tmp_path_factory) -> tuple[OnCluster, Path]:
    """Table 1 through SLURM, one of its runs cancelled and pre-empted on the way; the same without SLURM."""
    folder = tmp_path_factory.mktemp("slurm")
    local = Repository(shutil.copytree(sources, folder / "local"), *SMALLEST)
    repository = OnCluster(shutil.copytree(sources, folder / "cluster"), cluster)
    plain = local.start(*TABLE)
    running = repository.start(*TABLE)
    try:
        state = repository.root / "results/smallest/state/demo_rafdb/full/seed0/last.pt"
        wait(running, repository, state.exists)
        (first,) = cluster.jobs("demo_rafdb_full_0")
        cluster.run("scancel", str(first))
        wait(running, repository, lambda: cluster.jobs("demo_rafdb_full_0")[first] == "CANCELLED")
        saved = time_of(state)
        wait(running, repository, lambda: time_of(state) > saved)
        cluster.run("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
        assert running.wait(timeout=900) == 0, repository.log.read_text()
        assert plain.wait(timeout=900) == 0
    finally:
        for process in (plain, running):
            if process.poll() is None:
                os.killpg(process.pid, 15)
                process.wait()
    return repository, local.root


def test_the_same_bytes_as_without_slurm(table):
    repository, local = table
    files = ["results/table1.csv", "results/smallest/data/demo_rafdb/aligned.npy"]
    for recipe in ("baseline", "full"):
        names = ("predictions.parquet", "metrics.json", "history.csv", "model.safetensors")
        files += [f"{RUNS}/{recipe}/seed0/{name}" for name in names]
    for file in files:
        assert (repository.root / file).read_bytes() == (local / file).read_bytes(), file
    assert len(pd.read_csv(repository.root / f"{RUNS}/full/seed0/history.csv")) == EPOCHS


def test_a_cancelled_training_is_submitted_again_and_a_preempted_one_requeued(cluster, table):
    repository, _ = table
    first, second = sorted(cluster.jobs("train_model_wildcards_smallest_demo_rafdb_full_0").items())
    assert (first[1], second[1]) == ("CANCELLED", "COMPLETED")
    assert int(cluster.job(second[0])["Restarts"]) == 1
    log = (repository.root / "results/smallest/logs/train_model/demo_rafdb/full/seed0.log").read_text()
    images = json.loads((repository.root / f"{RUNS}/full/seed0/env.json").read_text())["training_images_per_epoch"]
    seen = int(re.findall(r"of ([\d,]+) images", log)[-1].replace(",", ""))
    assert seen <= (EPOCHS - 2) * images, "it began anew"
    with closing(sqlite3.connect(repository.root / "mlflow.db")) as database:
        shown = database.execute("SELECT run_uuid, status FROM runs WHERE name = 'full/seed0'").fetchall()
        assert [status for _, status in shown] == ["FINISHED"]
        steps = database.execute("SELECT step FROM metrics WHERE run_uuid = ? AND key = 'epoch/val_loss'", shown[0][:1])
        assert sorted(step for (step,) in steps) == list(range(1, EPOCHS + 1))


def test_jobs_ask_for_what_the_profile_says(cluster, table):
    (training,) = cluster.jobs("train_model_wildcards_smallest_demo_rafdb_baseline_0")
    asked = cluster.job(training)
    assert asked["TresPerJob"] == "gres:gpu:1"
    assert (asked["MinMemoryNode"], asked["TimeLimit"]) == ("16000M", "1-00:00:00")
    (detection,) = cluster.jobs("detect_faces")
    assert "TresPerJob" not in cluster.job(detection)
    assert not cluster.jobs("publish_table"), "a copy of two files is no job"


def test_workers_and_mlflow_share_postgresql(cluster, table):
    if shutil.which("postgres") is None or shutil.which("initdb") is None:
        pytest.skip("not installed: PostgreSQL (postgres and initdb on PATH)")
    import psycopg2

    repository, _ = table
    server = Postgres()
    try:
        server.start()
        account = {"host": "127.0.0.1", "port": server.port, "user": "tester", "password": PASSWORD}
        with closing(psycopg2.connect(**account, dbname="postgres")) as database:
            database.autocommit = True
            database.cursor().execute("CREATE DATABASE mlflow")
        search = OnCluster(repository.root, cluster)
        studies = server.url()
        search.environment |= {
            "STUDIES_PASSWORD": PASSWORD,
            "MLFLOW_TRACKING_URI": server.url(quote(PASSWORD, safe="")).replace("/postgres", "/mlflow"),
        }
        done = search.snakemake("search", "--config", "datasets=[demo_rafdb]", f"search_storage={studies}")
        assert done.returncode == 0, done.stdout
        folder = repository.root / "results/smallest/search/searched/demo_rafdb"
        trials = pd.read_csv(folder / "trials.csv")
        assert trials["state"].isin(["complete", "pruned"]).all()
        assert len(trials) in (4, 5), "at most one more per other worker"
        workers = [json.loads((folder / f"worker{number}.json").read_text()) for number in range(2)]
        assert sorted(workers[0]["trials"] + workers[1]["trials"]) == trials["trial"].tolist()
        assert set(cluster.jobs("rule_search_worker").values()) == {"COMPLETED"}
        assert len(cluster.jobs("rule_search_worker")) == 2
        with closing(psycopg2.connect(**account, dbname="mlflow")) as database, database.cursor() as cursor:
            cursor.execute(
                "SELECT r.name FROM runs r JOIN experiments e USING (experiment_id) WHERE e.name LIKE '%search%'"
            )
            shown = {name for (name,) in cursor.fetchall()}
        assert shown >= {f"trial{number}/seed0" for number in trials["trial"]}
        assert PASSWORD not in done.stdout
    finally:
        server.remove()


def test_an_unknown_partition_is_one_line_before_any_job(cluster, fresh):
    done = OnCluster(fresh.root, cluster).snakemake("prepare_data", "--default-resources", "slurm_partition='night'")
    assert done.returncode == 1
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert error == "error: slurm_partition: unknown name 'night'; this cluster has: main, urgent"
    assert "Traceback" not in done.stdout
    assert not (fresh.root / "results").exists()
