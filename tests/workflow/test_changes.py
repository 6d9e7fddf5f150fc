"""What counts as changed in a user's files: what the bytes say, whatever dates, links and file managers do."""

import os
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from transfer.datasets.synthetic.archives import write_archive

pytestmark = pytest.mark.workflow

PARAMS = """
experiment: changes
datasets: [d]
recipes: [baseline]
baseline: baseline
seeds: [0]
tracking: false
dataset_definitions:
  d: {parser: rafdb, archive: mine, expect: any}
"""
DATA = "results/changes/data/d"
SPLIT = f"{DATA}/split.parquet"
STEPS = {"index_dataset": 1, "detect_faces": 1, "align_faces": 1, "sample_faces": 1}
LABELS = "EmoLabel/list_patition_label.txt"


@pytest.fixture(scope="module")
def prepared(sources, tmp_path_factory):
    """A checkout with an unpacked RAF-DB of synthetic faces, prepared up to the split; not to be changed."""
    from repository import Repository

    root = shutil.copytree(sources, tmp_path_factory.mktemp("changes") / "repository")
    archive = root / "data/raw/drawn.zip"
    write_archive("rafdb", archive, seed=1, scale=0.1)
    with zipfile.ZipFile(archive) as drawn:
        drawn.extractall(root / "data/raw/mine")
    archive.unlink()
    (root / "changes.yaml").write_text(PARAMS)
    repository = Repository(root, "--configfile", "changes.yaml")
    done = repository.snakemake(SPLIT)
    assert done.returncode == 0, done.stdout
    return repository


@pytest.fixture
def mine(prepared, tmp_path):
    """A copy of it: archives, results and what Snakemake has noted, all with their dates."""
    from repository import Repository

    return Repository(shutil.copytree(prepared.root, tmp_path / "copy", symlinks=True), *prepared.options)


def labels_of(root: Path) -> Path:
    (found,) = (root / "data/raw").rglob(Path(LABELS).name)
    return found


def exchange(labels: Path) -> None:
    """Exchange labels 1 and 7 in place: the same size, the same date."""
    before = labels.stat()
    text = labels.read_text()
    labels.write_text(text.replace(" 1\n", " x\n").replace(" 7\n", " 1\n").replace(" x\n", " 7\n"))
    assert labels.stat().st_size == before.st_size
    os.utime(labels, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_labels_corrected_in_place_are_read_again(mine):
    assert mine.scheduled(SPLIT) == {}
    index = mine.root / DATA / "index.parquet"
    before = pd.read_parquet(index).set_index("sample")["label"]
    exchange(labels_of(mine.root))
    dry = mine.snakemake(SPLIT, "--dry-run")
    assert "changed since results/changes/data/d/index.parquet was made: data/raw/mine: " in dry.stdout
    assert Path(LABELS).name in dry.stdout.split("was made: ")[1].splitlines()[0]
    assert mine.scheduled(SPLIT) == STEPS
    done = mine.snakemake(SPLIT)
    assert done.returncode == 0, done.stdout
    after = pd.read_parquet(index).set_index("sample")["label"]
    assert (after[before.index] == before.replace({0: 6, 6: 0})).all()
    assert mine.scheduled(SPLIT) == {}


def test_pictures_replaced_after_detection_are_detected_again(mine):
    from PIL import Image

    for name in ("aligned.npy", "aligned.parquet", "evaluation.csv", "split.parquet"):
        (mine.root / DATA / name).unlink()
    pictures = sorted((mine.root / "data/raw/mine").rglob("*.jpg"))
    for path in pictures:
        before = path.stat()
        Image.open(path).resize((64, 64)).save(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    by_hand = mine.process("python", "-m", "transfer", "align", "--params", "changes.yaml", "--dataset", "d")
    assert by_hand.returncode == 1 and "changed since results/changes/data/d/index.parquet was made" in by_hand.stdout
    assert mine.scheduled(SPLIT) == STEPS


def test_an_archive_replaced_by_one_with_an_older_date_is_read_again_and_a_newer_date_alone_changes_nothing(mine):
    raw = mine.root / "data/raw"
    folder = raw / "mine"
    shutil.make_archive(str(raw / "first"), "zip", folder)
    exchange(labels_of(mine.root))
    shutil.make_archive(str(raw / "corrected"), "zip", folder)
    shutil.rmtree(folder)
    (raw / "first.zip").rename(raw / "mine.zip")
    done = mine.snakemake(SPLIT)
    assert done.returncode == 0, done.stdout
    os.utime(raw / "mine.zip")
    os.utime(raw / "mine.zip", (4e9, 4e9))
    assert mine.scheduled(SPLIT) == {}
    os.utime(raw / "corrected.zip", (1e9, 1e9))
    shutil.copy2(raw / "corrected.zip", raw / "mine.zip")
    assert mine.scheduled(SPLIT) == STEPS


def test_a_7z_is_unpacked_for_a_workflow_and_gone_after_it(mine):
    import py7zr

    raw = mine.root / "data/raw"
    exchange(labels_of(mine.root))
    with py7zr.SevenZipFile(raw / "mine.7z", "w") as archive:
        archive.writeall(raw / "mine", "mine")
    shutil.rmtree(raw / "mine")
    dry = mine.snakemake(SPLIT, "--dry-run")
    assert "changed since" not in dry.stdout.replace("mine.7z", "") and mine.scheduled(SPLIT) == STEPS
    done = mine.snakemake(SPLIT)
    assert done.returncode == 0, done.stdout
    assert not (mine.root / ".snakemake/unpacked").exists() and mine.scheduled(SPLIT) == {}


def test_what_file_managers_leave_and_dates_and_another_place_change_nothing(mine):
    folder = mine.root / "data/raw/mine"
    for name in (".DS_Store", "Image/Thumbs.db", "Image/._train.jpg", "__MACOSX/._x"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("junk")
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (4e9, 4e9))
    assert mine.scheduled(SPLIT) == {}
    folder.rename(mine.root.parent / "moved")
    folder.symlink_to(mine.root.parent / "moved")
    assert mine.scheduled(SPLIT) == {}
    folder.unlink()
    assert mine.scheduled(SPLIT, "--config", f"raw_dir={elsewhere(mine.root.parent)}") == {}


def elsewhere(parent: Path) -> Path:
    (parent / "elsewhere").mkdir()
    (parent / "moved").rename(parent / "elsewhere/mine")
    return parent / "elsewhere"


def test_an_archive_dated_in_the_future_works(mine):
    for path in (mine.root / "data/raw/mine").rglob("*"):
        os.utime(path, (4e9, 4e9))
    exchange(labels_of(mine.root))
    os.utime(labels_of(mine.root), (4e9, 4e9))
    done = mine.snakemake(SPLIT)
    assert done.returncode == 0 and "modification time" not in done.stdout, done.stdout
    assert mine.scheduled(SPLIT) == {}
