"""Entries of the leaderboard: every fault is found, all at once, and nothing of a stranger's is executed."""

import os
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from boards import FACES, place, tested_faces  # noqa: F401

from transfer.leaderboard import board, checks, entries, tasks
from transfer.utils.errors import UserError

DOCS = entries.Path(__file__).parents[2] / "docs/leaderboard.md"


def faults(place, name: str = "mine") -> list[tuple[str, str]]:  # noqa: F811
    found = board.submissions()
    wrong = board.check_entries(found, [name], tasks.load_tasks(), {}, place.layout)
    return [(check, text) for _, check, text in wrong]


def names(place, name: str = "mine") -> set[str]:  # noqa: F811
    return {check for check, _ in faults(place, name)}


def test_a_good_entry_has_no_faults(place):  # noqa: F811
    place.join()
    assert faults(place) == []


def test_parquet_and_rows_and_columns_in_any_order(place):  # noqa: F811
    folder = place.join()
    table = place.predictions(1).sample(frac=1, random_state=0)
    table = table[table.columns[::-1]]
    table.to_parquet(folder / "seed0.parquet", index=False)
    content = yaml.safe_load((folder / "entry.yaml").read_text())
    digest = entries.sha256(folder / "seed0.parquet")
    content["runs"][0] |= {"file": "seed0.parquet", "sha256": digest}
    (folder / "entry.yaml").write_text(yaml.safe_dump(content))
    assert faults(place) == []
    found = checks.answers(board.submissions()["mine"].tables[0], place.task, place.truth)
    expected = place.predictions(1)[[f"p_{name}" for name in place.task.classes]]
    assert np.allclose(found, expected)


@pytest.mark.parametrize(
    ("changes", "check", "said"),
    [
        ({"task": "small@2"}, "version", "small@2, but the task is small@1"),
        ({"task": "smal@1"}, "fields", "did you mean small"),
        ({"task": "small"}, "fields", "task"),
        ({"title": None}, "fields", "title: missing"),
        ({"title": "=HYPERLINK(1)"}, "fields", "title"),
        ({"paper": "javascript:alert(1)"}, "fields", "paper"),
        ({"tier": "measured"}, "fields", "tier"),
        ({"accuracy": 0.99}, "fields", "accuracy: unknown key"),
        ({"attempts": 0}, "fields", "attempts"),
        ({"method": "x" * 201}, "fields", "method"),
        ({"runs": []}, "fields", "runs"),
        ({"runs": [{"seed": 0, "file": "../other/seed0.csv", "sha256": "0" * 64}]}, "fields", "file"),
        ({"runs": [{"seed": 0, "file": "seed9.csv", "sha256": "0" * 64}], "single_run": "time"}, "files", "missing"),
        ({"runs": [{"seed": 0, "file": "seed0.csv", "sha256": "0" * 64}], "single_run": "time"}, "files", "sha256 is"),
        ({"protocol": "val_selected"}, "selection", "val_accuracy"),
        ({"protocol": "test_selected"}, "selection", "saw_test is no"),
        ({"undetected": "wrong"}, "detector", "own_detector"),
        ({"label_map": {"joy": "hapy"}}, "label_map", "allowed: "),
        ({"task": "small@0"}, "fields", "task"),
        ({"licence_of_predictions": "mine"}, "fields", "licence_of_predictions"),
        ({"authors": []}, "fields", "authors"),
        ({"authors": "Somebody"}, "fields", "authors"),
        ({"date": "yesterday"}, "fields", "date"),
        ({"val_accuracy": 80}, "fields", "val_accuracy"),
        ({"val_accuracy": float("nan")}, "fields", "val_accuracy"),
        ({"model": {"architecture": "linear", "parameters": -1}}, "fields", "model.parameters"),
        ({"model": {"architecture": "linear", "macs": True}}, "fields", "model.macs"),
        ({"model": {"architecture": "<script>"}}, "fields", "model.architecture"),
        ({"code": {"url": "file:///etc/passwd"}}, "fields", "code.url"),
        ({"code": {"url": "https://x.org/'onmouseover='"}}, "fields", "code.url"),
        ({"title": "two\nlines"}, "fields", "title"),
        ({"notes": "x " * 1001}, "fields", "notes"),
        ({"attempts": True}, "fields", "attempts"),
        ({"val_accuracy": True}, "fields", "val_accuracy"),
        ({"saw_test": True}, "fields", "saw_test"),
        ({"weights": "imagenet"}, "fields", "weights"),
        ({"faces_per_second": float("inf")}, "fields", "faces_per_second"),
        ({"skeptical": [{"who": "Other", "date": "2026-02-02", "text": "no"}]}, "fields", "skeptical"),
        ({"withdrawn": {"date": "2026-02-02", "reason": ""}}, "fields", "withdrawn"),
        ({"runs": [{"seed": 0, "file": "seed0.pkl", "sha256": "0" * 64}]}, "fields", "file"),
        ({"runs": [{"seed": -1, "file": "seed0.csv", "sha256": "0" * 64}]}, "fields", "seed"),
        ({"runs": [{"seed": 0, "file": "seed0.csv", "sha256": "ABC"}]}, "fields", "sha256"),
    ],
)
def test_a_wrong_declaration(place, changes, check, said):  # noqa: F811
    place.join(**changes)
    assert any(name == check and said in text for name, text in faults(place)), faults(place)


