"""A training of one dataset on the test faces of others, with the classes matched by name; see docs/robustness.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from transfer.datasets.archives import folder_name
from transfer.evaluation.finished import Finished, batches_of, load_finished, read_test_faces
from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.evaluations import write_evaluation
from transfer.runs.predictions import predictions_frame
from transfer.utils.errors import UserError
from transfer.utils.progress import progress


def evaluate_cross(
    params: Params, layout: Layout, dataset: str, recipe: str, seed: int, others: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Predict the test faces of the datasets ``others`` by a training of ``dataset``; all is checked before any.

    Writes <other>.parquet each, and returns them: sample; label, the face's class among the p_ columns, which are the
    classes of the training in its order; protocol and epoch of the weights; test_dataset; class_name; test_label, the
    number of the class in the other dataset; in_own_test, whether the same picture is among the training's own test
    faces; p_<class>. Faces of a class that the training does not know are left out; ``attrs["left_out"]`` counts them
    by class. Raises UserError for files that are missing or do not belong together, where a test face is one that
    the training was trained or selected on, and where no class is common.
    """
    tests = {other: read_test_faces(layout.data(other)) for other in others}
    own = _own_parts(layout.data(dataset))
    shared = {other: _pictures(params, other) == _pictures(params, dataset) for other in others}
    for other, (_, manifest) in tests.items():
        if shared[other]:
            _refuse_seen(manifest["sample"], own, dataset, other)
    finished = load_finished(params, layout, dataset, recipe, seed, "cross-dataset evaluation")
    for other, (_, manifest) in tests.items():
        own_classes, other_classes = finished.classes, _classes(manifest)
        if not set(own_classes) & set(other_classes):
            named = f"{', '.join(own_classes)} against {', '.join(other_classes)}"
            raise UserError(f"{dataset} and {other} have no class in common: {named}")
    frames = {}
    for other, (pixels, manifest) in tests.items():
        frame = _predicted(finished, other, pixels, manifest)
        same = frame["sample"].isin(own[own == "test"].index) if shared[other] else False
        frame.insert(frame.columns.get_loc("test_label") + 1, "in_own_test", same)
        path = layout.evaluation("cross", dataset, recipe, seed) / f"{other}.parquet"
        write_evaluation(path, frame, finished.identity, finished.weights_sha256)
        frames[other] = frame
    return frames


def _own_parts(data: Path) -> pd.Series:
    """The split of each sample of a training's dataset."""
    path = data / "split.parquet"
    if not path.exists():
        raise UserError(f"{path}: not there; make it with: snakemake --cores all {path}")
    return pd.read_parquet(path).set_index("sample")["split"]


def _pictures(params: Params, dataset: str) -> tuple[str, str]:
    """Datasets that agree in this read the same pictures under the same names."""
    definition = params.dataset_definitions[dataset]
    return definition.parser, folder_name(Path(definition.archive))


def _refuse_seen(samples: pd.Series, own: pd.Series, dataset: str, other: str) -> None:
    seen = samples[samples.isin(own[own.isin(["train", "val"])].index)]
    if len(seen):
        raise UserError(
            f"{len(seen):,} of the {len(samples):,} test faces of {other} (first {seen.iloc[0]}) are among those that "
            f"{dataset} is trained and selected on; the two cannot be trained and tested across"
        )


def _classes(manifest: pd.DataFrame) -> list[str]:
    """Names of the classes that have a face, in the dataset's order."""
    return manifest.sort_values("label", kind="stable")["class_name"].unique().tolist()


def _predicted(finished: Finished, other: str, pixels: np.ndarray, manifest: pd.DataFrame) -> pd.DataFrame:
    number = {name: i for i, name in enumerate(finished.classes)}
    known = manifest["class_name"].isin(number).to_numpy()
    left_out, manifest = manifest[~known], manifest[known]
    rows = np.flatnonzero(known)
    with progress(f"{finished.identity['dataset']} on {other}", len(rows)) as report:
        probabilities = finished.probabilities(pixels[rows[part]] for part in batches_of(len(rows)))
        report(len(rows))
    frame = predictions_frame(
        manifest["sample"].to_numpy(),
        manifest["class_name"].map(number).to_numpy(),
        probabilities,
        finished.classes,
        split="test",
        protocol=finished.about["protocol"],
        epoch=finished.about["epoch"],
    ).drop(columns="split")
    frame.insert(4, "test_dataset", other)
    frame.insert(5, "class_name", manifest["class_name"].to_numpy())
    frame.insert(6, "test_label", manifest["label"].to_numpy())
    counts = left_out["class_name"].value_counts()
    frame.attrs = {"left_out": {name: int(counts[name]) for name in _classes(left_out)}}
    return frame
