"""What goes between runs and what stays; and that a kill leaves nothing half there."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import tiny_dataset, tiny_params

from transfer.cleaning import removal
from transfer.cleaning.parts import PARTS, parts_of
from transfer.cleaning.removal import leftovers, remove, size_of
from transfer.cleaning.unneeded import needed_by, unneeded
from transfer.layout import Layout
from transfer.params import read as config
from transfer.training import run as training
from transfer.utils.errors import UserError
from transfer.utils.locks import RUNNING, share

ROOT = Path(__file__).parents[2]
DEMO = Layout("demo")


def write(path: Path | str, size: int = 10) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def files(folder: Path | str = ".") -> set[str]:
    return {path.as_posix() for path in Path(folder).rglob("*") if path.is_file() and path.parts[0] != "params"}


@pytest.fixture
def demo(tmp_path, monkeypatch) -> Layout:
    """An experiment with one file of every kind, another one, and what never goes."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)
    for name in ("data/d/aligned.npy", "audit/audit.csv", "weights/ir50.safetensors", "logs/train.log", "table1.md"):
        write(DEMO.root / name)
    for name in (
        "figures/attention_d.png",
        "benchmarks/train.tsv",
        "search/journal.log",
        "search/searched/best.yaml",
        "table1.csv",
    ):
        write(DEMO.root / name)
    write(DEMO.root / "evaluations/robustness/d/full/seed0/robustness.parquet")
    for name in ("state/d/full/seed0/last.pt", "state/search/searched/d/trial0/seed0/last.pt"):
        write(DEMO.root / name)
    for name in ("model.safetensors", "metrics.json"):
        write(DEMO.root / "runs/d/full/seed0" / name)
    for kept in ("data/raw/faces.zip", "results/published/demo/table1.csv", "mlflow.db", "results/other/params.yaml"):
        write(kept)
    config.snapshot(config.load(), DEMO.params)
    return DEMO


# --- removing ---


def test_a_folder_goes_with_the_empty_ones_above_it(tmp_path):
    write(tmp_path / "a/b/c/file"), write(tmp_path / "a/other")
    remove(tmp_path / "a/b/c")
    assert files(tmp_path) == {f"{tmp_path}/a/other"}
    assert not (tmp_path / "a/b").exists()
    remove(tmp_path / "a/other")
    assert not (tmp_path / "a").exists()


def test_a_link_goes_and_what_it_leads_to_stays(tmp_path):
    write(tmp_path / "big/file", 100)
    (tmp_path / "link").symlink_to(tmp_path / "big")
    assert size_of(tmp_path / "link") == 0
    remove(tmp_path / "link")
    assert files(tmp_path) == {f"{tmp_path}/big/file"}


def test_a_kill_at_any_file_leaves_a_folder_whole_or_gone_and_the_rest_is_found_again(tmp_path):
    """A process that kills itself at its n-th removal of a file, for every n."""
    code = (
        "import os, signal, sys; from pathlib import Path; from transfer.cleaning.removal import remove\n"
        "left = [int(sys.argv[1])]\n"
        "def audit(event, arguments):\n"
        "    if event in ('os.remove', 'os.rmdir'):\n"
        "        left[0] -= 1\n"
        "        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(audit)\n"
        "remove(Path(sys.argv[2]))"
    )
    for number in range(8):
        root = tmp_path / str(number)
        for name in ("runs/a/one", "runs/a/two", "runs/b/three", "stays"):
            write(root / name)
        before = files(root)
        done = subprocess.run([sys.executable, "-c", code, str(number), str(root / "runs")])
        visible = {name for name in files(root) if "/.removed." not in name}
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert visible in (before, {f"{root}/stays"})
        for entry in leftovers([root]):
            remove(entry.path)
        assert {path.name for path in root.iterdir()} in ({"stays"}, {"stays", "runs"})
    assert number > 4 and done.returncode == 0, "killed at every step, and once at none"
    assert not any(leftovers([root]))


# --- parts of an experiment ---


def test_all_but_the_data_goes(demo):
    for entry in parts_of(demo, [], False):
        remove(entry.path)
    assert files() == {
        "data/raw/faces.zip",
        "mlflow.db",
        "results/demo/data/d/aligned.npy",
        "results/demo/params.yaml",
        "results/other/params.yaml",
        "results/published/demo/table1.csv",
    }


