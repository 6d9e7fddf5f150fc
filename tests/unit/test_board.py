"""Ranks, scores and pages of the leaderboard."""

import hashlib
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import yaml
from boards import Place, place, tested_faces  # noqa: F401
from finished_runs import finished, layout, params_of_two  # noqa: F401

from transfer.evaluation.inference import measure_inference
from transfer.evaluation.robustness import evaluate_robustness
from transfer.evaluation.statistics import faces_and_seeds, visible_difference
from transfer.layout import Layout
from transfer.leaderboard import board, exports, scores, tasks
from transfer.leaderboard.page import COLUMNS, pages
from transfer.leaderboard.ranks import ranks, sentence
from transfer.params import read as config
from transfer.runs.metrics import evaluate
from transfer.utils.errors import UserError


def runs(accuracy: float, seeds: int, faces: int = 1000, seed: int = 0, spread: float = 0.0) -> np.ndarray:
    """Which faces each seed gets right: hard faces are hard for all."""
    rng = np.random.default_rng(seed)
    levels = np.clip(rng.normal(accuracy, spread, (seeds, 1)), 0, 1)
    return np.random.default_rng(77).random(faces)[None] < levels + rng.normal(0, 0.1, (seeds, faces))


def test_equal_methods_are_told_apart_in_at_most_five_percent():
    for seeds, other in ((3, 3), (1, 1), (5, 2)):
        wrong = [
            faces_and_seeds(runs(0.8, seeds, 300, 2 * i, 0.01), runs(0.8, other, 300, 2 * i + 1, 0.01)) < 0.05
            for i in range(400)
        ]
        # single runs: the McNemar test knows nothing of the spread over seeds
        assert np.mean(wrong) < (0.12 if seeds == 1 else 0.06)


def test_different_methods_are_told_apart():
    assert faces_and_seeds(runs(0.8, 3), runs(0.7, 3, seed=1)) < 0.001
    assert faces_and_seeds(runs(0.8, 1), runs(0.7, 1, seed=1)) < 0.001
    same = runs(0.8, 2)
    assert faces_and_seeds(same, same) > 0.99


def test_the_least_visible_difference_is_that_of_the_test():
    needed = visible_difference(1000, 0.1)
    won = round((needed * 1000 + 100) / 2)
    for wins, seen in ((won, True), (won - 1, False)):
        ours, theirs = np.zeros((1, 1000), bool), np.zeros((1, 1000), bool)
        ours[0, :wins], theirs[0, wins:100] = True, True
        assert (faces_and_seeds(ours, theirs) < 0.05) == seen
    assert visible_difference(1000, 0.1, tests=100) > needed and visible_difference(1000, 0.003) is None


def test_ranks_are_ranges_and_letters():
    good, alike, middle, bad = runs(0.9, 3), runs(0.9, 3, seed=1), runs(0.8, 2, seed=2), runs(0.5, 1, seed=3)
    found = ranks([middle, good, bad, alike])
    assert [(rank.best, rank.worst) for rank in found] == [(3, 3), (1, 2), (4, 4), (1, 2)]
    assert [rank.letters for rank in found] == ["b", "a", "c", "a"]
    # a chain: neighbours cannot be told apart, the ends can
    chain = ranks([np.arange(100)[None] < right for right in (80, 75, 70)])
    assert [rank.letters for rank in chain] == ["a", "a b", "b"] and chain[1] == type(chain[1])(1, 3, "a b")
    assert [(rank.best, rank.worst) for rank in ranks([good])] == [(1, 1)] and ranks([]) == []
    assert "need" in sentence([good, bad], 1000) and "1 of" not in sentence([good, bad], 1000)
    assert "nothing to compare" in sentence([good], 1000)


def rows(place, *names: str) -> list[scores.Row]:  # noqa: F811
    found = board.submissions()
    return [scores.of_submission(found[name], place.task, place.truth) for name in names]


