"""DVC around the workflow: repro, changed parameters, metrics, push, and a fresh clone that has nothing left to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Repository

pytestmark = pytest.mark.workflow

# An embedded default that is smaller than smallest.yaml: DVC knows each parameter of params/default.yaml by its key.
EDITS = {
    "experiment: demo": "experiment: tiny",
    "datasets: [demo_rafdb, demo_ferplus, demo_affectnet]": "datasets: [demo_rafdb]",
    "recipes: [baseline, local_cnns, local_cnns_mad, msad, local_cnns_msad, full]": "recipes: [baseline, full]",
    "seeds: [0, 1, 2]": "seeds: [0]",
    "  epochs: 3": "  epochs: 1",
    "    trials: 12": "    trials: 2",
    "    workers: 2": "    workers: 1",
    "    synthetic: 1\n  demo_rafdb_supplied": "    synthetic: 1\n    synthetic_scale: 0.1\n  demo_rafdb_supplied",
    "tables: [table1, table5, protocols": "tables: [table1] # [table5, protocols",
}
STAGES = ["data", "align", "train", "tables", "search"]
METRICS = "results/tiny/metrics/demo_rafdb"


class Versioned(Repository):
    """A git repository in which DVC runs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        identity = {f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        self.environment |= identity

    def run(self, *command: str, code: int = 0) -> str:
        """What the command prints, on stdout and stderr."""
        done = self.process(*command)
        assert done.returncode == code, done.stdout
        return done.stdout

    def pull(self, code: int = 0) -> str:
        """What make pull runs."""
        return self.run("python", "-m", "workflow.dvc.pull", code=code)

    def json(self, *command: str):
        """What a command of DVC prints as JSON."""
        return json.loads(self.run("dvc", *command, "--json").splitlines()[-1])

    def error(self, *command: str) -> str:
        """The one line that a command fails with."""
        (line,) = self.run(*command, code=1).splitlines()
        return line

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)

    def clone(self, root: Path) -> "Versioned":
        self.run("git", "clone", "--quiet", ".", str(root))
        return Versioned(root)