def test_the_word_no_is_no_truth_value(place):  # noqa: F811
    file = place.join() / "entry.yaml"
    text = file.read_text()
    assert "saw_test: 'no'" in text
    file.write_text(text.replace("saw_test: 'no'", "saw_test: no"))
    assert faults(place) == [] and board.submissions()["mine"].entry.saw_test == "no"


def test_a_single_run_says_why(place):  # noqa: F811
    place.join(tables=[place.predictions()])
    assert names(place) == {"seeds"}
    place.join("said", tables=[place.predictions(5)], single_run="a week of training each")
    assert faults(place, "said") == []


def edit(place, change) -> list:  # noqa: F811
    table = place.predictions(1).astype({"sample": object})
    return [change(table), place.predictions(2)]


def swapped(table: pd.DataFrame) -> pd.DataFrame:
    """The probabilities under the names of another order of classes."""
    columns = list(table.columns)
    return table.set_axis([columns[0], *columns[2:], columns[1]], axis=1)


def doubled(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[[7]]], ignore_index=True)


def put(value, row: int = 4):
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.iloc[row, 1] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "check", "said"),
    [
        (lambda table: table.iloc[::2], "coverage", "60 of 120 faces have no row, first face001"),
        (lambda table: table.assign(sample=table["sample"] + ".png"), "coverage", "not of this task: 120 rows"),
        (lambda table: table.head(0), "coverage", "120 of 120"),
        (doubled, "duplicates", "row 121 face007"),
        (lambda table: table.rename(columns={"p_sad": "p_unhappy"}), "classes", "unknown columns p_unhappy"),
        (lambda table: table.assign(label=0), "classes", "unknown columns label"),
        (put("nan"), "finite", "row 5 face004"),
        (put(""), "finite", "row 5 face004"),
        (put("much"), "finite", "row 5 face004"),
        (put("inf"), "finite", "row 5 face004"),
        (put(-0.5), "finite", "row 5 face004"),
        (put(0.999), "sums", "row 5 face004"),
        (lambda table: table.set_index("sample").mul(100).reset_index(), "finite", "not logits or percent"),
        (lambda table: table.drop(columns="sample"), "table", "columns"),
        (lambda table: table.set_index("sample").mul(0).add(1 / 3).reset_index(), "constant", "same probabilities"),
        (swapped, "order", "looks like"),
        (
            lambda table: pd.concat([table, table.tail(3).assign(sample=["x", "y", "z"])]),
            "coverage",
            "not of this task",
        ),
        (lambda table: table.assign(sample=table["sample"].str.upper()), "coverage", "not of this task: 120 rows"),
        (lambda table: table.assign(sample=""), "coverage", "not of this task: 120 rows"),
        (lambda table: table.assign(sample=[f"<b>{i}</b>" for i in range(FACES)]), "coverage", "not of this task"),
        (lambda table: table.rename(columns=str.upper), "table", "columns"),
        (lambda table: table.rename(columns={"sample": "image"}), "table", "columns"),
        (lambda table: table.assign(p_happy=True), "finite", "not numbers from 0 to 1"),
        (put("1e999"), "finite", "row 5 face004"),
        (put("0,5"), "finite", "row 5 face004"),
        (put("0x1"), "finite", "row 5 face004"),
    ],
)
def test_a_wrong_table(place, change, check, said):  # noqa: F811
    place.join(tables=edit(place, change))
    assert any(name == check and said in text for name, text in faults(place)), faults(place)


