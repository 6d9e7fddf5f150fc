"""DVC around the workflow, once and for real: repro, push, and a clone that pulls and has nothing left to do."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from repository import ROOT, Repository

from transfer.params.read import load

pytestmark = pytest.mark.workflow

STAGES = ["data", "train", "tables", "search"]
SMALLEST = ("--configfile", "params/smallest.yaml")


class Versioned(Repository):
    """A git repository in which DVC runs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.environment |= {
            f"GIT_{who}_{what}": "tester" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }

    def run(self, *command: str, code: int = 0) -> str:
        """What the command prints, on stdout and stderr."""
        done = self.process(*command)
        assert done.returncode == code, done.stdout
        return done.stdout

    def json(self, *command: str):
        """What a command of DVC prints as JSON."""
        return json.loads(self.run("dvc", *command, "--json").splitlines()[-1])

    def pull(self, code: int = 0) -> str:
        """``make pull`` in the present environment."""
        return self.run("make", "--old-file", ".venv/installed", "pull", f"ARGS={' '.join(SMALLEST)}", code=code)

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)


def ran(printed: str) -> list[str]:
    """The stages that `dvc repro` ran."""
    return re.findall(r"^Running stage '(\w+)'", printed, flags=re.MULTILINE)


@pytest.fixture
def origin(sources, tmp_path) -> Versioned:
    """A repository whose dvc.yaml is that of a smallest experiment on one dataset, and a remote, which is a folder."""
    origin = Versioned(shutil.copytree(sources, tmp_path / "origin"))
    smallest = (ROOT / "tests/workflow/smallest.yaml").read_text().replace("trials: 4", "trials: 2")
    text = f"{smallest.replace('seeds: [0, 1]', 'seeds: [0]')}datasets: [demo_rafdb]\n"
    (origin.root / "params/smallest.yaml").write_text(text)
    for old, new in (("experiment: demo", "experiment: smallest"), ("params/default.yaml #", "params/smallest.yaml #")):
        origin.replace("dvc.yaml", old, new)
    absent = [name for name in load().tables if name != "table1"] + ["evaluations", "demo_ferplus", "demo_affectnet"]
    text = (origin.root / "dvc.yaml").read_text()
    text = re.sub(rf".*/({'|'.join(absent)})\b.*persist: true}}\n", "", text)
    (origin.root / "dvc.yaml").write_text(text)
    origin.run("git", "init", "--quiet")
    (tmp_path / "remote").mkdir()
    origin.run("dvc", "remote", "add", "--default", "folder", str(tmp_path / "remote"))
    origin.commit("the smallest experiment")
    return origin


def test_a_clone_pulls_and_has_nothing_left_to_do(origin, tmp_path):
    assert ran(origin.run("dvc", "repro")) == STAGES
    assert origin.run("git", "status", "--short") == "?? dvc.lock\n", "outputs are ignored by git"
    printed = origin.run("dvc", "repro")
    assert ran(printed) == [] and "up to date" in printed
    assert origin.json("status") == {}
    origin.commit("run")
    origin.run("dvc", "push")

    origin.run("git", "clone", "--quiet", ".", str(tmp_path / "clone"))
    clone = Versioned(tmp_path / "clone")
    clone.pull()
    assert clone.run("git", "status", "--short") == ""
    assert clone.scheduled("tables", "search", *SMALLEST) == {}
    assert clone.json("status") == {}
    assert ran(clone.run("dvc", "repro")) == []

    shown = clone.json("metrics", "show")[""]["data"]
    assert "results/smallest/metrics/demo_rafdb/full.json" in shown
    clone.run("dvc", "plots", "show", "--out", "page")
    page = (clone.root / "page/index.html").read_text()
    for part in ('"recipe": "full"', '"val_accuracy"', "Training loss", "Test accuracy", "Validation accuracy"):
        assert part in page
    table = clone.root / "results/table1.csv"
    assert not table.is_symlink() and table.stat().st_nlink == 1, "a job that writes to it leaves the cache alone"

    # What changes from here on is seen, and a pull does not take the old files for those of the change.
    clone.replace("params/smallest.yaml", "train: {epochs: 1", "train: {epochs: 2")
    assert clone.scheduled("train_all", *SMALLEST) == {"train_model": 2, "evaluate_run": 2, "train_all": 1}
    assert set(clone.json("status")) == set(STAGES)
    assert "error: code, parameters or data are not those of dvc.lock" in clone.pull(code=2)
    assert clone.scheduled("train_all", *SMALLEST)["train_model"] == 2


def test_dvc_yaml_names_the_tables_of_the_embedded_default():
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    assert list(content["stages"]) == STAGES
    for stage in content["stages"].values():
        assert all(options["persist"] for out in stage["outs"] for options in out.values()), "DVC deletes it otherwise"
        assert {"Snakefile", "workflow", "transfer", "params"} <= set(stage["deps"])
    outs = {path for out in content["stages"]["tables"]["outs"] for path in out}
    names = {f"results/${{experiment}}/{table}.{suffix}" for table in load().tables for suffix in ("csv", "md", "tex")}
    assert names <= outs and {path for path in outs if path.endswith((".csv", ".md", ".tex"))} - names == {
        "results/table1.csv",
        "results/table1.md",
        "results/${experiment}/history.csv",
    }
