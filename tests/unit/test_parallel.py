import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file
from tiny_training import OUTPUTS, tiny_dataset, tiny_params
from torch import nn
from transfer.training.launch import RENDEZVOUS, launch
from transfer.training.norm import BatchNormOfAll, synchronise
from transfer.training.parallel import Ranks, joined

from transfer.models.dropping import MSAD, TokenDrop, keep_all_but_one
from transfer.params import Augmentation
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.training.augment import Augment
from transfer.training.batches import FaceStore, training_batches
from transfer.training.run import Training, train
from transfer.utils.errors import UserError

EPOCHS = 4
# At a larger rate the rounding grows from step to step.
PARAMS = {"train": {"epochs": EPOCHS, "hflip_tta": True, "lr": 0.002}}
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("one_thread")


def as_process(rank, world, folder, function, arguments):
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {name: str(number) for name, number in numbers.items()} | {RENDEZVOUS: str(folder / "rendezvous")}
    function(*arguments)


def together(world, folder, function, *arguments):
    """Run a function in several processes of one training."""
    context = multiprocessing.get_context("forkserver")  # processes that work at once, without importing torch again
    context.set_forkserver_preload(["transfer.training.run"])
    processes = [
        context.Process(target=as_process, args=(rank, world, folder, function, arguments)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * world


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A training of the full recipe in one process: the folder of its run."""
    layout = tiny_dataset(tmp_path_factory.mktemp("alone"))
    train(tiny_params(**PARAMS), "faces", "full", 0, layout)
    return layout.run("faces", "full", 0)


def assert_same_training(one, other):
    """The same up to rounding: history, predictions, weights."""
    first, second = (pd.read_csv(folder / "history.csv") for folder in (one, other))
    assert np.allclose(first, second, rtol=1e-4, atol=1e-5)
    first, second = (read_predictions(folder / "predictions.parquet") for folder in (one, other))
    keys = ["sample", "split", "label", "protocol", "epoch"]
    assert first[keys].equals(second[keys])
    assert np.allclose(probabilities_of(first), probabilities_of(second), atol=1e-5)
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor.float(), second[name].float(), rtol=1e-3, atol=1e-5), name


# --- the same training ---


def test_two_processes_train_as_one(alone, tmp_path):
    layout = tiny_dataset(tmp_path)
    together(2, tmp_path, train, tiny_params(**PARAMS), "faces", "full", 0, layout)
    other = layout.run("faces", "full", 0)
    assert_same_training(alone, other)
    assert sorted(file.name for file in other.iterdir()) == sorted(OUTPUTS)
    noted, expected = (json.loads((folder / "env.json").read_text()) for folder in (other, alone))
    assert (noted["processes"], expected["processes"]) == (2, 1)
    assert noted["digest"] == expected["digest"]
    assert noted["training_images_per_epoch"] == 24
    assert not layout.state("faces", "full", 0).exists()


def test_three_processes_and_soft_targets(tmp_path):
    changes = {
        "epochs": 1,
        "batch_size": 6,
        "targets": "soft_labels",
        "label_smoothing": 0.1,
        "clip_norm": 0.5,
        "ema": 0.5,
    }
    params = tiny_params(train=changes)
    one, three = (tiny_dataset(tmp_path / name, votes=True) for name in ("one", "three"))
    train(params, "faces", "baseline", 0, one)
    together(3, tmp_path, train, params, "faces", "baseline", 0, three)
    assert_same_training(one.run("faces", "baseline", 0), three.run("faces", "baseline", 0))


def test_where_a_training_runs_is_no_part_of_it(tmp_path):
    layout = tiny_dataset(tmp_path)
    changes = [{}, {"processes": 4}, {"jobs_per_device": 2}]
    digests = {Training(tiny_params(train=change), "faces", "full", 0, layout).digest for change in changes}
    assert len(digests) == 1


# --- batch norm ---


def norm_of_part(images, gradient, folder):
    rank = int(os.environ["RANK"])
    with joined(tiny_params().train, "test"):
        layer = new_norm()
        synchronise(layer, CPU)
        assert isinstance(layer[0], BatchNormOfAll)
        torch.save(through(layer, images.chunk(2)[rank], gradient.chunk(2)[rank]), folder / f"{rank}.pt")
        layer.eval()
        with torch.no_grad():
            torch.save(layer(images), folder / f"eval{rank}.pt")


def new_norm():
    layer = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)).train()
    with torch.no_grad():
        layer[0].weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        layer[0].bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    return layer


def through(layer, images, gradient):
    images = images.clone().requires_grad_()
    out = layer(images)
    out.backward(gradient)
    parameters = [parameter.grad for parameter in layer.parameters()]
    return {"out": out.detach(), "images": images.grad, "parameters": parameters, "state": layer.state_dict()}


@pytest.mark.parametrize(
    ("dtype", "layout", "tolerance"),
    [
        (torch.float32, torch.contiguous_format, 1e-5),
        (torch.float32, torch.channels_last, 1e-5),
        (torch.bfloat16, torch.channels_last, 0.02),
    ],
)
def test_batch_norm_of_the_whole_batch(tmp_path, dtype, layout, tolerance):
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, 7.0).view(6, 1, 1, 1)  # the halves of the batch differ
    images = (torch.randn(6, 3, 5, 4, generator=generator) * scale + 7 * scale).to(dtype).to(memory_format=layout)
    gradient = torch.randn(6, 3, 5, 4, generator=generator).to(dtype).to(memory_format=layout)
    together(2, tmp_path, norm_of_part, images, gradient, tmp_path)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    layer = new_norm()
    expected = through(layer, images, gradient)
    for name in ("out", "images"):
        found = torch.cat([part[name] for part in parts])
        assert found.dtype == dtype and torch.allclose(found, expected[name], rtol=tolerance, atol=tolerance)
    for i, gradient_of_all in enumerate(expected["parameters"]):
        found = parts[0]["parameters"][i] + parts[1]["parameters"][i]
        assert torch.allclose(found, gradient_of_all, rtol=tolerance, atol=tolerance)
    for part in parts:
        for name, value in expected["state"].items():
            assert torch.allclose(part["state"][name], value, rtol=1e-5), name
    layer.eval()
    assert torch.allclose(torch.load(tmp_path / "eval1.pt"), layer(images), rtol=tolerance, atol=tolerance)


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="^model: several processes on the CPU share no batch norm like 0; use one"):
        Ranks(0, 2).prepare(nn.Sequential(nn.BatchNorm1d(3)), CPU)
    with pytest.raises(UserError, match="^model: 1 draws for itself"):
        Ranks(0, 2).prepare(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)), CPU)
    plain = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.1))
    assert Ranks().prepare(plain, CPU) is plain and type(plain[0]) is nn.BatchNorm2d
    Ranks(0, 2).prepare(nn.Sequential(nn.Dropout(0.0), MSAD(0.3)), CPU)


# --- the parts of a batch ---


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_parts_of_a_mask_are_the_mask(parts):
    torch.manual_seed(3)
    whole, after = keep_all_but_one(12, 3, 0.6, CPU), torch.rand(1)
    for number in range(parts):
        torch.manual_seed(3)
        assert torch.equal(
            keep_all_but_one(12 // parts, 3, 0.6, CPU, (number, parts)), whole.chunk(parts)[number]
        ) and torch.equal(torch.rand(1), after)


@pytest.mark.parametrize(("layer", "shape"), [(MSAD(0.7), (8, 3, 4, 5)), (TokenDrop(0.7, 3), (8, 5, 3, 3, 2))])
def test_parts_of_a_batch_are_dropped_alike(layer, shape):
    x = torch.randn(shape)
    torch.manual_seed(3)
    whole = layer.train()(x)
    Ranks(1, 2).prepare(layer, CPU)
    torch.manual_seed(3)
    assert torch.equal(layer(x[4:]), whole[4:]) and not torch.equal(whole[:4] == 0, whole[4:] == 0)


def test_parts_of_a_batch_are_augmented_alike():
    images = torch.rand(6, 3, 20, 20)

    def outcome(images, part):
        augment = Augment(Augmentation(), 4, part)
        return augment.erase(augment(images))

    whole = outcome(images, (0, 1))
    for number in range(3):
        assert torch.equal(outcome(images.chunk(3)[number], (number, 3)), whole.chunk(3)[number])


def test_parts_of_the_batches_of_an_epoch(tmp_path):
    layout = tiny_dataset(tmp_path)
    rows = np.load(layout.plan("faces", "full"))
    store = FaceStore(layout.data("faces") / "aligned.npy", 16, np.arange(41))

    def epoch(first, part):
        return list(training_batches(store, torch.arange(41), rows, 6, Augmentation(), 1, 2, CPU, first, part))

    whole = epoch(0, (0, 1))
    for number in range(3):
        own = epoch(1, (number, 3))
        assert len(own) == len(whole) - 1 == 3
        for (images, targets), (all_images, all_targets) in zip(own, whole[1:], strict=True):
            assert torch.equal(images, all_images.chunk(3)[number])
            assert torch.equal(targets, all_targets.chunk(3)[number])


@pytest.mark.parametrize("count", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_of_what_is_predicted(count, world):
    rows = np.arange(count) * 10
    shares = [Ranks(rank, world).share(rows) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1 and len(shares[0]) >= 1
    assert np.concatenate(shares)[:count].tolist() == rows.tolist()


def gather_rows(folder):
    with joined(tiny_params().train, "test") as ranks:
        values = ranks.share(np.arange(5)).astype(np.float32)[:, None] * np.array([1, 10], np.float32)
        np.save(folder / f"{ranks.rank}.npy", ranks.gather(values, 5))
        assert ranks.highest(ranks.rank * 15) == 15 and ranks.total(torch.ones(2)).tolist() == [2, 2]
        assert ranks.mean(torch.tensor(float(ranks.rank))) == 0.5
        assert (sys.stderr.name == os.devnull) == (not ranks.first)
        assert dist.get_backend() == "gloo"


def test_gathering_is_in_order(tmp_path):
    together(2, tmp_path, gather_rows, tmp_path)
    for rank in range(2):
        assert np.load(tmp_path / f"{rank}.npy").tolist() == [[i, 10 * i] for i in range(5)]


# --- what is refused before time is spent ---


def test_a_batch_that_does_not_divide_evenly():
    Ranks(0, 4).check(8, 27)
    with pytest.raises(UserError, match="^a batch of 8 images does not divide evenly among 3 processes; change"):
        Ranks(0, 3).check(8, 27)
    with pytest.raises(UserError, match="^a batch of 5 images, all 5 training images in one batch, does not"):
        Ranks(0, 8).check(5, 5)
    with pytest.raises(ValidationError, match=r"batch_size 8 \(faces, baseline\) does not divide evenly among 3"):
        tiny_params(train={"processes": 3})


# --- the command line ---


@pytest.fixture
def workplace(tmp_path):
    """A folder in which the command line finds the dataset and the parameters."""
    tiny_dataset(tmp_path / "results")
    (tmp_path / "params").mkdir()
    values = tiny_params(**PARAMS).model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    (tmp_path / "params" / "default.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def start(folder, *values, launcher=(sys.executable,)):
    settings = [word for value in values for word in ("--set", value)]
    return subprocess.Popen(
        [*launcher, "-m", "transfer", "train", "--dataset=faces", "--recipe=full", "--seed=0", *settings],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def run_folder(folder):
    return folder / "results" / "tiny" / "runs" / "faces" / "full" / "seed0"


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_torchrun(workplace, alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(workplace, launcher=torchrun)
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert_same_training(alone, run_folder(workplace))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_training_of_two_processes_continues_in_one(workplace, number):
    """A worker is killed, or the launcher gets a SIGTERM: one line, and the state is there for the next start."""
    longer = ("train.epochs=12", "train.lr=0.002")
    process = start(workplace, *longer, "train.processes=2")
    state = workplace / "results" / "tiny" / "state" / "faces" / "full" / "seed0" / "last.pt"
    wait_for(lambda: state.exists() or process.poll() is not None)
    workers = workers_of(process)
    assert len(workers) == 2
    os.kill(workers[1] if number == signal.SIGKILL else process.pid, number)
    _, err = process.communicate(timeout=120)
    errors = [line for line in err.splitlines() if "images" not in line]
    assert len(errors) == 1, err
    if number == signal.SIGKILL:
        assert process.returncode == 1 and "process 2 of the 2 of this training was ended by SIGKILL" in errors[0]
    else:
        assert process.returncode == 128 + signal.SIGTERM and "stopped by SIGTERM in epoch" in errors[0]
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    done = len(torch.load(state, weights_only=True)["history"])
    assert 1 <= done < 12 and not run_folder(workplace).exists()

    process = start(workplace, *longer)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "starts over" not in err
    reference = tiny_dataset(workplace / "reference")
    train(tiny_params(train={**PARAMS["train"], "epochs": 12, "lr": 0.002}), "faces", "full", 0, reference)
    assert_same_training(reference.run("faces", "full", 0), run_folder(workplace))


def test_what_all_processes_notice_is_said_once(workplace):
    store = workplace / "results" / "tiny" / "data" / "faces" / "aligned.npy"
    np.save(store, 255 - np.load(store))
    process = start(workplace, "train.processes=2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1 and len(err.splitlines()) == 1 and "not the face that was aligned" in err


# --- the launcher ---


def python(script):
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = os.environ['RANK']; {script}"]


def test_the_launcher_tells_each_process_its_number(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    launch(3, python(f"open(f'{tmp_path}/' + rank, 'w').write(' '.join(os.environ[name] for name in {names}))"))
    assert sorted(file.read_text() for file in tmp_path.iterdir()) == ["0 0 3 3", "1 1 3 3", "2 2 3 3"]


def test_a_process_that_fails_ends_the_others():
    start = time.monotonic()
    with pytest.raises(SystemExit) as end:
        launch(3, python("sys.exit(7) if rank == '1' else time.sleep(600)"))
    assert end.value.code == 7 and time.monotonic() - start < 60


def test_a_process_that_is_killed_is_named():
    with pytest.raises(UserError, match="^process 3 of the 3 of this training was ended by SIGKILL"):
        launch(3, python("os.kill(os.getpid(), signal.SIGKILL) if rank == '2' else time.sleep(600)"))


def test_processes_end_with_a_launcher_that_is_killed(tmp_path):
    script = f"open(f'{tmp_path}/' + rank, 'w').write(str(os.getpid())); time.sleep(600)"
    code = f"from transfer.training.launch import launch; launch(2, {python(script)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    wait_for(lambda: len([file for file in tmp_path.iterdir() if file.read_text()]) == 2)
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{file.read_text()}").exists() for file in tmp_path.iterdir()))