@pytest.mark.parametrize("part", PARTS)
def test_a_part_goes_alone(demo, part):
    before = files()
    for entry in parts_of(demo, [part], False):
        remove(entry.path)
    gone = {name.removeprefix("results/demo/") for name in before - files()}
    assert (
        gone
        == {
            "runs": {
                "evaluations/robustness/d/full/seed0/robustness.parquet",
                "figures/attention_d.png",
                "runs/d/full/seed0/model.safetensors",
                "runs/d/full/seed0/metrics.json",
                "table1.csv",
                "table1.md",
            },
            "evaluations": {"evaluations/robustness/d/full/seed0/robustness.parquet"},
            "state": {"state/d/full/seed0/last.pt", "state/search/searched/d/trial0/seed0/last.pt"},
            "search": {
                "search/journal.log",
                "search/searched/best.yaml",
                "state/search/searched/d/trial0/seed0/last.pt",
            },
            "weights": {"weights/ir50.safetensors"},
            "audit": {"audit/audit.csv"},
            "figures": {"figures/attention_d.png"},
            "logs": {"logs/train.log", "benchmarks/train.tsv"},
            "data": {"data/d/aligned.npy"},
        }[part]
    )


def test_the_whole_experiment(demo):
    (entry,) = parts_of(demo, [], True)
    assert entry.size == sum(Path(name).stat().st_size for name in files(demo.root))
    remove(entry.path)
    assert not demo.root.exists() and Path("results/other/params.yaml").exists()


def test_the_table_in_results_goes_where_it_is_the_experiments(demo):
    for experiment in ("other", "demo"):
        Path("results/table1.csv").write_text(f"experiment,dataset\n{experiment},d\n")
        Path("results/table1.md").write_text("a table")
        found = {entry.path.as_posix() for entry in parts_of(demo, ["runs"], False)}
        assert ({"results/table1.csv", "results/table1.md"} <= found) == (experiment == "demo")
        assert not {"results/table1.csv"} & {entry.path.as_posix() for entry in parts_of(demo, ["data"], False)}


def test_what_a_cut_removal_left_goes_with_the_next(demo):
    write(demo.root / "runs/d/.removed.12345678.full/seed0/metrics.json", 30)
    found = {entry.path.name: entry for entry in parts_of(demo, ["logs"], False)}
    assert found[".removed.12345678.full"].size == 30
    assert ".removed.12345678.full" not in {entry.path.name for entry in parts_of(demo, ["runs"], False)}


@pytest.mark.parametrize("name", ["none", "published", "table1.csv", "other/../published", ".", "..", ""])
def test_what_is_no_experiment_is_refused(demo, name):
    write("results/table1.csv")
    with pytest.raises(UserError, match=r"no experiment; there are: demo, other$"):
        parts_of(Layout(name), [], True)


# --- what no table needs ---


def named(**changes):
    return tiny_params(**changes)


def why(layout: Layout, *needed) -> dict[str, str]:
    return {entry.path.relative_to(layout.root).as_posix(): entry.why for entry in unneeded(layout, needed)}


def test_checkpoints_of_trainings_that_are_not_named(tmp_path):
    layout = Layout("tiny", tmp_path)
    for name in ("faces/full/seed0", "faces/full/seed7", "faces/msad/seed0", "others/full/seed1"):
        for file in ("model.safetensors", "metrics.json", "predictions.parquet", "env.json"):
            write(layout.root / "runs" / name / file)
    assert why(layout, named()) == {
        "runs/faces/full/seed7/model.safetensors": "seed7 is not in seeds",
        "runs/faces/msad/seed0/model.safetensors": "msad is not in recipes",
        "runs/others/full/seed1/model.safetensors": "others is not in datasets",
    }
    both = why(layout, named(), named(seeds=[7]))
    assert "runs/faces/full/seed7/model.safetensors" not in both, "another configuration of the experiment names it"
    assert "runs/faces/full/seed0/model.safetensors" not in both
    assert len(both) == 2
    for entry in unneeded(layout, [named()]):
        remove(entry.path)
    assert len(list(tmp_path.rglob("metrics.json"))) == 4, "figures stay"
    assert len(list(tmp_path.rglob("model.safetensors"))) == 1


