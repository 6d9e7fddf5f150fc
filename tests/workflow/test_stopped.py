"""A training that ends early says why through Snakemake, and costs nothing that was trained."""

import os
import re
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import torch

pytestmark = pytest.mark.workflow

TARGET = "results/smallest/runs/demo_rafdb/full/seed0/model.safetensors"
STATE = "results/smallest/state/demo_rafdb/full/seed0/last.pt"


def runs_of(process: psutil.Process) -> list[psutil.Process]:
    """The processes below Snakemake's whose command is `python -m transfer train`."""
    return [child for child in process.children(recursive=True) if child.cmdline()[1:4] == ["-m", "transfer", "train"]]


def test_a_lost_loss_and_a_signal_are_shown(smallest):
    done = smallest.snakemake(TARGET, "--config", "train={lr: 10, clip_norm: 0, epochs: 5}")
    assert done.returncode == 1
    (error,) = {line for line in done.stdout.splitlines() if line.startswith("error: ")}
    assert re.match(r"error: the \w*( ?loss|gradient) (has exploded|is no longer finite) \w+ epoch \d, step \d", error)
    assert "learning rate" in error and "gradient norm" in error and "Traceback" not in done.stdout
    assert not (smallest.root / TARGET).exists()

    shutil.rmtree(smallest.root / STATE.rpartition("/")[0], ignore_errors=True)  # epochs before the loss was lost
    long = ["--config", "train={epochs: 5000}"]
    with subprocess.Popen(
        smallest.command(TARGET, *long),
        cwd=smallest.root,
        env=smallest.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None and not (smallest.root / STATE).exists():
            time.sleep(0.05)
        (training,) = runs_of(psutil.Process(process.pid))
        assert training.parent().name() not in ("bash", "sh"), "a shell in between would die of the signal first"
        training.send_signal(signal.SIGTERM)
        said = process.communicate()[0]
    assert process.returncode == 1
    (error,) = {line for line in said.splitlines() if line.startswith("error: ")}
    assert error.startswith("error: stopped by SIGTERM in epoch ") and "the same command continues there" in error
    state = torch.load(smallest.root / STATE, weights_only=True)
    assert len(state["history"]) >= 1 and state["epoch"]["step"] > 0


def test_killed_between_the_outputs_and_their_noting(smallest):
    """Snakemake deletes the outputs then; they come from the training's state, which is gone after the evaluation."""
    run, state = (smallest.root / TARGET).parent, smallest.root / STATE
    metrics = f"{run.relative_to(smallest.root)}/metrics.json"
    with smallest.start(metrics, "--config", "train={epochs: 3}") as process:
        while process.poll() is None and not (run / "env.json").exists():  # the last output
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)  # so that it notes nothing while the training ends
        training = runs_of(psutil.Process(process.pid))
        while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in training):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    assert training and not (run / "metrics.json").exists()
    assert len(torch.load(state, weights_only=True)["history"]) == 3
    weights, trained = (run / "model.safetensors").read_bytes(), (run / "env.json").stat().st_mtime_ns

    done = smallest.snakemake(metrics, "--config", "train={epochs: 3}")
    assert done.returncode == 0, done.stdout
    log = (smallest.root / "results/smallest/logs/train_model/demo_rafdb/full/seed0.log").read_text()
    assert "images" not in log, log  # of progress
    assert (run / "env.json").stat().st_mtime_ns > trained  # it was deleted, and written again
    assert (run / "model.safetensors").read_bytes() == weights
    assert not state.parent.exists()
