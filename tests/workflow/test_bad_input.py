"""What is wrong is said in one line, before any job where it can be known then; nothing half-written is left."""

import pytest

pytestmark = pytest.mark.workflow


def errors(done):
    return [line for line in done.stdout.splitlines() if line.startswith("error: ")]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["--configfile", "bad.yaml"], ["bad.yaml:3: train.lr: should be less than or equal to 10, found 1000"]),
        (
            ["--configfile", "params/paper.yaml"],
            [
                "dataset rafdb: rafdb: not found in data/raw (looked for rafdb/, rafdb.zip, rafdb.tar, ",
                "dataset ferplus_majority: ferplus: not found",
                "dataset affectnet7: affectnet: not found",
                "weights ir50_ms1m: data/raw/weights/backbone_ir50_ms1m_epoch120.pth",
            ],
        ),
        (["results/tabel1.csv"], ["target results/tabel1.csv: no rule makes it; did you mean results/table1.csv?"]),
    ],
)
def test_configuration_archives_and_targets_are_checked_before_any_job(fresh, arguments, messages):
    (fresh.root / "bad.yaml").write_text("# my parameters\ntrain:\n  lr: 1000\n")
    done = fresh.snakemake(*arguments)
    assert done.returncode == 1
    found = errors(done)
    assert len(found) == len(messages) and all(map(str.__contains__, found, messages)), found
    for noise in ("Traceback", "Error in", "Exception", "Building DAG", "\nrule "):
        assert noise not in done.stdout
    assert not (fresh.root / "results").exists()
    assert not (fresh.root / "data").exists()


@pytest.mark.parametrize("name", ["demo_rafdb.zip", "demo_ferplus.tar.gz"])
def test_a_truncated_archive_stops_at_its_index(copy, name):
    archive = copy.root / "data/raw" / name
    archive.write_bytes(archive.read_bytes()[:-20000])
    done = copy.snakemake()
    assert done.returncode == 1
    (error,) = set(errors(done))  # the job's log is shown
    assert name in error
    assert "Traceback" not in done.stdout
    data = copy.root / "results/smallest/data" / name.partition(".")[0]
    assert not (data / "index.parquet").exists()
    assert not [path for path in data.iterdir() if ".part" in path.name]
    table = copy.root / "results/smallest/table1.csv"
    assert table.exists(), "what was made before stays"


def test_dry_run_of_the_paper_schedules_its_grid(fresh):
    for name in ("rafdb", "ferplus", "affectnet"):
        (fresh.root / "data/raw" / name).mkdir(parents=True)
    (fresh.root / "data/raw/weights").mkdir()
    for name in ("backbone_ir50_ms1m_epoch120.pth", "vit_small_p16_224-15ec54c9.pth"):
        (fresh.root / "data/raw/weights" / name).touch()
    jobs = fresh.scheduled("--configfile", "params/paper.yaml")
    assert jobs["train_model"] == jobs["evaluate_run"] == 3 * 6 * 5
    once = ("index_dataset", "detect_faces", "align_faces", "inspect_faces", "sample_faces")
    assert [jobs[rule] for rule in once] == [3] * 5
    assert jobs["import_weights"] == 2
    assert "synthesize_archive" not in jobs
    assert not (fresh.root / "results").exists(), "a dry run writes nothing"
