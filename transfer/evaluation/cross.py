"""A run on the test faces of other datasets, with the classes matched by name; see docs/robustness.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from transfer.datasets.archives import folder_name
from transfer.evaluation.network import Faces, Network, batches_of, load_network, read_faces
from transfer.layout import Layout
from transfer.params import Params
from transfer.runs.evaluations import write_evaluation
from transfer.runs.read import read_run
from transfer.utils.errors import UserError, remake
from transfer.utils.progress import progress


def evaluate_cross(
    params: Params, layout: Layout, dataset: str, recipe: str, seed: int, others: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Predict the test faces of the datasets ``others`` by a run on ``dataset``; all is checked before any.

    Writes <other>.parquet each, and returns them: sample; label, the face's class among the p_ columns, which are the
    run's classes; protocol and epoch of the weights; test_dataset; class_name and test_label, those of the other
    dataset; in_own_test, whether the picture is among the run's own test faces; p_<class>. Faces of classes that the
    run does not know are left out; ``attrs["left_out"]`` counts them by class. Raises UserError for files that are
    missing or do not belong together, a test face that the run was trained or selected on, and no class in common.
    """
    tests = {other: read_faces(layout.data(other)) for other in others}
    run = read_run(params, layout, dataset, recipe, seed)
    path = layout.data(dataset) / "split.parquet"
    if not path.exists():
        raise UserError(f"{path}: missing; {remake(path)}")
    own = pd.read_parquet(path).set_index("sample")["split"]
    same_pictures = [other for other in others if _pictures(params, other) == _pictures(params, dataset)]
    for other, faces in tests.items():
        samples = faces.manifest["sample"]
        seen = samples[samples.isin(own[own.isin(["train", "val"])].index)]
        if other in same_pictures and len(seen):
            raise UserError(
                f"{len(seen):,} of the {len(samples):,} test faces of {other} (first {seen.iloc[0]}) are among those "
                f"that {dataset} is trained and selected on; choose another pair of datasets"
            )
        theirs = _classes(faces.manifest)
        if not set(run.classes) & set(theirs):
            named = f"{', '.join(run.classes)} against {', '.join(theirs)}"
            raise UserError(f"{dataset} and {other} have no class in common: {named}")
    network = load_network(run, params.run(dataset, recipe).train, "cross-dataset evaluation")
    frames = {}
    for other, faces in tests.items():
        frame = _predicted(network, other, faces)
        in_own = frame["sample"].isin(own[own == "test"].index) if other in same_pictures else False
        frame.insert(7, "in_own_test", in_own)
        path = layout.evaluation("cross", dataset, recipe, seed) / f"{other}.parquet"
        write_evaluation(path, frame, run, faces.data)
        frames[other] = frame
    return frames


def _pictures(params: Params, dataset: str) -> tuple[str, str]:
    """Equal for datasets that read the same pictures under the same names."""
    definition = params.dataset_definitions[dataset]
    return definition.parser, folder_name(Path(definition.archive))


def _classes(manifest: pd.DataFrame) -> list[str]:
    return manifest.sort_values("label", kind="stable")["class_name"].unique().tolist()


def _predicted(network: Network, other: str, faces: Faces) -> pd.DataFrame:
    number = {name: i for i, name in enumerate(network.run.classes)}
    known = faces.manifest["class_name"].isin(number).to_numpy()
    places, shown, left_out = np.flatnonzero(known), faces.manifest[known], faces.manifest[~known]
    with progress(f"{network.run.name} on {other}", len(places)) as report:
        batches = (faces.pixels(places[part]) for part in batches_of(len(places)))
        labels = shown["class_name"].map(number).to_numpy()
        frame = network.frame(shown["sample"].to_numpy(), labels, batches)
        report(len(places))
    frame.insert(4, "test_dataset", other)
    frame.insert(5, "class_name", shown["class_name"].to_numpy())
    frame.insert(6, "test_label", shown["label"].to_numpy())
    counts = left_out["class_name"].value_counts()
    frame.attrs = {"left_out": {name: int(counts[name]) for name in _classes(left_out)}}
    return frame
