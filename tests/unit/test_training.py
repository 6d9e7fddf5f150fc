import errno
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_training import CLASSES, COUNTS, OUTPUTS, contents, tiny_dataset, tiny_params

from transfer.datasets.ferplus import label_votes
from transfer.evaluation.predict import load_model
from transfer.faces.store import digest_test_faces
from transfer.losses import cross_entropy as losses
from transfer.models import dropping
from transfer.params import ParamsError, digest
from transfer.runs.predictions import probabilities_of, read_predictions
from transfer.training import run, state
from transfer.training.batches import FaceStore, evaluation_batches
from transfer.training.data import load_data
from transfer.training.listeners import Listener
from transfer.training.loop import predict
from transfer.training.run import fit, run_identity, train
from transfer.training.signals import Stopped
from transfer.utils.code_digest import code_digest
from transfer.utils.errors import UserError
from transfer.utils.files import sha256

EPOCHS = 5
PARAMS = {"train": {"epochs": EPOCHS, "hflip_tta": True}}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def reference(layout):
    """The full recipe, trained without interruption: its run directory."""
    train(tiny_params(**PARAMS), "faces", "full", 0, layout)
    return layout.run("faces", "full", 0)


@pytest.fixture
def copy(layout, tmp_path):
    """The same dataset in a folder of its own."""
    shutil.copytree(layout.root / "data", tmp_path / "tiny" / "data")
    return type(layout)("tiny", tmp_path)


def interrupt(monkeypatch, epoch, error=KeyboardInterrupt):
    """Let the training stop in the middle of ``epoch`` (0-based)."""
    train_epoch = run.train_epoch

    def stopping(model, optimizer, batches, meter, *rest):
        def first_batch():
            yield next(iter(batches))
            raise error

        return train_epoch(model, optimizer, first_batch() if meter.epoch == epoch else batches, meter, *rest)

    monkeypatch.setattr(run, "train_epoch", stopping)


class Resumed(Listener):
    """Stops a run at its start, and notes how many epochs it would continue from."""

    class Stop(Exception):
        pass

    def on_start(self, run):
        self.epochs = len(run.history)
        raise self.Stop


def resumed_epochs(params, layout, recipe="full"):
    listener = Resumed()
    with pytest.raises(Resumed.Stop):
        fit(params, "faces", recipe, 0, layout, listeners=[listener])
    return listener.epochs


# --- what a run leaves ---


def test_outputs(layout, reference):
    assert sorted(file.name for file in reference.iterdir()) == sorted(OUTPUTS)
    assert not layout.state("faces", "full", 0).exists()


def test_history(reference):
    history = pd.read_csv(reference / "history.csv")
    names = ["epoch", "lr", "train_loss", "train_accuracy", "val_accuracy", "val_loss", "test_accuracy"]
    assert history.columns.tolist() == names and history["epoch"].tolist() == list(range(1, EPOCHS + 1))
    assert history.notna().all(axis=None)
    assert history["lr"].iloc[-1] == 0 and history["lr"].is_monotonic_decreasing
    assert (history["val_accuracy"] * sum(COUNTS["val"]) % 1).abs().max() < 1e-9


def test_predictions_of_the_protocols(reference):
    history = pd.read_csv(reference / "history.csv").set_index("epoch")
    predictions = read_predictions(reference / "predictions.parquet")
    split = pd.read_parquet(reference.parents[3] / "data" / "faces" / "split.parquet")
    epochs = predictions.groupby("protocol")["epoch"].unique().to_dict()
    assert epochs == {
        "last": [EPOCHS],
        "val_selected": [history["val_accuracy"].idxmax()],  # the first of equals
        "test_selected": [history["test_accuracy"].idxmax()],
    }
    for (protocol, part), rows in predictions.groupby(["protocol", "split"]):
        expected = split[split["split"] == part]
        assert rows["sample"].tolist() == expected["sample"].tolist()
        assert rows["label"].tolist() == expected["label"].tolist()
        probabilities = probabilities_of(rows)
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6) and (probabilities >= 0).all()
        accuracy = (probabilities.argmax(axis=1) == rows["label"]).mean()
        assert accuracy == pytest.approx(history.loc[epochs[protocol][0], f"{part}_accuracy"])
    assert len(predictions) == 3 * (sum(COUNTS["val"]) + sum(COUNTS["test"]))
    assert [name for name in predictions if name.startswith("p_")] == [f"p_{name}" for name in CLASSES]


