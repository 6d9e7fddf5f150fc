"""What no table needs goes, the rest stays; a kill leaves nothing half there."""

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from test_track_sync import PARAMS, changed, synced, trained, write_table  # noqa: F401  fixtures
from tiny_training import tiny_params
from tracking_store import open_client

from transfer.layout import Layout
from transfer.models.weights.load import KEY
from transfer.params import read as config
from transfer.prune import Item, unneeded
from transfer.tracking.check import check
from transfer.tracking.sync import sync
from transfer.utils.errors import UserError
from transfer.utils.files import atomic
from transfer.utils.locks import RUNNING, share

ROOT = Path(__file__).parents[2]
NAME = "tiny.faces.full"


def write(path: Path, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def checkpoint(folder: Path, run: str | None = None) -> Path:
    """Weights with the header of a run, by default the one whose folder it is."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"run": run or "/".join([folder.parts[-5], *folder.parts[-3:]])}
    save_file({"a": np.zeros(2)}, folder / "model.safetensors", {KEY: json.dumps(about)})
    return folder / "model.safetensors"


def why(layout: Layout, chosen=None) -> dict[str, str]:
    return {item.path.relative_to(layout.root).as_posix(): item.why for item in unneeded(layout, chosen or PARAMS)}


@pytest.fixture
def layout(mlflow_folder) -> Layout:
    """An empty experiment, without a store."""
    Path("results/tiny").mkdir(parents=True)
    shutil.copytree(ROOT / "params", "params")
    return Layout("tiny")


# --- removing ---


def test_a_folder_goes_with_the_empty_ones_above_it_and_a_link_without_its_target(tmp_path):
    write(tmp_path / "a/b/c/file"), write(tmp_path / "a/other"), write(tmp_path / "big/file", 100)
    Item(tmp_path / "a/b/c", "").remove()
    assert not (tmp_path / "a/b").exists() and (tmp_path / "a/other").exists()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    assert Item(tmp_path / "big", "").size == 100
    Item(tmp_path / "link", "").remove()
    assert (tmp_path / "big/file").exists() and not (tmp_path / "link").is_symlink()


def test_a_kill_at_any_file_leaves_a_folder_whole_or_gone_and_the_rest_is_found_again(layout):
    """A process that kills itself at its n-th removal of a file, for every n."""
    code = (
        "import os, signal, sys; from pathlib import Path; from transfer.prune import Item\n"
        "left = [int(sys.argv[1])]\n"
        "def audit(event, arguments):\n"
        "    if event in ('os.remove', 'os.rmdir'):\n"
        "        left[0] -= 1\n"
        "        if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sys.addaudithook(audit)\n"
        "Item(Path(sys.argv[2]), '').remove()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for number in range(6):
        for name in ("state/a/one", "state/a/two", "state/stays"):
            write(layout.root / name)
        done = subprocess.run([sys.executable, "-c", code, str(number), "results/tiny/state/a"], env=environment)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        assert len(list((layout.root / "state/a").glob("*"))) in (0, 2)
        for item in unneeded(layout, PARAMS):
            assert item.why == "left by an interrupted removal"
            item.remove()
        assert {path.name for path in (layout.root / "state").iterdir()} <= {"stays", "a"}
    assert number > 2 and done.returncode == 0, "killed at every step, and once at none"


# --- what no table needs ---


def test_checkpoints_of_runs_that_are_not_named(layout):
    for name in ("faces/full/seed0", "faces/full/seed7", "faces/msad/seed0", "others/full/seed1"):
        for file in ("metrics.json", "predictions.parquet", "env.json"):
            write(layout.root / "runs" / name / file)
        checkpoint(layout.root / "runs" / name)
    assert why(layout) == {
        "runs/faces/full/seed7/model.safetensors": "seed7 is not in seeds",
        "runs/faces/msad/seed0/model.safetensors": "msad is not in recipes",
        "runs/others/full/seed1/model.safetensors": "others is not in datasets",
    }
    for item in unneeded(layout, PARAMS):
        item.remove()
    assert len(list(layout.root.rglob("metrics.json"))) == 4, "figures stay"
    assert len(list(layout.root.rglob("model.safetensors"))) == 1


def test_what_the_last_workflow_named_stays(layout):
    config.snapshot(config.load((), ["experiment=tiny", "seeds=[9]"]), layout.params)
    weights = checkpoint(layout.root / "runs/demo_rafdb/full/seed9")
    assert why(layout) == {}
    layout.params.write_text("seeds: 3")
    with pytest.raises(UserError):
        unneeded(layout, PARAMS)
    layout.params.unlink()
    assert list(why(layout)) == [weights.relative_to(layout.root).as_posix()]


def test_states_of_what_is_not_named(layout):
    write(layout.state("faces", "full", 0) / "last.pt")
    write(layout.state("faces", "msad", 0) / "last.pt")
    write(layout.state("faces", "full", 9) / "last.pt")
    write(layout.detection_state("faces") / "part.parquet")
    write(layout.detection_state("others") / "part.parquet")
    write(layout.root / "state/faces/full/seed9_mine/last.pt"), write(layout.state("faces", "msad", 1) / "notes.txt")
    search = {"searched": {"space": {"model.args.msad": [0, 0.5]}, "trials": 2}}
    write(layout.search_state("searched", "faces") / "trial0/seed0/last.pt")
    write(layout.search_state("rates", "faces") / "trial0/seed0/last.pt")
    expected = {
        "state/faces/msad/seed0": "msad is not in recipes",
        "state/faces/full/seed9": "seed9 is not in seeds",
        "state/others/detect": "others is not in datasets",
        "state/search/rates/faces": "search rates on faces is not in searches and datasets",
    }
    assert why(layout, tiny_params(searches=["searched"], search_definitions=search)) == expected
    none = "search searched on faces is not in searches and datasets"
    assert why(layout, tiny_params()) == expected | {"state/search/searched/faces": none}


def test_imported_weights_without_a_recipe(layout):
    for name in ("ir50_ms1m", "my_own"):
        layout.weights(name).parent.mkdir(exist_ok=True)
        save_file({"a": np.zeros(2)}, layout.weights(name), {KEY: json.dumps({"fills": ["stem"]})})
    write(layout.weights("vit_small_p16_224"))  # some other file of that name
    assert why(layout) == {"weights/ir50_ms1m.safetensors": "no recipe starts from it; it can be imported again"}
    assert why(layout, tiny_params(model={"pretrained": ["ir50_ms1m"]})) == {}


def test_what_others_put_there_stays(layout, tmp_path):
    checkpoint(layout.root / "runs/faces/full/seed7", run="other/faces/full/seed7")  # copied from another experiment
    checkpoint(layout.root / "runs/faces/full/seed9_mine", run="tiny/faces/full/seed9")
    write(layout.root / "runs/faces/full/seed8/model.safetensors")
    (layout.root / "runs/faces/full/seed6").mkdir()
    (layout.root / "runs/faces/full/seed6/model.safetensors").symlink_to(checkpoint(tmp_path / "a/runs/b/c/seed6"))
    write(layout.root / "data/faces/.removed.mine")
    write(layout.root / "data/faces/.notes.part.md")
    assert why(layout) == {}


def test_what_killed_writers_left_goes(layout):
    """Also beside the archives; not while their writer lives, nor what another machine may still write to."""
    code = (
        "import os, signal, sys\nfrom transfer.utils.files import atomic\n"
        "with atomic(sys.argv[1]) as part:\n    part.write_bytes(b'x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = layout.data("faces") / "aligned.npy"
    for path in (target, Path("data/raw/demo_rafdb.zip")):
        subprocess.run([sys.executable, "-c", code, path], env=os.environ | {"PYTHONPATH": str(ROOT)})
    left = [*target.parent.iterdir(), *Path("data/raw").iterdir()]
    assert [path.suffix for path in left] == [".npy", ".zip"]
    elsewhere = write(target.with_name(".aligned.00000000-1.01234567.part.npy"))
    with atomic(target.with_name("faces.parquet")) as part:
        write(part)
        assert {item.path for item in unneeded(layout, PARAMS)} == set(left)
    os.utime(elsewhere, (0, 0))
    assert {item.path for item in unneeded(layout, PARAMS)} == {*left, elsewhere}
    with atomic(target) as part:  # the next start of the same step
        write(part)
    assert sorted(path.name for path in target.parent.iterdir()) == ["aligned.npy", "faces.parquet"]


def only(seed: int):
    return PARAMS.model_copy(update={"seeds": [seed]})


def test_nothing_goes_where_every_run_is_named(changed):  # noqa: F811
    assert unneeded(changed, PARAMS) == []


def test_what_went_out_of_the_parameters_goes_and_the_table_still_agrees(changed):  # noqa: F811
    """The seed that is left after the best one of the recipe full was taken out of the parameters."""
    seed = 1 - int(open_client().get_model_version_by_alias(NAME, "val_selected").tags["seed"])
    write_table(changed, seeds=[seed])
    assert sync(only(seed), changed).registered >= 1
    items = unneeded(changed, only(seed))
    assert {item.why for item in items} == {f"seed{1 - seed} is not in seeds"}
    for item in items:
        item.remove()
    assert unneeded(changed, only(seed)) == []
    assert check(only(seed), changed)[1] == []
    assert sync(only(seed), changed).unchanged == 4, "the runs stay, with their figures"
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@val_selected")
    faces = list(np.load(changed.data("faces") / "aligned.npy")[:2])
    assert list(model.predict(pd.DataFrame({"image": faces}))["status"]) == ["aligned", "aligned"]
    # Named again, the figures are there, and the weights of the better seed are asked for.
    done = sync(PARAMS, changed)
    assert done.problems == []
    assert f"{NAME}@val_selected is not renewed, since its weights were removed" in " ".join(done.outdated)


# --- the command line ---


@pytest.fixture
def demo(mlflow_folder) -> Path:
    """An experiment with one checkpoint too many."""
    shutil.copytree(ROOT / "params", "params")
    return checkpoint(Path("results/demo/runs/demo_rafdb/full/seed9"))


def test_without_a_terminal_nothing_goes_unless_it_is_told(demo, transfer, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = transfer("prune")
    assert code == 1 and f"{demo.stat().st_size} bytes  {demo}: seed9 is not in seeds" in out
    assert err.startswith("error: 1 files and folders, ")
    assert err.endswith(" bytes: cannot ask, stdin is no terminal; pass --yes to remove them\n")
    code, out, err = transfer("prune", "--dry-run", "--yes")
    assert (code, err) == (0, "") and out.endswith(" bytes would be removed\n") and demo.exists()
    code, out, _ = transfer("prune", "--yes")
    assert code == 0 and "\nremoved: 1 files and folders, " in out and not demo.exists()
    assert "results/demo: no such experiment" in transfer("prune", "--yes")[2]


@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_on_a_terminal_it_asks(demo, answer, gone):
    keyboard, terminal = pty.openpty()
    os.write(keyboard, answer.encode())
    command, environment = [sys.executable, "-m", "transfer", "prune"], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, stdin=terminal, capture_output=True, text=True, env=environment)
    os.close(keyboard), os.close(terminal)
    assert done.returncode == 0, done.stderr
    assert "Remove 1 files and folders, " in done.stdout and " bytes? [y/N]" in done.stdout
    assert demo.exists() != gone


def test_not_while_a_workflow_runs(demo, transfer):
    with share(RUNNING, lambda: None):
        code, _, err = transfer("prune", "--yes")
    assert code == 1 and demo.exists()
    assert err.startswith("error: a workflow is running in this folder (.snakemake/running is locked); wait until it")