def test_scores_are_means_over_the_seeds(place):  # noqa: F811
    place.join()
    (row,) = rows(place, "mine")
    numbers = scores.score(row, place.task, place.truth)
    tables = [place.predictions(1), place.predictions(2)]
    right = [(table.drop(columns="sample").to_numpy().argmax(axis=1) == place.truth.labels).mean() for table in tables]
    assert numbers["accuracy"] == pytest.approx(np.mean(right)) and numbers["n_seeds"] == 2
    assert numbers["accuracy_std"] == pytest.approx(np.std(right, ddof=1))
    assert numbers["copy_free_accuracy"] is None and 0 < numbers["ece"] < 1
    recalls = [numbers[f"recall_{name}"] for name in place.task.classes]
    assert np.mean(recalls) == pytest.approx(numbers["mean_class_accuracy"])


def test_controls_and_difficulty_from_the_votes(place):  # noqa: F811
    from transfer.datasets.ferplus import CLASSES

    votes = np.zeros((4, 10), int)
    votes[:, 0] = (10, 8, 6, 5)
    votes[:, 1] = 10 - votes[:, 0]
    truth = tasks.Truth(["a", "b", "c", "d"], np.zeros(4, int), votes, np.full(8, 1 / 8), np.array([1, 0, 0, 0], bool))
    task = place.task.model_copy(update={"classes": CLASSES})
    found = {row["control"]: row["accuracy"] for row in scores.controls(task, truth)}
    assert found["one more tagger"] == pytest.approx((1 + 0.8 + 0.6 + 0.5) / 4)
    assert found["one more tagger"] < found["ten more taggers"] < 1
    assert found["drawn from the priors"] == pytest.approx(1 / 8)
    levels = scores.difficulty(truth)
    assert [levels[name].tolist().index(True) for name in ("clear", "mixed", "doubtful")] == [0, 1, 2]
    assert len(scores.controls(place.task, place.truth)) == 2, "no votes, no taggers"


def built(place, params, monkeypatch=None):  # noqa: F811
    folder = board.build(params, place.layout).parent
    return folder, json.loads((folder / "leaderboard.json").read_text()), pd.read_csv(folder / "leaderboard.csv")


@pytest.fixture
def without_runs(monkeypatch):
    monkeypatch.setattr(scores, "own_rows", lambda *_: [])
    monkeypatch.setattr(board, "load_reported", lambda: [])
    return params_of_two(datasets=["faces"])


def test_the_board_keeps_what_is_withdrawn_and_doubted(place, without_runs):  # noqa: F811
    evil = "<script>alert(1)</script>"
    place.join("good", tables=[place.predictions(1, 0.9), place.predictions(2, 0.9)], notes=evil, title=f"G {evil}")
    doubt = {"who": "Other", "date": "2026-02-02", "text": f"not so {evil}", "url": "https://example.org/1"}
    place.join("weak", tables=[place.predictions(3, 0.3), place.predictions(4, 0.3)], skeptical=[doubt])
    gone = {"date": "2026-03-03", "reason": "a bug in the crops"}
    place.join("gone", tables=[place.predictions(5, 0.8), place.predictions(6, 0.8)], withdrawn=gone)
    place.join("old", task="small@0", tables=[place.predictions(7)])
    with pytest.raises(UserError, match="task"):
        board.build(without_runs, place.layout)
    (place.folder / "old/entry.yaml").unlink()
    (place.folder / "old/seed0.csv").unlink()
    (place.folder / "old").rmdir()

    folder, content, table = built(place, without_runs)
    by_name = {row["name"]: row for row in content["small-v1"]["rows"]}
    assert by_name["gone"]["rank"] is None and by_name["gone"]["withdrawn"] == "2026-03-03: a bug in the crops"
    assert (by_name["good"]["rank"]["letters"], by_name["weak"]["rank"]["letters"]) == ("a", "b")
    assert list(table["name"].dropna()) == ["good", "weak", "gone"]
    assert {"majority class", "drawn from the priors"} <= set(table["title"])
    page = (folder / "small-v1.html").read_text()
    assert 'class="withdrawn"' in page and "doubted" in page
    for file in folder.rglob("*.html"):
        text = file.read_text()
        HTMLParser().feed(text)
        assert evil not in text and "<b>task</b>" not in text, file
    assert "a bug in the crops" in (folder / "entries/gone.html").read_text()


