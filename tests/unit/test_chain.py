"""Digests of files and folders by their content, and the chain that ties every file to what it was made from."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_training import tiny_dataset, tiny_params

from transfer.layout import Layout
from transfer.utils import digests
from transfer.utils.chain import Chain
from transfer.utils.digests import contents, file_digest
from transfer.utils.errors import UserError
from transfer.utils.files import write_text


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set/a").mkdir(parents=True)
    for name in ("labels.txt", "a/1.jpg", "a/2.jpg"):
        (tmp_path / "set" / name).write_text(name)
    return tmp_path / "set"


def unread(monkeypatch, call):
    """The files that ``call`` reads to digest them."""
    read = []
    with monkeypatch.context() as patched:
        patched.setattr(digests, "sha256", lambda path: read.append(Path(path).name) or "0" * 64)
        call()
    return read


def settle(*paths):
    """Let the clock of the file system move on: what was written within one of its steps is read again."""
    newest = max(path.stat().st_ctime_ns for path in paths)
    while time.time_ns() - newest <= 2 * digests._TICK_NS:
        pass


def test_names_and_bytes_count_and_nothing_else(folder):
    before = contents(folder)
    assert [line.rpartition(" ")[0] for line in before] == ["a/1.jpg", "a/2.jpg", "labels.txt"]
    for path in folder.rglob("*"):
        os.utime(path, (4e9, 4e9))
    for name in (".DS_Store", "a/._1.jpg", "a/Thumbs.db", "__MACOSX/a/1.jpg", "a/desktop.ini"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("junk")
    (folder / "a/nowhere").symlink_to("missing")
    (folder / "a/around").symlink_to("..")
    assert contents(folder) == before
    assert contents(Path(shutil.move(folder, "elsewhere"))) == before
    Path("link").symlink_to("elsewhere")
    assert contents(Path("link")) == before
    Path("elsewhere/a/1.jpg").rename("elsewhere/a/3.jpg")
    assert contents(Path("link")) != before


def test_an_edit_in_place_with_the_old_size_and_date_counts(folder):
    labels = folder / "labels.txt"
    settle(labels)
    before, date = contents(folder), labels.stat()
    labels.write_text("LABELS.txt")
    os.utime(labels, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert {*contents(folder)} ^ {*before} == {line for line in [*before, *contents(folder)] if "labels" in line}


def test_only_files_that_changed_are_read_again(folder, monkeypatch):
    settle(*folder.rglob("*"))
    contents(folder)
    assert unread(monkeypatch, lambda: contents(folder)) == []
    (folder / "a/2.jpg").write_text("other")
    assert unread(monkeypatch, lambda: contents(folder)) == ["2.jpg"]
    (next(Path(".snakemake/digests").iterdir())).write_bytes(b"\xff damaged")
    assert unread(monkeypatch, lambda: contents(folder)) == ["1.jpg", "2.jpg", "labels.txt"]


def test_a_file_written_a_moment_ago_is_not_trusted(folder, monkeypatch):
    """Another write may follow within the same step of the file system's clock, and change neither size nor time."""
    monkeypatch.setattr(digests, "_TICK_NS", 10**12)
    contents(folder)
    monkeypatch.setattr(digests, "sha256", lambda path: "0" * 64)
    assert all(line.endswith(" " + "0" * 16) for line in contents(folder))


def test_many_files_are_a_line_for_each_folder_and_suffix_and_many_folders_one(folder):
    for number in range(600):
        path = folder / f"b/{number % 50}/{number}.{'jpg' if number % 2 else 'npy'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    lines = contents(folder)
    assert [line.rpartition(" ")[0] for line in lines] == [
        *("a/1.jpg", "a/2.jpg", "b/*.jpg (300 files)", "b/*.npy (300 files)", "labels.txt"),
    ]
    (folder / "b/7/7.jpg").write_bytes(b"x")
    assert [line.rpartition(" ")[0] for line in {*contents(folder)} - {*lines}] == ["b/*.jpg (300 files)"]


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "large.npy"
    path.write_bytes(bytes(2 << 20))
    settle(path)
    digest = file_digest(path)
    assert unread(monkeypatch, lambda: file_digest(path)) == []
    with open(path, "r+b") as handle:  # one bit
        handle.seek(1 << 20)
        handle.write(b"\x01")
    assert file_digest(path) != digest


@pytest.fixture
def trained(tmp_path):
    """A dataset and a run of it, noted as the verbs do."""
    from transfer.runs.metrics import evaluate
    from transfer.training.run import train

    layout = tiny_dataset(tmp_path / "results")
    params, data = tiny_params(train={"epochs": 1}), layout.data("faces")
    (data / "evaluation.csv").write_text("sample,split\n")
    chain = layout.chain
    chain.note([data / "index.parquet"])
    chain.note([data / name for name in ("aligned.npy", "aligned.parquet", "evaluation.csv")], [data / "index.parquet"])
    chain.note([data / "split.parquet", *data.glob("plan_*.npy")], [data / "aligned.parquet"])
    train(params, "faces", "baseline", 0, layout)
    run = layout.run("faces", "baseline", 0)
    evaluate(run, experiment=params.experiment, dataset="faces", recipe="baseline", seed=0)
    chain.note([run / "metrics.json"], [run / "predictions.parquet"])
    return params, layout


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def edit_split(path: Path) -> None:
    split = pd.read_parquet(path)
    split.loc[split.index[split["split"] == "train"][:3], "split"] = "test"
    split.to_parquet(path, index=False)