def test_the_weights_give_the_predictions_of_the_validation_epoch(layout, reference):
    model, about = load_model(reference / "model.safetensors")
    predictions = read_predictions(reference / "predictions.parquet").query("protocol == 'val_selected'")
    assert about["epoch"] == predictions["epoch"].iloc[0]
    assert (about["classes"], about["protocol"], about["hflip_tta"]) == (CLASSES, "val_selected", True)
    assert about["run"] == "tiny/faces/full/seed0" and not model.training
    split = pd.read_parquet(layout.data("faces") / "split.parquet")
    for part in ("val", "test"):
        rows = split.loc[split["split"] == part, "row"].to_numpy()
        store = FaceStore(layout.data("faces") / "aligned.npy", 16, rows)
        again = predict(model, evaluation_batches(store, rows, torch.device("cpu")), "fp32", True)
        assert np.allclose(again, probabilities_of(predictions.query("split == @part")), atol=1e-6)


def test_environment_of_a_run(layout, reference):
    noted = json.loads((reference / "env.json").read_text())
    assert noted["weights_sha256"] == sha256(reference / "model.safetensors")
    assert noted["params_digest"] == digest(tiny_params(**PARAMS).run("faces", "full"))
    assert noted["code_digest"] == code_digest(
        "transfer.training.run", "transfer.models.transfer", "transfer.losses.cross_entropy"
    )
    assert len(noted["seconds_per_epoch"]) == EPOCHS
    assert noted["training_images_per_epoch"] == 24  # 27 in the plan, batches of 8
    assert (noted["device"], noted["precision"], noted["threads"]) == ("cpu", "fp32", 1)
    assert noted["deterministic"] is True
    assert noted["evaluation"] == digest_test_faces(pd.read_parquet(layout.data("faces") / "aligned.parquet"))
    assert noted["evaluation"]["images"] == sum(COUNTS["test"])
    assert noted["params"] == tiny_params(**PARAMS).run("faces", "full").model_dump(mode="json")
    assert noted["protocols"] == ["last", "val_selected", "test_selected"]
    assert re.fullmatch("[0-9a-f]{12}", noted["digest"])
    assert 0 <= time.time() - noted["ended"] < 3600


def test_one_protocol_alone_keeps_its_own_weights(copy):
    params = tiny_params(protocols=["last"], train={"epochs": 2})
    train(params, "faces", "baseline", 0, copy)
    predictions = read_predictions(copy.run("faces", "baseline", 0) / "predictions.parquet")
    assert predictions["protocol"].unique().tolist() == ["last"]
    model, about = load_model(copy.run("faces", "baseline", 0) / "model.safetensors")
    assert (about["protocol"], about["epoch"]) == ("last", 2)
    assert "test_accuracy" not in pd.read_csv(copy.run("faces", "baseline", 0) / "history.csv")
    rows = predictions.query("split == 'val'")
    split = pd.read_parquet(copy.data("faces") / "split.parquet").query("split == 'val'")["row"].to_numpy()
    store = FaceStore(copy.data("faces") / "aligned.npy", 16, split)
    again = predict(model, evaluation_batches(store, split, torch.device("cpu")), "fp32", False)
    assert np.allclose(again, probabilities_of(rows), atol=1e-6)


def test_the_selection_on_the_test_part_alone_keeps_the_last_weights(copy):
    train(tiny_params(protocols=["test_selected"], train={"epochs": 2}), "faces", "baseline", 0, copy)
    assert load_model(copy.run("faces", "baseline", 0) / "model.safetensors")[1]["protocol"] == "last"


def test_ties_go_to_the_first_epoch(copy, monkeypatch):
    accuracies = iter([1, 3, 3, 2, 3])
    data = pd.read_parquet(copy.data("faces") / "split.parquet")

    def scripted(model, batches, precision, hflip_tta):
        split = data.query("split == @name", local_dict={"name": "val" if next(parts) else "test"})
        labels = split.sort_values("row")["label"].to_numpy()
        right = np.arange(len(labels)) < (next(accuracies) if len(labels) == sum(COUNTS["val"]) else 1)
        return np.eye(3, dtype=np.float32)[np.where(right, labels, (labels + 1) % 3)]

    # Validation in every epoch; test where validation was better, and in the last epoch.
    parts = iter([True, False, True, False, True, True, True, False])
    monkeypatch.setattr(run, "predict", scripted)
    params = tiny_params(protocols=["last", "val_selected"], train={"epochs": 5})
    train(params, "faces", "baseline", 0, copy)
    predictions = read_predictions(copy.run("faces", "baseline", 0) / "predictions.parquet")
    assert predictions.groupby("protocol")["epoch"].first().to_dict() == {"last": 5, "val_selected": 2}
    assert list(accuracies) == [] and list(parts) == []


