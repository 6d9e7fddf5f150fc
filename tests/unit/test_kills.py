"""Runs that are killed at any moment end with the bits of one that was not."""

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tiny_training import contents, tiny_dataset, tiny_params

from transfer.losses import cross_entropy as loss_file
from transfer.training import run
from transfer.training.listeners import Listener
from transfer.training.run import fit, train
from transfer.training.signals import Stopped
from transfer.utils.errors import UserError

ROOT = Path(__file__).parents[2]
KILLS = 6
EPOCHS = 3
STEPS = 3
PARAMS = {"train": {"epochs": EPOCHS, "hflip_tta": True, "ema": 0.7}}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def reference(layout):
    """What an uninterrupted training leaves."""
    train(tiny_params(**PARAMS), "faces", "full", 0, layout)
    return contents(layout, "full")


@pytest.fixture
def own(tmp_path):
    """The same dataset in a folder of its own."""
    return tiny_dataset(tmp_path)


def states(layout) -> dict[str, dict]:
    """The resume states that lie there."""
    folder = layout.state("faces", "full", 0)
    return {file.name: torch.load(file, weights_only=True) for file in folder.glob("[!.]*.pt")}


# --- a signal in the middle of an epoch ---


def signal_in(monkeypatch, epoch, step, number=signal.SIGTERM, times=1):
    """Let this process get a signal in a step (0-based) of an epoch; the steps that are trained are listed."""
    train_epoch, trained = run.train_epoch, []

    def signalled(model, optimizer, batches, meter, *rest):
        def watched():
            for images, targets, rows in batches:
                trained.append((meter.epoch, meter.step))
                if trained[-1] == (epoch, step):
                    for _ in range(times):
                        os.kill(os.getpid(), number)
                yield images, targets, rows

        return train_epoch(model, optimizer, watched(), meter, *rest)

    monkeypatch.setattr(run, "train_epoch", signalled)
    return trained