EDITS = {
    "data/faces/aligned.npy": flip,
    "data/faces/split.parquet": edit_split,
    "data/faces/evaluation.csv": lambda path: path.write_text("sample,split\nface001,test\n"),
    "runs/faces/baseline/seed0/predictions.parquet": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "runs/faces/baseline/seed0/history.csv": lambda path: path.write_text(path.read_text().replace("1", "2")),
    "runs/faces/baseline/seed0/env.json": lambda path: path.write_text(path.read_text() + "\n"),
}


@pytest.mark.usefixtures("one_thread")
def test_no_table_from_files_that_were_edited_or_do_not_belong_together(trained):
    from transfer.runs.read import read_runs

    params, layout = trained

    def table():
        wanted = [("faces", "baseline", 0)]
        return read_runs(layout.root / "runs", wanted, ["last"], experiment=params.experiment)

    table()
    assert layout.chain.verify("raw") == ([], [])
    for name, edit in EDITS.items():
        path = layout.root / name
        before = path.read_bytes()
        edit(path)
        with pytest.raises(UserError, match="not what was written|not computed from the present predictions") as error:
            table()
        assert "\n" not in str(error.value)
        assert [line.split(":")[0] for line in layout.chain.verify("raw")[0]] == [str(path)]
        path.write_bytes(before)
    table()
    # split again, as the verb does: the file is whole, but the run was trained on another
    split = layout.data("faces") / "split.parquet"
    edit_split(split)
    layout.chain.note([split], [layout.data("faces") / "aligned.parquet"])
    with pytest.raises(UserError, match=rf"made from another {split}; delete it and run: snakemake"):
        table()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["aligned.npy", "split.parquet", "plan_full.npy"])
def test_no_training_on_damaged_data(tmp_path, name):
    from transfer.training.run import train

    layout = tiny_dataset(tmp_path / "results")
    data, chain = layout.data("faces"), layout.chain
    chain.note([data / name for name in ("aligned.npy", "aligned.parquet")])
    chain.note([data / "split.parquet", *data.glob("plan_*.npy")], [data / "aligned.parquet"])
    if name == "aligned.npy":  # a bit of a training face
        pixels = np.load(data / name, mmap_mode="r+")
        pixels[int(pd.read_parquet(data / "split.parquet").query("split == 'train'")["row"].iloc[0]), 0, 0, 0] ^= 1
        pixels.flush()
    else:
        flip(data / name)
    with pytest.raises(UserError, match=f"{name}: not what was written"):
        train(tiny_params(train={"epochs": 1}), "faces", "baseline", 0, layout)
    assert not layout.run("faces", "baseline", 0).exists()


def test_a_raw_file_that_changed_is_named(folder):
    layout = Layout("tiny")
    index = layout.data("d") / "index.parquet"
    index.parent.mkdir(parents=True)
    index.write_text("index")
    layout.chain.note([index], raw=[folder], raw_dir=folder.parent)
    assert layout.chain.changed(index, {folder: contents(folder)}, folder.parent) == []
    (folder / "labels.txt").write_text("corrected")
    with pytest.raises(
        UserError, match=r"set: labels.txt: changed since results/tiny/data/d/index.parquet was made; run"
    ):
        layout.chain.check_raw(index, [folder], folder.parent)
    assert layout.chain.verify(folder.parent)[0] == [
        f"{index}: made before {folder}: labels.txt changed; run: snakemake --cores all {index}"
    ]


def test_what_a_step_wrote_without_a_note_was_made_from_all_that_it_checked(tmp_path):
    chain, results = Chain(tmp_path / "x"), tmp_path / "x"
    write_text(results / "data/d/index.csv", "1")
    chain.note([results / "data/d/index.csv"])
    chain.check(results / "data/d/index.csv")
    for path in (results / "figures/a.svg", results / "state/d/last.txt", tmp_path / "elsewhere.txt"):
        write_text(path, "2")
    chain.note_rest()
    assert Chain(results).verify(tmp_path) == ([], [])
    assert sorted(path.name for path in (results / "chain").rglob("*.json")) == ["a.svg.json", "index.csv.json"]
    write_text(results / "data/d/index.csv", "3")
    Chain(results).note([results / "data/d/index.csv"])
    assert f"{results}/figures/a.svg: made from another" in Chain(results).verify(tmp_path)[0][0]


def test_a_damaged_note_is_one_line(tmp_path):
    path = tmp_path / "x/data/d/index.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("")
    Chain(tmp_path / "x").note([path])
    (tmp_path / "x/chain/data/d/index.parquet.json").write_text("[]")
    with pytest.raises(UserError, match=r"index.parquet.json: damaged; delete it"):
        Chain(tmp_path / "x").check(path)
