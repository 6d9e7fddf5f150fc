"""The model that comes along: a finished run's weights in half precision, checked, and its card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from transfer.evaluation.calibration import calibration
from transfer.evaluation.network import read_faces
from transfer.layout import Layout
from transfer.models.weights.load import KEY, read_safetensors
from transfer.predict.model import Model
from transfer.runs.metrics import metrics
from transfer.runs.read import Run, read_runs
from transfer.utils.errors import UserError
from transfer.utils.files import atomic, sha256, write_text

MOST_BYTES = 8_000_000
MOST_LOST = 0.001
"""Accuracy that half precision may cost, as a fraction."""
_FERPLUS = """\
FER2013's 48x48 grey images (Goodfellow et al. 2013, collected by a web search, for research) with the labels of FERPlus
(Barsoum et al. 2016, MIT licence), ten taggers a face. The weights are derived from these images: find out whether your
use is research before you build a product on them."""


def package(run: Path, out: Path) -> str:
    """Write a run's weights to ``out`` and its card beside it (.md); returns the card.

    Matrices and convolutions are kept in half precision, vectors (biases, batch norm) as they are. Raises UserError: no
    finished run, without its test faces, larger than 8 MB, or less accurate than the run by more than 0.1 points.
    """
    tensors, about = read_safetensors(run / "model.safetensors")
    dataset, recipe, seed = run.resolve().parts[-3:]
    layout = Layout(run.resolve().parents[3].name, run.resolve().parents[4])
    wanted = [(dataset, recipe, int(seed.removeprefix("seed")))]
    runs, _ = read_runs(layout.root / "runs", wanted, [about["protocol"]], experiment=layout.experiment)
    [finished] = runs[dataset, recipe].values()
    about = {key: about[key] for key in ("model", "faces", "classes", "run", "protocol", "epoch", "hflip_tta")}
    about |= {"weights_sha256": sha256(finished.weights), "run_digest": finished.environment["digest"]}
    halved = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    with atomic(out) as part:
        save_file(halved, part, {KEY: json.dumps(about)})
        if (size := part.stat().st_size) > MOST_BYTES:
            raise UserError(f"{run}: {size:,} bytes in half precision; at most {MOST_BYTES:,}; take a smaller model")
        text = card(finished, about, _checked(part, layout, finished, about["protocol"]), size)
    write_text(out.with_suffix(".md"), text)
    return text


def _checked(weights: Path, layout: Layout, run: Run, protocol: str) -> dict[str, Any]:
    """Metrics and calibration of the packaged weights on the run's test faces."""
    faces = read_faces(layout.data(run.identity["dataset"]))
    probabilities = Model(weights).probabilities(faces.pixels(np.arange(len(faces.rows))))
    labels = faces.manifest["label"].to_numpy()
    found, before = metrics(probabilities, labels, run.classes), run.results[protocol].metrics
    if found["accuracy"] < before["accuracy"] - MOST_LOST:
        lost = f"accuracy {found['accuracy']:.2%} in half precision, {before['accuracy']:.2%} before"
        raise UserError(f"{run.directory}: {lost}; take another run")
    return found | calibration(probabilities, labels) | {"before": before["accuracy"]}


def card(run: Run, about: dict[str, Any], found: dict[str, Any], size: int) -> str:
    """The model card, Markdown: where the model comes from, how good it is, what it is not for."""
    model, named = about["model"], run.identity
    tested = np.array(found["confusion"]).sum(axis=1)
    rows = [
        f"| {name} | {'' if recall is None else f'{recall:.1%}'} | {n:,} |"
        for (name, recall), n in zip(found["per_class_recall"].items(), tested, strict=True)
    ]
    facts = {
        "Network": f"{model['name']}, input {model['img_size']}x{model['img_size']}, {size:,} bytes in half precision",
        "Started from": ", ".join(model["pretrained"]) or "scratch",
        "Run": f"{about['run']}, epoch {about['epoch']}, chosen by the protocol {about['protocol']}",
        "Prediction": "mean of a face and its mirror image" if about["hflip_tta"] else "of the face itself",
        "Digests": f"run {about['run_digest']}, weights before halving {about['weights_sha256']}",
        "Test": f"{found['n']:,} faces of {named['dataset']}",
        "Accuracy": f"{found['accuracy']:.2%} (before halving {found['before']:.2%})",
        "Mean class accuracy": f"{found['mean_class_accuracy']:.2%}; macro F1 {found['macro_f1']:.3f}",
        "Calibration": f"ECE {found['ece']:.3f}, log-likelihood {-found['nll']:.3f}, Brier score {found['brier']:.3f}",
    }
    return _CARD.format(
        name=f"{model['name']} of {about['run']}",
        facts="\n".join(f"- **{name}**: {fact}" for name, fact in facts.items()),
        data=_FERPLUS if "ferplus" in named["dataset"] else f"The dataset {named['dataset']}.",
        rows="\n".join(rows),
    )


_CARD = """\
# Model card: {name}

Made by `transfer package`; do not edit. `transfer.load()` and `transfer predict` use this model.

{facts}

## Data

{data}

## Accuracy by class

| class | recall | test faces |
|---|---:|---:|
{rows}

## Limits

It names the expression that people would see in a picture, not what a person feels. Rare classes are weak (above).
Faces from the side, covered, very small or of children, and skin tones that are rare in the training images, were not
measured separately: measure on your own faces before you rely on it.

Not for decisions about people: hiring, policing, border control, schooling, insurance, medicine, or lie detection. In
the European Union, emotion recognition at work and in education is prohibited (Regulation 2024/1689, article 5).
"""
