"""Two results of the same experiment, from different machines or versions: which cells differ, and what may be why."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from transfer.params.read import flat
from transfer.utils.errors import UserError

SAME = "the same images and pixels"
CELL = ["dataset", "recipe", "protocol"]
_ENVIRONMENT = ("commit", "code_digest", "cpu", "device", "precision", "threads", "deterministic", "python")


def compare(own: Path, other: Path) -> dict[str, Any]:
    """Compare the Table 1 of two experiment folders, results/EXPERIMENT or results/published/EXPERIMENT.

    Returns ``cells``, a frame with the accuracies in percent, their difference (own minus other), and whether ``own``
    lies within the other's 95 % interval over seeds (NaN bounds: False); ``faces``, per dataset how many images and
    how many of the aligned faces differ (None where a folder has no list of them); ``differences``, name to (own,
    other) of parameters and environments; ``verdict``, one sentence. Raises UserError for a folder without a Table 1
    or its runs, and tables without a common cell.
    """
    cells = _cells(own).merge(_cells(other), on=CELL, suffixes=("", "_other"))
    if cells.empty:
        raise UserError(f"{own} and {other}: no cell in common; compare results of the same experiment")
    cells["difference"] = (cells["accuracy"] - cells["accuracy_other"]).round(2)
    cells["within"] = cells["accuracy"].between(cells["ci95_low_other"], cells["ci95_high_other"])
    datasets = list(dict.fromkeys(cells["dataset"]))
    faces = {dataset: _faces(own, other, dataset) for dataset in datasets}
    differences = {key: values for key, *values in _differences(own, other)}
    columns = [*CELL, "n_seeds", "accuracy", "accuracy_other", "ci95_low_other", "ci95_high_other"]
    cells = cells[[*columns, "difference", "within"]]
    found: dict[str, Any] = {"cells": cells, "faces": faces, "differences": differences}
    return found | {"verdict": _verdict(cells, faces, differences)}


def report(found: Mapping[str, Any]) -> str:
    """The result of :func:`compare` for a terminal."""
    cells = found["cells"]
    shown = cells.assign(
        interval=[f"{low:.2f} to {high:.2f}" for low, high in zip(cells.iloc[:, 6], cells.iloc[:, 7], strict=True)],
        within=cells["within"].map({True: "within", False: "outside"}),
    )[[*CELL, "accuracy", "accuracy_other", "interval", "difference", "within"]]
    lines = [shown.rename(columns={"accuracy_other": "other"}).to_string(index=False), ""]
    for dataset, values in found["faces"].items():
        lines.append(f"faces of {dataset}: {values['text']}")
    lines += [f"{name}: {own} | {other}" for name, (own, other) in found["differences"].items()]
    return "\n".join([*lines, "", found["verdict"]])


def _cells(folder: Path) -> pd.DataFrame:
    table = folder / "table1.csv"
    if not table.is_file():
        raise UserError(f"{table}: missing; name a folder such as results/demo or results/published/demo")
    columns = [*CELL, "n_seeds", "accuracy", "ci95_low", "ci95_high"]
    return pd.read_csv(table)[columns]


def _environments(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each run's name and env.json."""
    for path in sorted(folder.glob("runs/*/*/seed*/env.json")):
        yield "/".join(path.parts[-4:-1]), json.loads(path.read_text())


def _faces(own: Path, other: Path, dataset: str) -> dict[str, Any]:
    """Of the faces that are evaluated on, how many have other images, and how many other pixels after alignment."""
    seen = [
        {json.dumps(env["evaluation"], sort_keys=True) for name, env in _environments(folder) if f"{dataset}/" in name}
        for folder in (own, other)
    ]
    if not all(seen):
        raise UserError(f"{own if not seen[0] else other}/runs/{dataset}: no env.json; compare folders with their runs")
    if seen[0] == seen[1]:
        return {"images": 0, "pixels": 0, "text": SAME}
    lists = [folder / "data" / dataset / "evaluation.csv" for folder in (own, other)]
    if all(path.is_file() for path in lists):
        both = pd.read_csv(lists[0]).merge(pd.read_csv(lists[1]), on="sample", how="outer", suffixes=("", "_other"))
        images = both["source_sha256"] != both["source_sha256_other"]
        pixels = ~images & (both["sha256"] != both["sha256_other"])
        text = (
            f"of {len(both)} val and test faces {images.sum()} are other images, {pixels.sum()} are aligned differently"
        )
        if (images | pixels).any():
            text += f", such as {both.loc[images | pixels, 'sample'].iloc[0]}"
        return {"images": int(images.sum()), "pixels": int(pixels.sum()), "text": text}
    sources = [{json.loads(text)["source_sha256"] for text in texts} for texts in seen]
    text = "other images" if sources[0] != sources[1] else "the same images, aligned to different pixels"
    return {"images": None if sources[0] != sources[1] else 0, "pixels": None, "text": f"{text} (no list of faces)"}


def _differences(own: Path, other: Path) -> Iterator[tuple[str, ...]]:
    """Parameters and environments of the runs in both that differ, as text."""
    runs = [dict(_environments(folder)) for folder in (own, other)]
    found: dict[str, list[dict[str, None]]] = {}
    for run in runs[0].keys() & runs[1].keys():
        described = [
            flat(env.get("params", {})) | {name: env.get(name) for name in _ENVIRONMENT} | env["packages"]
            for env in (runs[0][run], runs[1][run])
        ]
        for key in {**described[0], **described[1]}:
            values = [str(each.get(key, "-")) for each in described]
            if values[0] != values[1]:
                for texts, value in zip(found.setdefault(key, [{}, {}]), values, strict=True):
                    texts[value] = None
    for key in sorted(found):
        yield key, *(", ".join(sorted(texts)) for texts in found[key])


def _verdict(cells: pd.DataFrame, faces: Mapping[str, Any], differences: Mapping[str, Any]) -> str:
    if not cells["difference"].any():
        return f"All {len(cells)} cells are equal."
    inside, largest = int(cells["within"].sum()), cells.iloc[int(cells["difference"].abs().to_numpy().argmax())]
    best = [
        rows["accuracy"].to_numpy().argmax() == rows["accuracy_other"].to_numpy().argmax()
        for _, rows in cells.groupby(["dataset", "protocol"])
    ]
    text = f"{inside} of {len(cells)} cells lie within the other's 95 % intervals; the largest difference is "
    text += f"{largest['difference']:+.2f} points ({', '.join(largest[CELL])}); the best recipe is the same in "
    text += f"{sum(best)} of {len(best)} columns"
    same = all(values["text"] == SAME for values in faces.values())
    machine = [name for name in differences if name in (*_ENVIRONMENT, "torch")]
    causes = [*([] if same else ["faces"]), *machine]
    if others := len(differences) - len(machine):
        causes.append(f"{others} parameters or packages")
    return f"{text}. Different: {', '.join(causes) or 'nothing that the runs noted'}."