def test_the_last_workflow_counts(demo):
    assert needed_by(demo, config.load((), ["seeds=[9]"])) == [config.load((), ["seeds=[9]"]), config.load()]
    demo.params.unlink()
    assert needed_by(demo, config.load()) == [config.load()]


class Killed(Exception):
    pass


@pytest.fixture
def interrupted(tmp_path, monkeypatch, one_thread) -> Layout:
    """A training that was killed after its first epoch."""
    layout = tiny_dataset(tmp_path)

    def kill(self, tracking):
        save(self, tracking)
        raise Killed

    save = training.Training._save
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_save", kill)
        with pytest.raises(Killed):
            training.train(named(), "faces", "full", 0, layout)
    assert (layout.state("faces", "full", 0) / "last.pt").is_file()
    return layout


STATE = "state/faces/full/seed0"


def test_the_state_of_an_interrupted_training_stays(interrupted):
    assert why(interrupted, named()) == {}
    assert why(interrupted, named(train={"lr": 0.5}), named()) == {}, "one of several configurations continues it"


@pytest.mark.parametrize(
    ("changes", "other"),
    [
        ({"train": {"lr": 0.5}}, "parameters"),
        ({"model": {"num_lanets": 3}}, "parameters"),
        ({"protocols": ["last"]}, "protocols"),
    ],
)
def test_a_state_that_no_training_continues(interrupted, changes, other):
    assert why(interrupted, named(**changes)) == {STATE: f"resume state of another training (other {other})"}


def test_a_state_of_other_data_or_a_damaged_one(interrupted):
    plan = interrupted.plan("faces", "full")
    content = plan.read_bytes()
    tiny = named()
    plan.write_bytes(content[:-8] + content[-16:-8])
    assert why(interrupted, tiny) == {STATE: "resume state of another training (other data)"}
    plan.unlink()
    assert why(interrupted, tiny) == {}, "nothing can be said: the data may come back"
    plan.write_bytes(content)
    state = interrupted.root / STATE / "last.pt"
    state.write_bytes(state.read_bytes()[:-300])
    assert why(interrupted, tiny) == {STATE: "damaged resume state (BadZipFile)"}


def test_a_state_beside_its_finished_training(interrupted):
    kept = shutil.copytree(interrupted.root / STATE, interrupted.root / "kept")
    training.train(named(), "faces", "full", 0, interrupted)
    assert not (interrupted.root / STATE).exists()
    shutil.copytree(kept, interrupted.root / STATE)
    assert why(interrupted, named()) == {STATE: "its training is finished"}
    env = interrupted.run("faces", "full", 0) / "env.json"
    env.write_text(json.dumps(json.loads(env.read_text()) | {"digest": "another"}))
    assert why(interrupted, named()) == {}


def test_states_of_what_is_not_named(tmp_path):
    layout = Layout("tiny", tmp_path)
    write(layout.state("faces", "msad", 0) / "last.pt")
    write(layout.state("faces", "full", 9) / "last.pt")
    write(layout.detection_state("faces") / "part.parquet")
    write(layout.detection_state("others") / "part.parquet")
    search = {"searched": {"space": {"msad": [0, 0.5]}, "trials": 2}}
    with_search = named(searches=["searched"], search_definitions=search)
    write(layout.search_state("searched", "faces") / "trial0/seed0/last.pt")
    write(layout.search_state("rates", "faces") / "trial0/seed0/last.pt")
    expected = {
        "state/faces/msad/seed0": "msad is not in recipes",
        "state/faces/full/seed9": "seed9 is not in seeds",
        "state/others/detect": "others is not in datasets",
        "state/search/rates/faces": "search rates on faces is not in searches and datasets",
    }
    assert why(layout, with_search) == expected
    none = "search searched on faces is not in searches and datasets"
    assert why(layout, named()) == expected | {"state/search/searched/faces": none}


def test_imported_weights_without_a_recipe(tmp_path):
    layout = Layout("tiny", tmp_path)
    write(layout.weights("ir50_ms1m")), write(layout.weights("my_own"))
    write(layout.evaluated(Path("my_own"), "0" * 64, "faces") / "metrics.json")
    assert why(layout, named()) == {
        "weights/ir50_ms1m.safetensors": "no recipe begins with it; it is imported again from its source's file"
    }
    assert why(layout, named(model={"pretrained": ["ir50_ms1m"]})) == {}


