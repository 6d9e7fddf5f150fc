"""Who is at work in a folder, and what a workflow does where its parameters change while it runs."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from transfer.layout import Layout
from transfer.params import read as config
from transfer.running import RUNNING, begin, edits, nobody_else, share
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
DEFAULT = Path("params/default.yaml")
DEMO = Layout("demo")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "params", tmp_path / "params")
    monkeypatch.chdir(tmp_path)


def edit(old: str, new: str) -> None:
    text = DEFAULT.read_text()
    assert text.count(old) == 1
    DEFAULT.write_text(text.replace(old, new))


def test_the_first_one_is_alone_and_others_are_not():
    calls = []
    first = share(RUNNING, lambda: calls.append("first"))
    second = share(RUNNING, lambda: calls.append("second"))
    assert calls == ["first"]
    first.close()
    with pytest.raises(UserError, match="a workflow is at work in this folder"), nobody_else():
        pass
    second.close()
    with nobody_else():
        pass
    share(RUNNING, lambda: calls.append("third")).close()
    assert calls == ["first", "third"]


def test_a_workflow_that_was_killed_holds_nothing():
    code = "import os, signal; from transfer.running import *; held = share(RUNNING, lambda: None)\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert RUNNING.exists()
    with nobody_else():
        pass


def test_a_workflow_waits_until_a_removal_ends(capsys):
    held = []
    with nobody_else():
        waiting = threading.Thread(target=lambda: held.append(share(RUNNING, lambda: None)))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
    waiting.join(10)
    assert held
    assert ".snakemake/running: held by a process that removes files" in capsys.readouterr().err
    held[0].close()


def test_other_parameters_of_an_experiment_wait_and_the_same_do_not():
    params, other = config.load(), config.load((), ["train.lr=0.5", "seeds=[7]"])
    one = begin(params, DEMO)
    snapshot = DEMO.params.read_bytes()
    two = begin(params, DEMO)
    with pytest.raises(UserError) as error:
        begin(other, DEMO)
    assert str(error.value) == (
        "experiment demo: a workflow is at work on it with other parameters (seeds [0, 1, 2], here [7]; train.lr 0.05, "
        "here 0.5); wait until it ends, or give this one another name: --config experiment=NAME"
    )
    assert DEMO.params.read_bytes() == snapshot
    elsewhere = begin(config.load((), ["experiment=other", "train.lr=0.5"]), Layout("other"))
    one.close()
    with pytest.raises(UserError, match="experiment demo: a workflow is at work"):
        begin(other, DEMO)
    two.close()
    begin(other, DEMO).close()
    assert config.load([DEMO.params]).train.lr == 0.5
    elsewhere.close()


def test_what_was_edited_is_named():
    Path("mine.yaml").write_text("model: {img_size: 48}\n")
    files, values = [Path("mine.yaml")], {"train": {"epochs": 2}}
    params = config.load(files, command_line=values)
    assert edits(params, files, values) is None
    edit("  epochs: 3", "  epochs: 9")
    edit("  img_size: 32", "  img_size: 64")
    assert edits(params, files, values) is None, "what lies on top of it counts"
    edit("  lr: 0.05", "  lr: 0.04")
    said = edits(params, files, values)
    line = DEFAULT.read_text().splitlines().index("  lr: 0.04") + 1
    assert said.startswith(f"edited since this workflow started: params/default.yaml:{line} (train.lr 0.05 -> 0.04); ")
    assert "results/demo/params.yaml" in said
    edit("  lr: 0.04", "  lr: 0.05")
    Path("mine.yaml").write_text("model: {img_size: 56}\n")
    assert "started: mine.yaml:1 (model.img_size 48 -> 56); what" in edits(params, files, values)
    Path("mine.yaml").write_text("model: {img_size: 56\n")
    assert "edited since this workflow started: mine.yaml:" in edits(params, files, values)
    Path("mine.yaml").unlink()
    assert "mine.yaml: no such parameter file; what it made is of the values" in edits(params, files, values)
