"""One run, from the aligned store to weights, history, predictions and environment; reads from top to bottom."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch

from transfer.layout import Layout
from transfer.losses.registry import create_loss
from transfer.losses.registry import module_of as loss_module
from transfer.models.registry import create_model, module_of
from transfer.models.weights.load import load_pretrained
from transfer.params import RUNTIME_KEYS, Params, digest
from transfer.training.batches import evaluation_batches, training_batches
from transfer.training.data import data_digest, load_data, training_files
from transfer.training.device import choose_precision, claim_device, set_deterministic
from transfer.training.distributed import join
from transfer.training.epoch import EpochMeter
from transfer.training.listeners import Listener, Status
from transfer.training.loop import WeightAverage, learning_rate, make_optimizer, predict, train_epoch
from transfer.training.outputs import write_run
from transfer.training.signals import Stopped, caught
from transfer.training.state import Row, Run
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.utils.files import sha256
from transfer.utils.progress import progress
from transfer.utils.seeds import stream


def train(
    params: Params,
    dataset: str,
    recipe: str,
    seed: int,
    layout: Layout,
    *,
    listeners: Sequence[Listener] = (),
    keep_state: bool = False,
) -> None:
    """Train one recipe on one dataset with one seed, as :func:`fit`, and write the run directory.

    model.safetensors (of the epoch selected on the validation split, or the last one where that protocol is not asked
    for), history.csv, predictions.parquet (a block per protocol), env.json. ``keep_state`` leaves the state of the last
    epoch, from which the next call writes the outputs at once.
    """
    run = fit(params, dataset, recipe, seed, layout, listeners=listeners, outputs=write_run)
    if run.group.first and not keep_state:
        shutil.rmtree(run.state_file.parent)


def fit(
    params: Params,
    dataset: str,
    recipe: str,
    seed: int,
    layout: Layout,
    *,
    splits: Sequence[str] = ("val", "test"),
    state_dir: Path | None = None,
    device: torch.device | None = None,
    listeners: Sequence[Listener] = (),
    outputs: Callable[[Run], None] | None = None,
) -> Run:
    """Train without writing anything but the resume state, in ``state_dir``, which stays.

    ``splits`` are predicted after the epochs; with ("val",) no row of the test split is known or read. Continues after
    a kill from the last whole epoch, and after SIGTERM from the step where it stopped. ``outputs`` writes what the
    finished run leaves, before listeners hear of the end. Raises UserError for contradictory parameters and a class
    without training images, Diverged, and Stopped after a signal.
    """
    # Set up
    settings, name = params.run(dataset, recipe), f"{dataset} {recipe} seed{seed}"
    hyper = settings.train
    group, assigned = join(hyper, name)
    device = device or assigned or claim_device(hyper, name)
    precision, deterministic = choose_precision(hyper, device), set_deterministic(hyper.deterministic, device)
    torch.set_num_threads(hyper.threads)
    torch.manual_seed(stream(seed, "weights"))
    data = load_data(settings, dataset, layout, splits)
    group.check(data.batch_size)
    model = create_model(settings.model, len(data.classes)).to(device).to(memory_format=torch.channels_last)
    criterion = create_loss(settings, model, len(data.classes), len(data.labels)).to(device)
    run = Run(
        params=params,
        settings=settings,
        dataset=dataset,
        recipe=recipe,
        seed=seed,
        identity=run_identity(params, dataset, recipe, seed, layout),
        directory=layout.run(dataset, recipe, seed),
        made_from=[*training_files(settings, dataset, layout), *map(layout.weights, settings.model.pretrained)],
        state_file=(state_dir or layout.state(dataset, recipe, seed)) / "last.pt",
        device=device,
        precision=precision,
        deterministic=deterministic,
        group=group,
        data=data,
        model=model,
        network=group.wrap(criterion.network(model)),
        criterion=criterion,
        average=WeightAverage(model, hyper.ema) if hyper.ema else None,
        optimizer=make_optimizer(model, hyper, criterion),
        pretrained=_pretrained_sha256(params, dataset, recipe, layout),
    )
    if not group.first:
        listeners, outputs = (), None

    # Resume
    if not run.resume() and settings.model.pretrained:
        report = load_pretrained(model, [layout.weights(name) for name in settings.model.pretrained])
        if group.first:
            print(f"pretrained weights {', '.join(settings.model.pretrained)}:\n{report.to_text()}", file=sys.stderr)

    # Epochs
    status: Status = "FAILED"
    started: list[Listener] = []
    try:
        for listener in listeners:
            listener.on_start(run)
            started.append(listener)
        with caught(group.highest) as check_signals, _progress(run) as on_batch:
            for epoch in range(len(run.history), hyper.epochs):
                start = time.perf_counter() - run.seconds_before
                try:
                    row = _train_epoch(run, epoch, on_batch, check_signals)
                    _evaluate(run, row, check_signals)
                except Stopped as stop:
                    run.seconds_before = time.perf_counter() - start
                    raise Stopped(stop.number, _save_within_epoch(run)) from None
                run.meter, run.seconds_before = None, 0.0
                run.seconds.append(time.perf_counter() - start)
                run.save()
                status = "KILLED"
                for listener in listeners:
                    listener.on_epoch(run.history[-1])
                status = "FAILED"

        # Write
        if outputs:
            outputs(run)
        status = "FINISHED"
    except Stopped:
        status = "STOPPED"
        raise
    finally:
        for listener in started:
            listener.on_end(status)
    return run


def run_identity(params: Params, dataset: str, recipe: str, seed: int, layout: Layout) -> dict[str, str]:
    """What decides the bits of a run: parameters, data, pretrained weights and code, each by its digest."""
    settings = params.run(dataset, recipe)
    return {
        "dataset": dataset,
        "recipe": recipe,
        "seed": str(seed),
        "parameters": digest(settings.model_dump(mode="json", exclude={"train": RUNTIME_KEYS})),
        "protocols": " ".join(params.protocols),
        "data": data_digest(settings, dataset, layout),
        "pretrained weights": digest(_pretrained_sha256(params, dataset, recipe, layout)),
        "code": step_digest("train", module_of(settings.model.name), loss_module(settings.train.loss.name)),
    }


def _pretrained_sha256(params: Params, dataset: str, recipe: str, layout: Layout) -> dict[str, str]:
    files = {name: layout.weights(name) for name in params.run(dataset, recipe).model.pretrained}
    for name, file in files.items():
        if not file.is_file():
            raise UserError(f"{file}: missing; make it with transfer weights {name}, or let snakemake do it")
    layout.chain.check(*files.values())
    return {name: sha256(file) for name, file in files.items()}


def _train_epoch(run: Run, epoch: int, on_batch: Callable[[int], None], check_signals: Callable[[], None]) -> Row:
    """Train the (0-based) ``epoch``, or what is left of it; the start of its line of the history."""
    hyper, data, group = run.settings.train, run.data, run.group
    run.meter = run.meter or EpochMeter(epoch, data.steps, run.device)
    batches = training_batches(
        data.store,
        data.targets,
        data.plan,
        data.batch_size,
        hyper.augment,
        stream(run.seed, "order", epoch),
        group.seed(stream(run.seed, "augment", epoch)),
        run.device,
        first=run.meter.step,
        rank=group.rank,
        world=group.world,
    )

    def after_step(images: int) -> None:
        on_batch(images)
        check_signals()

    seed, network = group.seed(stream(run.seed, "dropping", epoch)), run.network
    loss, accuracy = train_epoch(
        network,
        run.optimizer,
        batches,
        run.meter,
        hyper,
        run.precision,
        after_step,
        seed,
        run.average,
        group,
        run.criterion,
    )
    return {"epoch": epoch + 1, "lr": learning_rate(hyper, epoch + 1), "train_loss": loss, "train_accuracy": accuracy}


def _evaluate(run: Run, row: Row, check_signals: Callable[[], None]) -> None:
    """Predict what the protocols need after this epoch, complete its ``row`` of the history, and select."""
    data = run.data

    def batches(rows: np.ndarray) -> Iterator[torch.Tensor]:
        for images in evaluation_batches(data.store, rows, run.device):
            yield images
            check_signals()

    @cache
    def predicted(split: str) -> np.ndarray:
        rows = data.rows[split]
        own = batches(run.group.share(rows))
        probabilities = predict(run.evaluated, own, run.precision, run.settings.train.hflip_tta)
        return run.group.gather(probabilities, len(rows))

    def accuracy(split: str) -> float:
        return float((predicted(split).argmax(axis=1) == data.labels[data.rows[split]]).mean())

    labels = data.labels[data.rows["val"]]
    row["val_accuracy"] = accuracy("val")
    row["val_loss"] = float(-np.log(np.maximum(predicted("val")[np.arange(len(labels)), labels], 1e-12)).mean())
    assert run.meter is not None
    run.meter.check_validation(row["val_loss"])
    if "test_selected" in run.params.protocols:
        row["test_accuracy"] = accuracy("test")
    splits = [split for split in data.rows if split != "train"]
    run.select(row, lambda: {split: torch.from_numpy(predicted(split)) for split in splits})
    run.history.append(row)  # only now: a signal may arrive in any of the predictions


@contextmanager
def _progress(run: Run) -> Iterator[Callable[[int], None]]:
    """Show the images trained so far; the function yielded takes those of a step."""
    done = run.meter.images if run.meter else 0
    left = (run.settings.train.epochs - len(run.history)) * run.data.steps * run.data.batch_size
    with progress(run.name, left, start=done) as report:

        def on_batch(images: int) -> None:
            nonlocal done
            done += images
            if run.group.first:
                report(done)

        yield on_batch


def _save_within_epoch(run: Run) -> str:
    """Save the epoch in progress between two of its steps; the line that says so."""
    meter = run.meter
    assert meter is not None
    meter.check()
    run.save()
    where = f" in epoch {meter.epoch + 1} after step {meter.step} of {meter.steps}"
    return f"{where}: the state is saved, and the same command continues there"