def ran(printed: str) -> list[str]:
    """The stages that `dvc repro` ran."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage ")]


def jobs(printed: str) -> set[str]:
    """The rules whose jobs Snakemake ran."""
    return {line.split("(Rule: ")[1].rstrip(")") for line in printed.splitlines() if "(Rule: " in line}


@pytest.fixture(scope="module")
def origin(sources, tmp_path_factory) -> Versioned:
    """A repository in which `dvc repro` ran, committed and pushed to a remote, which is a folder; not to be changed."""
    folder = tmp_path_factory.mktemp("dvc")
    repository = Versioned(shutil.copytree(sources, folder / "origin"))
    for old, new in EDITS.items():
        repository.replace("params/default.yaml", old, new)
    repository.run("python", "-m", "workflow.dvc.stages")
    repository.run("git", "init", "--quiet")
    repository.commit("tiny")
    (folder / "remote").mkdir()
    repository.run("dvc", "remote", "add", "--default", "folder", str(folder / "remote"))

    printed = repository.run("dvc", "repro")
    assert ran(printed) == STAGES
    assert (repository.root / "results/table1.csv").exists()
    changed = repository.run("git", "status", "--short").splitlines()
    assert changed == [" M .dvc/config", "?? dvc.lock"], "outputs are ignored by git"
    repository.commit("run")
    repository.run("dvc", "push")
    return repository


@pytest.fixture
def clone(origin, tmp_path) -> Versioned:
    """A fresh clone, without anything that is stored."""
    return origin.clone(tmp_path / "clone")


def test_again_there_is_nothing_to_do(origin):
    printed = origin.run("dvc", "repro")
    assert ran(printed) == []
    assert "up to date" in printed
    assert origin.json("status") == {}


def test_a_fresh_clone_takes_everything_over(clone):
    assert clone.pull() == f"fetched: {', '.join(STAGES)}\nsnakemake: nothing to do\n"
    assert clone.run("git", "status", "--short") == ""
    for target in ("results/table1.csv", "tables", "search"):
        done = clone.snakemake(target, "--dry-run")
        assert "Nothing to be done" in done.stdout
        assert "missing provenance" not in done.stdout, "every job has its record"
    assert clone.json("status") == {}
    assert ran(clone.run("dvc", "repro")) == []
    # What depends on a change is seen, as where the files were made.
    table = {"make_table": 1, "publish_table": 1, "summarize_runs": 1, "tables": 1}
    training = {"train_model": 2, "evaluate_run": 2, "draw_figure": 1, "draw_attention": 1, **table}
    face = {"align_faces": 1, "inspect_faces": 1, "sample_faces": 1, **training}
    cases = {
        "train={lr: 0.01}": training,
        "recipe_definitions={full: {mad: false}}": training | {"train_model": 1, "evaluate_run": 1},
        "faces={margin: 0.1}": face,
        "faces={min_side: 60}": {"detect_faces": 1, **face},
        "dataset_definitions={demo_rafdb: {synthetic_scale: 0.2}}": {
            **{"synthesize_archive": 1, "index_dataset": 1, "detect_faces": 1},
            **face,
        },
        "baseline=full": table,
    }
    for value, expected in cases.items():
        assert clone.scheduled("tables", "--config", value) == expected, value


def test_changed_parameters(clone):
    """Only the stages run that depend on them; metrics, parameters and plots say what is different."""
    clone.pull()
    clone.replace("params/default.yaml", "  lr: 0.05", "  lr: 0.01")
    assert clone.json("params", "diff") == {
        "params/default.yaml": {"train.lr": {"old": 0.05, "new": 0.01, "diff": -0.04}}
    }
    printed = clone.run("dvc", "repro", "tables")
    assert ran(printed) == ["train", "tables"]
    assert jobs(printed) >= {"train_model", "evaluate_run", "make_table", "summarize_runs"}
    assert not jobs(printed) & {"align_faces", "detect_faces", "index_dataset", "synthesize_archive"}

    clone.replace("params/default.yaml", "searches: [searched]", "searches: [searched, lanets]")
    assert list(clone.json("status")) == ["search"]
    clone.replace("params/default.yaml", "searches: [searched, lanets]", "searches: [searched]")
    clone.replace("params/default.yaml", "baseline: baseline\n", "baseline: full\n")
    assert ran(clone.run("dvc", "repro", "tables")) == ["tables"]

    shown = clone.json("metrics", "show")[""]["data"]
    files = {f"{METRICS}/baseline.json", f"{METRICS}/full.json"}
    assert set(shown) == files
    assert set(shown[f"{METRICS}/full.json"]["data"]) == {"last", "val_selected", "test_selected"}
    full = clone.root / METRICS / "full.json"
    full.write_text(json.dumps(json.loads(full.read_text()) | {"last": 99.0}))
    assert clone.json("metrics", "diff")[f"{METRICS}/full.json"]["last"]["new"] == 99.0
    clone.run("dvc", "plots", "show", "--out", "page")
    page = (clone.root / "page/index.html").read_text()
    for part in ('"recipe": "full"', '"val_accuracy"', "Training loss", "Test accuracy", "Validation accuracy"):
        assert part in page


def test_outputs_are_not_links_into_the_cache(clone):
    clone.pull()
    table = clone.root / "results/table1.csv"
    assert not table.is_symlink()
    assert table.stat().st_nlink == 1
    text = table.read_text()
    table.write_text("mine\n")
    clone.run("dvc", "checkout", "--force", "results/table1.csv")
    assert table.read_text() == text


def test_what_has_changed_since_is_left_to_do(clone):
    """After make pull, but not after a `dvc pull` alone, where Snakemake could not know."""
    clone.replace("params/default.yaml", "    synthetic_scale: 0.1", "    synthetic_scale: 0.12")
    clone.run("dvc", "pull")
    done = clone.snakemake("--dry-run")
    assert done.returncode == 1
    assert "error: files of dvc.lock are here without Snakemake's records" in done.stdout
    fetched, left = clone.pull().splitlines()
    assert fetched.endswith(", ".join(STAGES))
    assert left.startswith("snakemake: parameters, code or data have changed since: ")
    assert "synthesize_archive 1" in left
    assert left.count("train_model 2") == 1
    clone.run("git", "checkout", "--quiet", "params/default.yaml")
    benchmark = clone.root / "results/tiny/benchmarks/train_model/demo_rafdb/full/seed0.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.touch()  # as where it was trained
    loop = clone.root / "transfer/training/loop.py"
    loop.write_text(f"# a comment\n{loop.read_text()}")
    assert clone.pull().splitlines()[1] == "snakemake: nothing to do"
    loop.write_text(f"{loop.read_text()}\nCHANGED = 1\n")
    left = clone.pull().splitlines()[1]
    assert "train_model 2" in left
    assert "align_faces" not in left


def test_an_artifact_alone(origin, tmp_path):
    clone = origin.clone(tmp_path / "clone")
    clone.run("git", "tag", "--annotate", "--message", "first", "checkpoints-demo-rafdb@v1.0.0")
    out = tmp_path / "model"
    clone.run("dvc", "artifacts", "get", str(clone.root), "checkpoints-demo-rafdb", "--out", str(out))
    assert (out / "full/seed0/model.safetensors").exists()


def test_bad_remotes(clone, tmp_path):
    module = ("python", "-m", "workflow.dvc.pull")
    clone.run("dvc", "remote", "modify", "folder", "url", str(tmp_path / "nowhere"))
    error = f"error: DVC remote folder: {tmp_path / 'nowhere'} is not there; mount it, or name another: "
    assert clone.error(*module).startswith(error)
    (tmp_path / "nowhere").mkdir()
    assert clone.error(*module).startswith("error: not on the remote: data/raw/demo_rafdb.zip, ")
    assert clone.scheduled()["train_model"] == 2, "everything can be made"
    clone.run("dvc", "remote", "remove", "folder")
    assert clone.error(*module) == "error: no DVC remote is configured: dvc remote add --default NAME FOLDER_OR_URL"
    (clone.root / "dvc.lock").unlink()
    assert clone.error(*module).startswith("error: dvc.lock: not there")
    assert not [path for path in (clone.root / "results/tiny").rglob("*") if path.is_file()]


def test_own_files_are_not_overwritten(clone):
    table = clone.root / "results/table1.csv"
    table.parent.mkdir(exist_ok=True)
    table.write_text("mine\n")
    line = clone.error("python", "-m", "workflow.dvc.pull")
    assert "results/table1.csv" in line
    assert table.read_text() == "mine\n"


def test_beside_another_process(clone):
    (clone.root / ".snakemake").mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(clone.root / ".snakemake/running")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as workflow:
        workflow.stdout.readline()
        error = "error: a workflow is running here; wait until it has ended"
        assert clone.error("python", "-m", "workflow.dvc.pull") == error
        workflow.stdin.close()
    hold = "import zc.lockfile as z; l = z.LockFile('.dvc/tmp/lock'); print(flush=True); input()"
    (clone.root / ".dvc/tmp").mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", hold], cwd=clone.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        line = clone.error("python", "-m", "workflow.dvc.pull")
        other.stdin.close()
    assert line.startswith("error: another DVC command is at work here; wait until it has ended")
    assert not (clone.root / "results/tiny").exists()
    clone.pull()
    assert os.path.exists(clone.root / "results/table1.csv")