def test_entries_of_an_earlier_version_are_listed_and_not_scored(place, without_runs):  # noqa: F811
    place.join()
    file = tasks.FOLDER / "small.yaml"
    content = yaml.safe_load(file.read_text())
    content["changelog"].append({"version": 2, "date": "2026-05-05", "text": "other labels"})
    file.write_text(yaml.safe_dump(content | {"version": 2}))
    folder, content, _ = built(place, without_runs)
    assert content["small-v2"]["earlier"] == ["mine"] and content["small-v2"]["rows"] == []
    assert "Entries of earlier versions, not scored here: mine" in (folder / "small-v2.html").read_text()


def test_a_wrong_entry_stops_the_build(place, without_runs):  # noqa: F811
    place.join(tables=[place.predictions(1).iloc[3:], place.predictions(2)])
    with pytest.raises(UserError, match="leaderboard/entries/mine: coverage"):
        board.build(without_runs, place.layout)


def test_own_runs_become_rows(layout, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    here, params = Place(tmp_path, layout), params_of_two(datasets=["faces"])
    for _, recipe, seed in params.runs():
        evaluate(layout.run("faces", recipe, seed), experiment="tiny", dataset="faces", recipe=recipe, seed=seed)
    task, truth = here.task, here.truth
    found = scores.own_rows("small", task, truth, params, layout)
    assert [row.name for row in found] == ["tiny-faces-baseline", "tiny-faces-full"]
    assert all(list(row.answers) == [0, 1] and row.tier == "measured" for row in found)
    for row, recipe in zip(found, params.recipes, strict=True):
        expected = [
            json.loads((layout.run("faces", recipe, seed) / "metrics.json").read_text())["protocols"]["val_selected"]
            for seed in (0, 1)
        ]
        given = [one["splits"]["test"]["accuracy"] for one in expected]
        numbers = scores.score(row, task, truth)
        assert numbers["accuracy"] == pytest.approx(np.mean(given))
        checked = [one["splits"]["val"]["accuracy"] for one in expected]
        assert row.about["val_accuracy"] == pytest.approx(np.mean(checked)) and row.about["selection_gain"] >= 0
        assert row.about["parameters"] > 1000 and row.about["macs"] > 1000
        assert "corrupted_accuracy" not in row.about and "faces_per_second" not in row.about
    made = board.board("small", task, truth, found, [], [])
    texts = pages([made], {})
    assert "entries/tiny-faces-full.html" in texts and len(COLUMNS) > 10
    assert_exports(exports.exports([made]), made)
    other = truth.labels.copy()
    other[0] = (other[0] + 1) % 3
    with pytest.raises(UserError, match="its labels are not those of the task"):
        wrong = tasks.Truth(truth.samples, other, None, truth.prior, None)
        scores.own_rows("small", task, wrong, params, layout)


def assert_exports(texts: dict[str, str], made: scores.Board) -> None:
    card = texts["models/tiny-faces-full/README.md"]
    front = yaml.safe_load(card.split("---")[1])
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(made.rows[0]["scores"]["accuracy"], abs=1e-6)
    (said,) = yaml.safe_load(texts["models/tiny-faces-full/.eval_results/small.yaml"])
    assert said["dataset"]["task_id"] == "small@1" and said["value"] == round(
        100 * made.rows[0]["scores"]["accuracy"], 2
    )
    task = json.loads(texts["small-v1.croissant.json"])
    (listed,) = task["distribution"]
    content = texts[listed["contentUrl"]]
    assert listed["sha256"] == hashlib.sha256(content.encode()).hexdigest()
    assert content.split() == ["sample", *made.samples]
    assert [row["classes/name"] for row in task["recordSet"][1]["data"]] == made.task.classes


def test_a_board_of_the_finished_runs_of_several_experiments(layout, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(board, "load_reported", lambda: [])
    Place(tmp_path, layout)
    params = params_of_two(datasets=["faces"], robustness={"corruptions": {"noise": [0.3], "blur": [0.05]}})
    evaluate(layout.run("faces", "full", 1), experiment="tiny", dataset="faces", recipe="full", seed=1)
    shutil.rmtree(layout.run("faces", "baseline", 0))
    evaluate_robustness(params, layout, "faces", "full", 1)
    measure_inference(params, layout, finished=True)
    with pytest.raises(UserError, match="metrics.json: missing"):
        board.build(params, layout)
    with pytest.raises(UserError, match="other/params.yaml: missing; expected the parameters of experiment other"):
        board.build(params, layout, finished=True, further=["other"])
    other = Layout("other", layout.results)
    shutil.copytree(layout.run("faces", "full", 1), other.run("faces", "full", 1))
    evaluate(other.run("faces", "full", 1), experiment="other", dataset="faces", recipe="full", seed=1)
    config.snapshot(params.model_copy(update={"experiment": "other"}), other.params)

    page = board.build(params, layout, finished=True, further=["other"], folder=tmp_path / "published")
    (made,) = json.loads((page.parent / "leaderboard.json").read_text()).values()
    assert [row["name"] for row in made["rows"]] == ["tiny-faces-full", "other-faces-full"]
    about = made["rows"][0]["about"]
    assert 0 <= about["corrupted_accuracy"] <= 1 and about["corruptions"] == "blur 0.05; noise 0.3"
    assert about["faces_per_second"] > 0 and "threads" in about["measured_on"]
    for row in made["rows"]:
        assert set(row["files"]) == {"seed 1: metrics.json", "seed 1: env.json", "parameters"}
        assert all((page.parent / file).is_file() for file in row["files"].values())
    kinds = {file.suffix for file in page.parent.rglob("*") if file.is_file()}
    assert kinds == {".html", ".csv", ".json", ".yaml", ".md"}, "neither faces nor weights nor predictions"

    measured = json.loads(layout.inference.read_text())
    measured["runs"]["faces/full"]["difference"] = 0.2
    layout.inference.write_text(json.dumps(measured))
    with pytest.raises(UserError, match="differ by 0.200 with the others of its batch"):
        board.build(params, layout, finished=True)
    measured["runs"]["faces/full"]["weights_sha256"] = "0"
    layout.inference.write_text(json.dumps(measured))
    with pytest.raises(UserError, match="run: transfer board measure"):
        board.build(params, layout, finished=True)


def test_a_network_that_looks_at_the_whole_batch_is_found(layout):  # noqa: F811
    from transfer.evaluation import inference, network

    params = params_of_two(datasets=["faces"])
    run, faces = inference.read_run(params, layout, "faces", "full", 0), network.read_faces(layout.data("faces"))
    found = network.load_network(run, params.run("faces", "full").train, "measuring", faces)
    pixels = faces.pixels(np.arange(10))
    assert inference.measure(found, pixels)["difference"] < scores.SAME_FACE

    class MinusBatchMean(type(found.model)):
        def forward(self, images):
            logits = super().forward(images)
            return logits - logits.mean(dim=0)

    found.model.__class__ = MinusBatchMean
    assert inference.measure(found, pixels)["difference"] > scores.SAME_FACE


def test_faces_that_have_copies_elsewhere(place):  # noqa: F811
    index = pd.read_parquet(place.layout.data("faces") / "index.parquet")
    copy = Layout("copy", place.root / "results")
    copy.data("faces").mkdir(parents=True)
    index.to_parquet(copy.data("faces") / "index.parquet", index=False)
    train, test = (index.loc[index["split"] == part, "sample"].tolist() for part in ("train", "test"))
    pairs = pd.DataFrame({"sample_a": [train[0], test[3]], "sample_b": [test[2], test[4]], "kind": ["near", "exact"]})
    pairs.to_parquet(copy.data("faces") / "duplicates.parquet", index=False)
    truth = tasks.read_truth("small", place.task, copy)
    assert [name for name, copied in zip(truth.samples, truth.copied, strict=True) if copied] == [test[2]]