def test_rows_that_are_shifted_by_one(place):  # noqa: F811
    table = place.predictions(1, accuracy=0.95)
    table["sample"] = np.roll(table["sample"], 1)
    place.join(tables=[table, place.predictions(2)])
    assert "shifted" in names(place)


def test_labels_as_predictions(place):  # noqa: F811
    place.join(tables=[place.predictions(1, accuracy=1), place.predictions(2)])
    assert names(place) == {"labels"}


def test_weak_and_lopsided_predictions_are_welcome(place):  # noqa: F811
    # nearly always the same class: another class would be right as often
    table = place.predictions(1, accuracy=0.0).set_index("sample")
    table.iloc[3:] = [0.05, 0.9, 0.05]
    place.join(tables=[table.reset_index(), place.predictions(2, accuracy=0.0)])
    assert faults(place) == []


@pytest.mark.parametrize("count", [24, FACES])
def test_predictions_at_random_are_welcome(place, count):  # noqa: F811
    truth = tasks.Truth(place.truth.samples[:count], place.truth.labels[:count], None, place.truth.prior, None)
    place.join()
    entry = board.submissions()["mine"].entry
    classes = [f"class{i}" for i in range(8)]
    task = place.task.model_copy(update={"classes": classes})
    for seed in range(50):
        rng = np.random.default_rng(seed)
        table = pd.DataFrame(rng.dirichlet(np.ones(8), count), columns=[f"p_{name}" for name in classes])
        table.insert(0, "sample", truth.samples)
        labelled = tasks.Truth(truth.samples, rng.integers(0, 8, count), None, truth.prior, None)
        case = checks.Case("mine", entry, "small", task, labelled, {0: table})
        assert checks.run(case, checks.OF_ANSWERS) == []


def test_predictions_of_somebody_else_or_of_another_seed(place):  # noqa: F811
    place.join("first")
    place.join(tables=[place.predictions(3), place.predictions(1), place.predictions(3)])
    assert [text.partition(" (")[0] for check, text in faults(place) if check == "copies"] == [
        "the same predictions as entry first, seed 0",
        "the same predictions as seed 0",
    ]


def test_undetected_faces_count_as_wrong(place):  # noqa: F811
    table = place.predictions(1, accuracy=0.98)
    place.join(tables=[table.iloc[10:], place.predictions(2)], faces="own_detector", undetected="wrong")
    assert faults(place) == []
    found = checks.answers(board.submissions()["mine"].tables[0], place.task, place.truth)
    assert not (found.argmax(axis=1) == place.truth.labels)[:10].any()
    assert np.allclose(found.sum(axis=1), 1)


def test_all_faults_at_once(place):  # noqa: F811
    place.join(
        tables=[doubled(put("x")(place.predictions(1))), place.predictions(2).iloc[5:]],
        protocol="val_selected",
        task="small@3",
    )
    assert names(place) == {"selection", "version", "duplicates", "finite", "coverage"}
    place.join("other", title=None, tier="best", attempts=-1)
    assert len(faults(place, "other")) == 3
    with pytest.raises(UserError, match=r"leaderboard/entries/mine.*the first of 8 faults") as refused:
        board.refuse(board.check_entries(board.submissions(), ["mine", "other"], tasks.load_tasks(), {}, place.layout))
    assert refused.value.details.count("\n") == 7


