"""The leak audit of the smallest experiment, and the option that leaves training copies out."""

import io
import tarfile

import pandas as pd
import pytest

pytestmark = pytest.mark.workflow

DATASET = "demo_ferplus"
ARCHIVE = "data/raw/demo_ferplus.tar.gz"
ONE = ("--config", f"datasets=[{DATASET}]")
DATA = f"results/smallest/data/{DATASET}"


def add_copies(archive, n):
    """Put the pixels of the first ``n`` test faces into as many training images; returns the names of both."""
    with tarfile.open(archive) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar.getmembers() if member.isfile()}
    pngs = sorted(name for name in contents if name.endswith(".png"))
    train, test = ([name for name in pngs if folder in name][:n] for folder in ("FER2013Train", "FER2013Test"))
    contents |= {copy: contents[face] for copy, face in zip(train, test, strict=True)}
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return [[name.rpartition("/")[2].removesuffix(".png") for name in names] for names in (train, test)]


def test_audit_and_option(smallest):
    """Nothing is detected or trained for the audit; with the option the copies leave the training split alone."""
    done = smallest.snakemake(ARCHIVE, *ONE)
    assert done.returncode == 0, done.stdout
    train, test = add_copies(smallest.root / ARCHIVE, 4)

    jobs = {"index_dataset": 1, "hash_images": 1, "find_duplicates": 1, "audit_copies": 1, "audit": 1}
    assert smallest.scheduled("audit", *ONE) == jobs
    done = smallest.snakemake("audit", *ONE)
    assert done.returncode == 0, done.stdout
    folder = smallest.root / "results/smallest/audit"
    assert sorted(path.name for path in folder.iterdir()) == ["audit.csv", "audit.md", "duplicates.csv", "pairs.png"]
    pairs = pd.read_csv(folder / "duplicates.csv")
    exact = pairs[pairs["kind"] == "exact"]
    assert set(zip(exact["sample_a"], exact["sample_b"], strict=True)) == set(zip(train, test, strict=True))
    assert smallest.scheduled("audit", *ONE) == {}

    splits = {}
    faces = {"detect_faces": 1, "align_faces": 1}
    for way, first in (("keep", faces), ("drop_exact", {})):
        target = (f"{DATA}/split.parquet", *ONE, f"sampling={{duplicates: {way}}}")
        assert smallest.scheduled(*target) == first | {"sample_faces": 1}
        done = smallest.snakemake(*target)
        assert done.returncode == 0, done.stdout
        splits[way] = pd.read_parquet(smallest.root / target[0]).set_index("sample")["split"]
    kept, dropped = splits["keep"], splits["drop_exact"]
    assert "dropped" not in set(kept)
    assert set(dropped.index[dropped == "dropped"]) == set(train)
    held_out = kept.isin(["val", "test"])
    assert (dropped[held_out] == kept[held_out]).all(), "the parts that are held out are untouched"
    assert (dropped == "train").sum() == (kept == "train").sum() - len(train)