# --- the seed ---


def test_a_seed_fixes_every_bit(layout, reference, copy):
    torch.manual_seed(12345)
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")


def test_another_seed_is_another_run(layout, reference, copy):
    train(tiny_params(**PARAMS), "faces", "full", 1, copy)
    other = contents(copy, "full", 1)
    assert all(other[name] != content for name, content in contents(layout, "full").items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_seed_fixes_every_bit_with_several_threads(copy, tmp_path, precision):
    params = tiny_params(train={"epochs": 2, "threads": 3, "precision": precision}, model={"img_size": 32})
    found = []
    try:
        for _ in range(3):
            train(params, "faces", "full", 0, copy)
            assert torch.get_num_threads() == 3
            found.append(contents(copy, "full"))
    finally:
        torch.set_num_threads(1)
    assert found[0] == found[1] == found[2]


def test_dropping_has_a_stream_of_its_own(copy, monkeypatch):
    """Runs that drop more, or other things, still see the same batches; the batches are really trained on."""
    seen, train_epoch = [], run.train_epoch

    def recording(model, optimizer, batches, *rest):
        def recorded():
            for images, targets, rows in batches:
                seen.append(images.clone())
                yield images, targets, rows

        return train_epoch(model, optimizer, recorded(), *rest)

    monkeypatch.setattr(run, "train_epoch", recording)
    weights = []
    for rates in ({"mad": 0.0, "msad": 0.0}, {"mad": 0.9, "msad": 0.5}, {"msad": 0.5, "msad_mode": "token"}):
        found = fit(tiny_params(model={"args": rates}, train={"epochs": 2}), "faces", "full", 0, copy)
        weights.append(found.model.head.weight.detach())
    one, two, three = seen[:6], seen[6:12], seen[12:]
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(one, two, three, strict=True))
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_every_step_drops_anew(copy, monkeypatch):
    masks = []
    keep = dropping.keep_all_but_one
    monkeypatch.setattr(dropping, "keep_all_but_one", lambda *args: masks.append(keep(*args)) or masks[-1])
    fit(tiny_params(train={"epochs": 2}, model={"args": {"mad": 1.0}}), "faces", "full", 0, copy)
    by_step = {mask.flatten().numpy().tobytes() for mask in masks[::3]}  # MAD and two blocks with MSAD
    assert len(masks) == 18 and len(by_step) > 3  # of 2 ** 8


def test_recipes_start_from_the_same_weights_and_see_the_same_batches(copy, monkeypatch):
    seen = []

    def record(model, optimizer, batches, *rest):
        seen.append([(images.clone(), targets) for images, targets, _ in batches])
        return 1.0, 0.0

    monkeypatch.setattr(run, "train_epoch", record)
    weights = []

    class Start(Listener):
        def on_start(self, run):
            weights.append({name: value.clone() for name, value in run.model.state_dict().items()})

    for recipe in ("baseline", "full"):
        fit(tiny_params(train={"epochs": 2}), "faces", recipe, 0, copy, listeners=[Start()])
    baseline, full = weights
    assert set(baseline) < set(full) and all(torch.equal(value, full[name]) for name, value in baseline.items())
    assert all(name.startswith("local_cnns.") for name in set(full) - set(baseline))
    for ours, theirs in zip(seen[:2], seen[2:], strict=True):
        for (images, targets), (other_images, other_targets) in zip(ours, theirs, strict=True):
            assert torch.equal(images, other_images) and torch.equal(targets, other_targets)
    assert not torch.equal(seen[0][0][0], seen[1][0][0])  # another epoch, other batches


# --- resuming ---


