"""Two processes that share each batch compute the same losses and weights as one."""

import multiprocessing

import pytest
import torch
import torch.distributed as dist
from torch import nn

from transfer.params import TrainParams
from transfer.training.distributed import ProcessGroup, join
from transfer.training.epoch import EpochMeter
from transfer.training.loop import make_optimizer, train_epoch
from transfer.utils.errors import UserError

PARAMS = TrainParams(lr=0.1, momentum=0.9, epochs=2, clip_norm=0.5)
STEPS = 3


def trained(group):
    """The weights, mean losses and accuracies of two epochs, and what the group gathers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 3))
    network, optimizer = group.wrap(model), make_optimizer(model, PARAMS)
    images, targets = torch.randn(STEPS, 8, 3, 2, 2), torch.randint(3, (STEPS, 8))
    own = slice(group.rank * 8 // group.world, (group.rank + 1) * 8 // group.world)
    batches = [(images[step, own], targets[step, own]) for step in range(STEPS)]
    found, seen = [], []
    for epoch in range(2):
        meter = EpochMeter(epoch, STEPS, torch.device("cpu"))
        found.append(train_epoch(network, optimizer, batches, meter, PARAMS, "fp32", seen.append, group=group))
    rows = group.gather(group.share(torch.arange(7).numpy()), 7).tolist()
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()
    return {"means": found, "images": seen, "rows": rows, "weights": weights, "signal": group.highest(group.rank * 15)}


def process(rank, rendezvous, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    results.put((rank, trained(ProcessGroup(rank, 2))))
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=process, args=(rank, tmp_path / "meet", results)) for rank in range(2)]
    for each in processes:
        each.start()
    found = dict(results.get(timeout=120) for _ in processes)
    for each in processes:
        each.join(60)
    alone = trained(ProcessGroup())
    for rank in range(2):
        torch.testing.assert_close(found[rank]["weights"], alone["weights"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[rank]["means"], alone["means"], rtol=1e-5, atol=1e-6)
        assert found[rank]["images"] == alone["images"] == [8] * 2 * STEPS
        assert found[rank]["rows"] == alone["rows"] == list(range(7))
        assert found[rank]["signal"] == 15


def test_each_process_has_its_own_random_streams():
    assert ProcessGroup().seed(7) == ProcessGroup(0, 2).seed(7) == 7 != ProcessGroup(1, 2).seed(7)


def test_a_batch_that_does_not_divide():
    with pytest.raises(UserError, match="a batch of 9 images does not divide among 2 GPUs; change train.batch_size"):
        ProcessGroup(0, 2).check(9)


def test_several_gpus_need_cuda_and_torchrun(monkeypatch):
    with pytest.raises(UserError, match="train.gpus: 2, but this run has 1 processes"):
        join(TrainParams(gpus=2), "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.gpus: 2, but torch sees no CUDA device"):
        join(TrainParams(gpus=2), "run")


def test_more_gpus_than_there_are_is_one_line(transfer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    code, _, error = transfer(
        *("train", "--set", "train.gpus=2", "--dataset", "demo_rafdb", "--recipe", "full", "--seed", "0")
    )
    assert (code, error) == (1, "error: train.gpus: 2, but torch sees 1 CUDA devices; lower it\n")


def test_the_old_key_is_refused_with_the_new_name(transfer):
    code, _, error = transfer("params", "--set", "train.processes=2")
    assert code == 1 and "train.processes: renamed; write train.gpus" in error