@pytest.mark.parametrize("step", range(STEPS))
def test_sigterm_saves_within_the_epoch(own, reference, monkeypatch, step):
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    signal_in(monkeypatch, 1, step)
    with pytest.raises(Stopped) as caught:
        train(tiny_params(**PARAMS), "faces", "full", 0, own)
    said = f"stopped by SIGTERM in epoch 2 after step {step + 1} of 3: the state is saved, and the same command"
    assert str(caught.value).startswith(said) and caught.value.exit_code == 143
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    state = states(own)["last.pt"]
    assert len(state["history"]) == 1 and state["epoch"]["step"] == step + 1
    assert state["epoch"]["images"] == 8 * (step + 1) and state["seconds_before"] > 0
    monkeypatch.undo()
    trained = signal_in(monkeypatch, None, None)
    resumed = fit(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert trained[0] == ((1, step + 1) if step + 1 < STEPS else (2, 0))  # no step is trained twice
    assert len(resumed.seconds) == EPOCHS and resumed.seconds[1] > state["seconds_before"]
    train(tiny_params(**PARAMS), "faces", "full", 0, own)  # writes the outputs from the state
    assert contents(own, "full") == reference


def test_a_training_that_is_stopped_again_and_again(own, reference, monkeypatch):
    """At every step of every epoch: each start trains one step more, and the last one writes the outputs."""
    for at in range(EPOCHS * STEPS):
        with monkeypatch.context() as patch:
            trained = signal_in(patch, *divmod(at, STEPS))
            with pytest.raises(Stopped):
                train(tiny_params(**PARAMS), "faces", "full", 0, own)
            assert trained == [divmod(at, STEPS)]
    train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert contents(own, "full") == reference


def test_sigterm_during_the_validation(own, reference, monkeypatch):
    predict, calls = run.predict, []

    def signalled(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(*arguments)

    monkeypatch.setattr(run, "predict", signalled)
    with pytest.raises(Stopped, match="in epoch 2 after step 3 of 3"):
        train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert len(states(own)["last.pt"]["history"]) == 1
    monkeypatch.undo()
    trained = signal_in(monkeypatch, None, None)
    train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert trained[0] == (2, 0)
    assert contents(own, "full") == reference


def test_ctrl_c_once_saves_and_twice_ends_at_once(own, monkeypatch):
    with monkeypatch.context() as patch:
        signal_in(patch, 1, 0, signal.SIGINT)
        with pytest.raises(Stopped, match="stopped by SIGINT in epoch 2 after step 1") as caught:
            train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert caught.value.exit_code == 130
    with monkeypatch.context() as patch:
        signal_in(patch, 2, 0, signal.SIGINT, times=2)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert len(states(own)["last.pt"]["history"]) == 2 and states(own)["last.pt"]["epoch"] is None


def test_many_sigterms_are_one(own, monkeypatch):
    signal_in(monkeypatch, 0, 1, times=3)
    with pytest.raises(Stopped, match="in epoch 1 after step 2"):
        train(tiny_params(**PARAMS), "faces", "full", 0, own)


def test_a_lost_loss_is_not_saved_by_a_signal(own, monkeypatch):
    """On a GPU, where the loss is looked at now and then only."""
    init = run.EpochMeter.__init__

    def rarely(self, *arguments):
        init(self, *arguments)
        self.check_every = 100

    cross_entropy, losses = loss_file.cross_entropy, []

    def lost(*args, **kwargs):
        losses.append(cross_entropy(*args, **kwargs) * (math.nan if len(losses) == 3 else 1))
        return losses[-1]

    monkeypatch.setattr(loss_file, "cross_entropy", lost)
    monkeypatch.setattr(run.EpochMeter, "__init__", rarely)
    signal_in(monkeypatch, 1, 1)
    with pytest.raises(UserError, match="no longer finite in epoch 2, step 1 of 3"):
        train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert len(losses) == 5 and states(own)["last.pt"]["epoch"] is None
    assert all(value.isfinite().all() for value in states(own)["last.pt"]["model"].values())


def test_the_command_line_ends_with_143(own):
    """A real process, as a cluster sees it."""
    params = tiny_params(train={"epochs": 10000}).model_dump(mode="json", exclude_unset=True)
    folder = own.root.parent.parent
    (folder / "params").mkdir()
    (folder / "params" / "default.yaml").write_text(yaml.safe_dump(params))
    (folder / "results").symlink_to(own.root.parent)
    command = [sys.executable, "-m", "transfer", "train", "--dataset", "faces", "--recipe", "full", "--seed", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (own.state("faces", "full", 0) / "last.pt").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]
    assert process.returncode == 143
    assert error.splitlines()[-1].startswith("error: stopped by SIGTERM in epoch ")
    assert "Traceback" not in error and states(own)["last.pt"]["epoch"]["step"] > 0


# --- processes killed at random moments ---


class Announcer(Listener):
    """Says which epochs begin."""

    def __init__(self, begun):
        self.begun = begun

    def on_start(self, run):
        self.say(len(run.history))

    def on_epoch(self, row):
        self.say(row["epoch"])

    def say(self, epoch):
        if epoch < EPOCHS:
            self.begun.send(epoch)


def _train(params, layout, begun, kill_at) -> None:
    """What a process does; a signal ends it as it would end the command line."""
    if kill_at:
        signal_in(pytest.MonkeyPatch(), *kill_at, signal.SIGKILL)
    try:
        train(params, "faces", "full", 0, layout, listeners=[Announcer(begun)])
    except Stopped as stop:
        sys.exit(stop.exit_code)


@contextlib.contextmanager
def started(layout, kill_at=None):
    """A process that trains at once, since it imports nothing again, and the end of the pipe that hears its epochs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transfer.training.run"])
    heard, begun = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(tiny_params(**PARAMS), layout, begun, kill_at))
    process.start()
    begun.close()
    try:
        yield process, heard
    finally:
        process.kill()
        process.join()


def epochs_begun(heard) -> list[int]:
    epochs = []
    with contextlib.suppress(EOFError):
        while heard.poll():
            epochs.append(heard.recv())
    return epochs


@pytest.mark.parametrize("step", [0, 2])
def test_sigkill_costs_the_epoch_in_progress(own, reference, step):
    with started(own, kill_at=(2, step)) as (process, _):
        process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert len(states(own)["last.pt"]["history"]) == 2 and states(own)["last.pt"]["epoch"] is None
    train(tiny_params(**PARAMS), "faces", "full", 0, own)
    assert contents(own, "full") == reference


def test_kills_at_random_moments_end_with_the_same_bits(own, reference):
    """Most while it trains, some while it begins; whenever a run finishes, the next one is killed."""
    rng = random.Random(0)
    seconds, kills = 0.0, []
    while True:
        with started(own) as (process, heard):
            begin = time.perf_counter()
            if rng.random() < 0.8:
                multiprocessing.connection.wait([heard, process.sentinel], 120)
            if not seconds:
                begin = time.perf_counter()
            elif len(kills) < KILLS:
                process.join(rng.uniform(0, 0.4 * seconds))
                with contextlib.suppress(ProcessLookupError):  # it has just come to its end
                    os.kill(process.pid, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            process.join(120)
            epochs = epochs_begun(heard)
        assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGTERM, 143)
        if process.exitcode == 0:
            seconds = seconds or time.perf_counter() - begin
            assert contents(own, "full") == reference, f"after {kills}"
            assert not own.state("faces", "full", 0).exists()
            shutil.rmtree(own.run("faces", "full", 0))
            if len(kills) >= KILLS:
                break
            continue
        kills.append((process.exitcode, epochs))
        if not states(own) and own.run("faces", "full", 0).exists():  # between its last deed and its end
            assert contents(own, "full") == reference, f"after {kills}"
            continue
        done = max([len(state["history"]) for state in states(own).values()], default=0)
        if epochs:  # at most the epoch that it was in is lost
            assert done >= epochs[-1], f"{kills}"
        if process.exitcode == 143:
            assert "last.pt" in states(own)