@pytest.mark.parametrize("epoch", [1, EPOCHS - 1])
def test_an_interrupted_training_ends_with_the_same_bits(layout, reference, copy, monkeypatch, epoch):
    with monkeypatch.context() as patch:
        interrupt(patch, epoch)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert not copy.run("faces", "full", 0).exists()
    assert [file.name for file in copy.state("faces", "full", 0).iterdir()] == ["last.pt"]
    found = fit(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert len(found.history) == EPOCHS and len(found.seconds) == EPOCHS
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")
    assert not copy.state("faces", "full", 0).exists()


def test_killed_between_the_last_epoch_and_the_outputs(layout, reference, copy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    interrupt(monkeypatch, 0, AssertionError)  # no epoch is trained again
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")


def test_a_kept_state_writes_the_outputs_again_without_training(layout, reference, copy, monkeypatch):
    """As after a kill that came when the outputs were written, and Snakemake had them deleted."""
    train(tiny_params(**PARAMS), "faces", "full", 0, copy, keep_state=True)
    assert [file.name for file in copy.state("faces", "full", 0).iterdir()] == ["last.pt"]
    shutil.rmtree(copy.run("faces", "full", 0))
    monkeypatch.setattr(run, "train_epoch", None)
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")
    assert not copy.state("faces", "full", 0).exists()


def test_a_damaged_state_starts_over(layout, reference, copy, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    state_file = copy.state("faces", "full", 0) / "last.pt"
    state_file.write_bytes(state_file.read_bytes()[:-1000])
    capsys.readouterr()
    assert resumed_epochs(tiny_params(**PARAMS), copy) == 0
    assert capsys.readouterr().err.count("damaged resume state") == 1
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")


@pytest.mark.parametrize("what", ["parameters", "data", "protocols"])
def test_the_state_of_another_run_starts_over(copy, monkeypatch, capsys, what):
    params = tiny_params(train={"epochs": 2})
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(params, "faces", "full", 0, copy)
    if what == "parameters":
        params = tiny_params(train={"epochs": 2, "lr": 0.03})
    elif what == "protocols":
        params = tiny_params(train={"epochs": 2}, protocols=["last"])
    else:
        np.save(copy.plan("faces", "full"), np.load(copy.plan("faces", "full"))[:-1])
    assert resumed_epochs(params, copy) == 0
    assert f"resume state of another run (other {what})" in capsys.readouterr().err


def test_the_state_of_another_recipe_is_named(copy, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        interrupt(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_params(), "faces", "baseline", 0, copy)
    shutil.copytree(copy.state("faces", "baseline", 0), copy.state("faces", "full", 0))
    capsys.readouterr()
    assert resumed_epochs(tiny_params(), copy) == 0
    said = "resume state of another run (recipe baseline instead of full, other parameters); the run starts over"
    assert capsys.readouterr().err.endswith(f"{said}\n")


def test_threads_and_device_do_not_make_another_run(layout):
    changes = [{}, {"threads": 2}, {"gpus": 4}, {"jobs_per_device": 2}]
    found = [run_identity(tiny_params(train=change), "faces", "full", 0, layout) for change in changes]
    assert all(identity == found[0] for identity in found)


def test_a_full_disk_keeps_the_state_before_it(layout, reference, copy, monkeypatch):
    whole, calls = torch.save, []

    def failing(content, path):
        calls.append(path)
        whole(content, path)
        if len(calls) == 3:
            os.truncate(path, os.path.getsize(path) // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state.torch, "save", failing)
        with pytest.raises(UserError, match="No space left on device.*make room") as caught:
            train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert "\n" not in str(caught.value)
    state_file = copy.state("faces", "full", 0) / "last.pt"
    assert len(torch.load(state_file, weights_only=True)["history"]) == 2
    assert [file.name for file in state_file.parent.iterdir()] == ["last.pt"]
    train(tiny_params(**PARAMS), "faces", "full", 0, copy)
    assert contents(copy, "full") == contents(layout, "full")


def test_a_diverging_training_keeps_its_last_good_epoch(copy, monkeypatch):
    cross_entropy, steps = losses.cross_entropy, []

    def diverging(*args, **kwargs):
        steps.append(1)
        return cross_entropy(*args, **kwargs) * (float("nan") if len(steps) > 4 else 1)

    monkeypatch.setattr(losses, "cross_entropy", diverging)
    with pytest.raises(UserError, match=r"finite in epoch 2, step 2 of 3, learning rate 0\.0\d+: loss nan, gradient"):
        train(tiny_params(), "faces", "baseline", 0, copy)
    assert len(steps) == 5  # on the CPU it stops at the step
    kept = torch.load(copy.state("faces", "baseline", 0) / "last.pt", weights_only=True)
    assert len(kept["history"]) == 1 and all(value.isfinite().all() for value in kept["model"].values())
    assert not copy.run("faces", "baseline", 0).exists()


def test_weights_that_break_in_the_last_step_are_no_good_epoch(copy, monkeypatch):
    train_epoch = run.train_epoch

    def breaking(model, optimizer, batches, meter, *rest):
        result = train_epoch(model, optimizer, batches, meter, *rest)
        if meter.epoch == 1:
            torch.nn.init.constant_(model.head.weight, math.nan)
        return result

    monkeypatch.setattr(run, "train_epoch", breaking)
    said = r"validation loss is no longer finite after epoch 2, step 3 of 3, learning rate 0\.0\d+: loss \d.*, gradient"
    with pytest.raises(UserError, match=said):
        train(tiny_params(), "faces", "baseline", 0, copy)
    kept = torch.load(copy.state("faces", "baseline", 0) / "last.pt", weights_only=True)
    assert len(kept["history"]) == 1 and all(value.isfinite().all() for value in kept["model"].values())


# --- votes ---


def test_votes_become_soft_targets(tmp_path):
    layout = tiny_dataset(tmp_path, votes=True)
    params = tiny_params(train={"epochs": 1, "targets": "soft_labels"})
    data = load_data(params.run("faces", "baseline"), "faces", layout, ["val", "test"])
    index = pd.read_parquet(layout.data("faces") / "index.parquet").set_index("sample")
    for row in (0, 7, 30):
        votes = index.loc[data.samples[row], [f"vote_{name}" for name in CLASSES]].to_numpy(float)
        assert np.allclose(data.targets[row], votes / votes.sum())  # "unknown" has no part in it
    assert data.targets.dtype == torch.float32
    assert (data.targets.argmax(dim=1).numpy() == data.labels).all()
    train(params, "faces", "baseline", 0, layout)
    assert set(OUTPUTS) == {file.name for file in layout.run("faces", "baseline", 0).iterdir()}


def test_other_votes_are_other_data(tmp_path):
    layout = tiny_dataset(tmp_path, votes=True)
    by_target = {}
    for targets in ("label", "soft_labels"):
        params = tiny_params(train={"targets": targets})
        by_target[targets] = [run_identity(params, "faces", "baseline", 0, layout)]
    index = pd.read_parquet(layout.data("faces") / "index.parquet")
    index["vote_sad"] += 1
    index.to_parquet(layout.data("faces") / "index.parquet", index=False)
    for targets, digests in by_target.items():
        params = tiny_params(train={"targets": targets})
        digests.append(run_identity(params, "faces", "baseline", 0, layout))
    assert by_target["label"][0] == by_target["label"][1]
    assert by_target["soft_labels"][0] != by_target["soft_labels"][1]


@pytest.mark.parametrize("rule", ["argmax", "majority"])
def test_a_labelled_face_has_votes_for_its_class(rule):
    """So that the division by the sum of the classes' votes is never one by zero."""
    votes = np.random.default_rng(0).integers(0, 4, (2000, 10))
    votes[:50] = 0
    votes[50:100, :8] = 0
    labels = label_votes(votes, rule)
    assert (votes[labels >= 0, :8].sum(axis=1) > 0).all() and (labels[:100] == -1).all() and (labels >= 0).any()


def test_votes_asked_for_where_there_are_none(layout):
    with pytest.raises(UserError, match="train.targets: faces has no votes; use label"):
        fit(tiny_params(train={"targets": "soft_labels"}), "faces", "baseline", 0, layout)


# --- what is refused before time is spent ---


def test_a_class_without_training_images(copy):
    labels = pd.read_parquet(copy.data("faces") / "split.parquet")["label"].to_numpy()
    plan = np.load(copy.plan("faces", "full"))
    np.save(copy.plan("faces", "full"), plan[labels[plan] != 1])
    with pytest.raises(UserError, match="plan_full.npy: no training image of sad; every class needs at least one"):
        fit(tiny_params(), "faces", "baseline", 0, copy)


def test_a_store_that_is_not_the_one_that_was_aligned(copy):
    path = copy.data("faces") / "aligned.npy"
    row = int(np.flatnonzero(pd.read_parquet(copy.data("faces") / "aligned.parquet")["split"] == "test")[0])
    pixels = np.load(path)
    pixels[row, 0, 0, 0] ^= 1
    np.save(path, pixels)
    with pytest.raises(UserError, match=rf"aligned\.npy, row {row} \(face0\d\d\): not the face that was aligned"):
        fit(tiny_params(), "faces", "baseline", 0, copy)


def test_a_class_without_any_image(copy):
    for name in ("aligned", "split"):
        table = pd.read_parquet(copy.data("faces") / f"{name}.parquet")
        table["label"] = table["label"].replace(1, 2)
        if name == "aligned":
            table["class_name"] = table["class_name"].replace("sad", "neutral")
        table.to_parquet(copy.data("faces") / f"{name}.parquet", index=False)
    with pytest.raises(UserError, match="no training image of label 1;"):
        fit(tiny_params(), "faces", "baseline", 0, copy)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_dataset_without_validation_or_test_images(copy, part):
    split = pd.read_parquet(copy.data("faces") / "split.parquet")
    split[split["split"] != part].to_parquet(copy.data("faces") / "split.parquet", index=False)
    with pytest.raises(UserError, match=f"split.parquet: no {part} images"):
        fit(tiny_params(), "faces", "baseline", 0, copy)


@pytest.mark.parametrize("name", ["transfer_huge", "resnet50"])
def test_a_model_that_does_not_exist_or_is_none_of_ours(layout, name):
    with pytest.raises(UserError, match="unknown model") as caught:
        fit(tiny_params(model={"name": name}), "faces", "baseline", 0, layout)
    assert "\n" not in str(caught.value)


def test_an_image_size_that_the_stem_does_not_divide(layout):
    with pytest.raises(UserError, match="^model transfer_tiny: img_size must be a multiple of 8"):
        fit(tiny_params(model={"img_size": 20}), "faces", "baseline", 0, layout)


def test_mad_with_one_lanet_is_refused():
    with pytest.raises(ValueError, match="needs num_lanets >= 2") as caught:
        tiny_params(model={"args": {"num_lanets": 1}})
    assert isinstance(caught.value.errors()[0]["ctx"]["error"], ParamsError)


def test_cuda_asked_for_where_there_is_none(layout, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="train.device: cuda, but torch sees no"):
        fit(tiny_params(train={"device": "cuda"}), "faces", "baseline", 0, layout)


# --- listeners ---


class Recorder(Listener):
    def __init__(self, raises=None):
        self.heard, self.raises = [], raises

    def on_start(self, run):
        self.heard.append(("start", len(run.history)))

    def on_epoch(self, row):
        self.heard.append(row["epoch"])
        if self.raises and row["epoch"] == 2:
            raise self.raises

    def on_end(self, status):
        self.heard.append(status)


def test_listeners_hear_of_a_run(copy):
    listener = Recorder()
    train(tiny_params(), "faces", "baseline", 0, copy, listeners=[listener])
    assert listener.heard == [("start", 0), 1, 2, 3, "FINISHED"]


def test_a_listener_can_end_a_run_which_stays_resumable(copy):
    class Pruned(Exception):
        pass

    first, second = Recorder(Pruned()), Recorder()
    with pytest.raises(Pruned):
        fit(tiny_params(), "faces", "baseline", 0, copy, listeners=[first, second])
    assert first.heard == [("start", 0), 1, 2, "KILLED"] and second.heard == [("start", 0), 1, "KILLED"]
    listener = Recorder()
    fit(tiny_params(), "faces", "baseline", 0, copy, listeners=[listener])
    assert listener.heard == [("start", 2), 3, "FINISHED"]


def test_listeners_hear_of_failures_and_signals(copy, monkeypatch):
    for error, status in ((OSError("gone"), "FAILED"), (Stopped(15), "STOPPED")):
        listener = Recorder()
        with monkeypatch.context() as patch:
            interrupt(patch, 1, error)
            with pytest.raises(type(error)):
                fit(tiny_params(), "faces", "full", 0, copy, listeners=[listener])
        assert listener.heard[-1] == status


def test_without_the_test_split_none_of_its_rows_is_known(copy):
    params = tiny_params(protocols=["val_selected"])
    found = fit(params, "faces", "full", 0, copy, splits=["val"], state_dir=copy.root / "elsewhere")
    split = pd.read_parquet(copy.data("faces") / "split.parquet")
    test = split.loc[split["split"] == "test", "row"]
    assert set(found.data.rows) == {"train", "val"}
    known = test[test < len(found.data.labels)]
    assert (found.data.labels[known] == -1).all() and pd.isna(found.data.samples[known]).all()
    assert (copy.root / "elsewhere" / "last.pt").exists() and not copy.run("faces", "full", 0).exists()
    assert found.history[0]["val_accuracy"] >= 0 and "test_accuracy" not in found.history[0]


def test_importing_the_training_imports_nothing_heavy():
    heavy = ["timm", "torchvision", "mlflow", "torch._dynamo", "sympy", "matplotlib", "scipy", "torchmetrics", "optuna"]
    code = f"import sys, transfer.training.run; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
