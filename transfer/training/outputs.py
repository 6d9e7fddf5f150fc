"""What a run leaves in its directory: model.safetensors, history.csv, predictions.parquet, env.json.

And loss.parquet, where its loss has a state for each training face.
"""

import json
import time
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from transfer.models.registry import input_of
from transfer.models.weights.load import KEY
from transfer.params import digest
from transfer.runs.predictions import predictions_frame, write_predictions
from transfer.runs.read import chain_of
from transfer.training.state import Run
from transfer.utils.environment import environment
from transfer.utils.files import atomic, sha256, write_json


def write_run(run: Run) -> None:
    """Write the outputs; each appears whole, env.json last."""
    selected, protocol, data = run.selected, run.params.checkpoint_protocol, run.data
    chosen = selected.get(protocol) or {"epoch": len(run.history), "weights": run.weights()}
    about = {
        "model": run.settings.model.model_dump(mode="json") | input_of(run.settings.model),
        "faces": run.params.face_params(run.dataset).model_dump(mode="json"),
        "classes": data.classes,
        "run": f"{run.params.experiment}/{run.dataset}/{run.recipe}/seed{run.seed}",
        "protocol": protocol,
        "epoch": chosen["epoch"],
        "hflip_tta": run.settings.train.hflip_tta,
        "pretrained_sha256": run.pretrained,
    }
    with atomic(run.directory / "model.safetensors") as part:
        weights = {name: value.contiguous() for name, value in chosen["weights"].items()}
        save_file(weights, part, {KEY: json.dumps(about)})
    with atomic(run.directory / "history.csv") as part:
        pd.DataFrame(run.history).to_csv(part, index=False)
    own = {name: value.cpu().numpy() for name, value in run.criterion.named_buffers() if len(value) == len(data.labels)}
    if own:
        trained = pd.DataFrame({"sample": data.samples, **own}).iloc[data.rows["train"]]
        with atomic(run.directory / "loss.parquet") as part:
            trained.to_parquet(part, index=False)
    frames = []
    for kept_by, best in selected.items():
        for split, probabilities in best["probabilities"].items():
            about = {"split": split, "protocol": kept_by, "epoch": best["epoch"]}
            samples, labels = data.samples[data.rows[split]], data.labels[data.rows[split]]
            frames.append(predictions_frame(samples, labels, probabilities.numpy(), data.classes, **about))
    write_predictions(run.directory / "predictions.parquet", pd.concat(frames, ignore_index=True))
    left = {"weights_sha256": sha256(run.directory / "model.safetensors"), **epoch_times(run)}
    left |= {"params": run.settings.model_dump(mode="json"), "ended": int(time.time())}
    write_json(run.directory / "env.json", run_environment(run) | left)
    names = ["model.safetensors", "history.csv", "predictions.parquet", "env.json", *(["loss.parquet"] if own else [])]
    written = [run.directory / name for name in names]
    chain_of(run.directory).note(written, run.made_from)


def run_environment(run: Run) -> dict[str, Any]:
    """What a run is computed with: code, hardware, and digests of data and parameters."""
    cuda = run.device.type == "cuda"
    return environment() | {
        "device": torch.cuda.get_device_name(run.device) if cuda else "cpu",
        "precision": run.precision,
        "deterministic": run.deterministic,
        "threads": run.settings.train.threads,
        "gpus": run.group.world if cuda else 0,
        "protocols": list(run.params.protocols),
        "digest": run.digest,
        "data_digest": run.identity["data"],
        "evaluation": run.data.test_faces,
        "params_digest": digest(run.settings),
        "code_digest": run.identity["code"],
        "pretrained_sha256": run.pretrained,
    }


def epoch_times(run: Run) -> dict[str, Any]:
    """How long the epochs took, and how many images each trained on."""
    return {
        "training_images_per_epoch": run.data.steps * run.data.batch_size,
        "seconds_per_epoch": [round(seconds, 3) for seconds in run.seconds],
    }