# --- the command line ---


def test_without_a_terminal_nothing_goes_unless_it_is_told(demo, transfer, monkeypatch):
    before = files()
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = transfer("clean", "demo", "--part", "logs")
    assert code == 1 and "results/demo/logs" in out
    assert (
        err == "error: 2 files and folders, 20 B: nobody to ask, since this is no terminal; give --yes to remove them\n"
    )
    code, out, err = transfer("clean", "demo", "--dry-run", "--yes")
    assert (code, err) == (0, "") and "nothing was removed" in out
    assert files() - {str(RUNNING)} == before
    code, out, _ = transfer("clean", "demo", "--part", "logs", "--yes")
    assert code == 0 and "removed: 2 files and folders, 20 B" in out
    assert not (demo.root / "logs").exists() and (demo.root / "runs").exists()
    assert transfer("clean", "demo", "--part", "logs", "--yes")[:2] == (0, "nothing to remove\n")


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks(demo, answer, gone):
    keyboard, terminal = pty.openpty()
    os.write(keyboard, answer.encode())
    command = [sys.executable, "-m", "transfer", "clean", "demo", "--part", "runs"]
    done = subprocess.run(
        command, stdin=terminal, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ROOT}
    )
    os.close(keyboard), os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert "Remove 5 files and folders, 60 B? [y/N]" in done.stdout
    assert (demo.root / "runs").exists() != gone


def test_not_while_a_workflow_runs(demo, transfer):
    Path("mlflow.db").unlink()
    before = files()
    held = share(RUNNING, lambda: None)
    for verb in (["clean", "demo"], ["prune"]):
        code, _, err = transfer(*verb, "--yes")
        assert code == 1
        assert err.startswith("error: a workflow is at work in this folder (.snakemake/running is held); wait until it")
        assert transfer(*verb, "--dry-run")[0] == 0, "looking is allowed"
    held.close()
    assert files() - {str(RUNNING), "results/demo/.track.lock"} == before


def test_what_a_workflow_needs_meanwhile_stays(demo, transfer, monkeypatch):
    """Between the question and the removal a workflow may run: what it needs now is not removed."""
    Path("mlflow.db").unlink()
    write(demo.run("demo_rafdb", "full", 9) / "model.safetensors")
    write(demo.run("demo_rafdb", "full", 8) / "model.safetensors")

    def answer(question):
        config.snapshot(config.load((), ["seeds=[9]"]), demo.params)
        return True

    monkeypatch.setattr("typer.confirm", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    code, out, err = transfer("prune")
    assert (code, err) == (0, "")
    assert (demo.run("demo_rafdb", "full", 9) / "model.safetensors").exists()
    assert not (demo.run("demo_rafdb", "full", 8) / "model.safetensors").exists()


def test_a_store_that_cannot_be_used_keeps_its_models_and_files_go(demo, transfer):
    old = write(demo.run("demo_rafdb", "full", 9) / "model.safetensors")
    code, out, err = transfer("prune", "--yes")
    assert code == 0 and not old.exists()
    (line,) = err.splitlines()
    assert "mlflow.db: file is not a database" in line and line.endswith("; its models are left as they are")


def test_unknown_names_are_one_line(demo, transfer):
    assert "--part run: unknown; allowed: runs, evaluations, state," in transfer("clean", "demo", "--part", "run")[2]
    assert "results/dmo: no experiment; there are: demo, other" in transfer("clean", "dmo")[2]
    assert "results/paper: no experiment" in transfer("prune", "--set", "experiment=paper")[2]
    assert not Path("results/paper").exists()


def test_disk_says_what_could_go(demo, transfer):
    write(demo.run("demo_rafdb", "full", 9) / "model.safetensors", 5_000_000)
    code, out, _ = transfer("track", "disk")
    assert code == 0
    line = "demo: no table needs 5.0 MB of it; to remove it: transfer prune --params results/demo/params.yaml"
    assert line in out
    (row, other) = json.loads(transfer("track", "disk", "--json")[1])
    assert row["unneeded"] >= 5_000_000 and other["unneeded"] is None, "a snapshot that cannot be read"
    assert row["total"] == sum(Path(name).stat().st_size for name in files(demo.root))
    assert removal.size_of(demo.root) == row["total"]