HOSTILE = {
    "aliases": "a: &a [x, x]\nb: [*a, *a]\n",
    "tag": "title: !!python/object/apply:os.system ['touch executed']\n",
    "deep": "a: " + "[" * 20_000,
    "twice": "title: one\ntitle: two\n",
    "nested twice": "model: {architecture: a, architecture: b}\n",
    "list": "- a\n",
    "empty": "",
    "not yaml": "a: [b\n",
    "numbers as keys": "1: 2\n",
    "binary": b"\xff\xfe\x00",
    "huge": "# " + "x" * entries.YAML_BYTES,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_yaml(place, content):  # noqa: F811
    folder = place.join()
    (folder / "entry.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    before = time.process_time()
    assert names(place) == {"yaml"}
    assert time.process_time() - before < 5 and not (place.root / "executed").exists()


@pytest.mark.parametrize("name", ["..", "<b>x</b>", "Mine", "a b", ".hidden", "x" * 80, "ü"])
def test_hostile_names(place, name):  # noqa: F811
    with pytest.raises(UserError, match="small letters"):
        entries.new_entry(place.folder / name, "small@1", place.task.classes, place.truth.samples)
    assert entries.read_submission(place.folder / name).faults[0][0] == "name"


def test_hostile_files(place, monkeypatch):  # noqa: F811
    folder = place.join()
    secret = place.root / "secret.csv"
    (folder / "seed0.csv").rename(secret)
    (folder / "seed0.csv").symlink_to(secret)
    assert "not a regular file" in faults(place)[0][1]
    (folder / "seed0.csv").unlink()
    os.mkfifo(folder / "seed0.csv")
    assert "not a regular file" in faults(place)[0][1]
    (folder / "seed0.csv").unlink()
    monkeypatch.setattr(entries, "TABLE_BYTES", 1000)
    secret.rename(folder / "seed0.csv")
    assert "at most 1,000 are read" in faults(place)[0][1]


@pytest.mark.parametrize(
    "content", ["", "sample\n", "sample,p_happy,p_happy\na,1,0\n", "sample,p_happy\na,1,0,3\n", "PAR1", "\0" * 50]
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_that_are_no_tables(place, content, suffix):  # noqa: F811
    folder = place.join()
    file = folder / f"odd.{suffix}"
    file.write_text(content)
    text = yaml.safe_load((folder / "entry.yaml").read_text())
    text["runs"][0] |= {"file": file.name, "sha256": entries.sha256(file)}
    (folder / "entry.yaml").write_text(yaml.safe_dump(text))
    assert names(place) & {"table", "classes"}


def test_a_table_that_unpacks_to_too_much(place, monkeypatch):  # noqa: F811
    folder = place.join()
    file = folder / "bomb.parquet"
    pd.DataFrame({"sample": ["x"] * 5000}).to_parquet(file)
    monkeypatch.setattr(entries, "_ROWS", 4999)
    with pytest.raises(ValueError, match="too much"):
        entries._table(file)


def test_new_writes_what_check_asks_to_fill(place):  # noqa: F811
    entries.new_entry(place.folder / "mine", "small@1", place.task.classes, place.truth.samples)
    text = (place.folder / "mine/entry.yaml").read_text()
    entries.Entry.model_validate(yaml.safe_load(text))
    commented = "\n".join(line.removeprefix("# ") if ": " in line else "" for line in text.splitlines()[3:])
    assert set(yaml.safe_load(commented)) <= set(entries.Entry.model_fields), "the comments name real fields"
    table = pd.read_csv(place.folder / "mine/seed0.csv")
    assert len(table) == FACES and table["p_happy"].isna().all()
    assert {"files", "template"} <= names(place) and sum(check == "template" for check, _ in faults(place)) == 4
    with pytest.raises(UserError, match="exists"):
        entries.new_entry(place.folder / "mine", "small@1", place.task.classes, place.truth.samples)


def test_the_documentation_has_the_table_of_checks():
    assert checks.markdown() in DOCS.read_text(), "paste the output of: transfer board checks"
