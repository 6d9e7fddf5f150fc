"""Names and values that MLflow shows of a run, the same live and from the run's files."""

from collections.abc import Mapping
from typing import Any

from transfer.params.read import flat

# Limits of mlflow.utils.validation; MLflow refuses longer values.
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_ENVIRONMENT = ("commit", "python", "system", "cpu", "cores", "device", "precision", "threads", "deployment")
_DIGESTS = ("data_digest", "params_digest", "code_digest")
_PER_SPLIT = ("accuracy", "mean_class_accuracy", "macro_f1")
# MLflow shows the charts of a run in groups ordered by name; with this prefix the curves come first.
EPOCH = "epoch/"
RUN, RECIPE, FILES, IN_TABLE = "transfer.run", "transfer.recipe", "transfer.files", "transfer.in_table"
"""Our tags: identity of a run, identity of a recipe's run, digest of the synced files, whether the tables use it."""

Point = tuple[str, float, int, int]
"""A value of a metric: name, value, time in milliseconds since 1970, step."""


def identity_tags(experiment: str, dataset: str, recipe: str, seed: int, digest: str) -> dict[str, str]:
    """Tags that identify a run; ``digest`` covers its data, parameters and code."""
    return {
        RUN: f"{experiment}/{dataset}/{recipe}/seed{seed}@{digest}",
        "dataset": dataset,
        "recipe": recipe,
        "seed": str(seed),
        "mlflow.source.name": "transfer",
        "mlflow.source.type": "LOCAL",
    }


def environment_tags(env: Mapping[str, Any]) -> dict[str, str]:
    """Commit, hardware, versions, protocols and digests, from env.json."""
    tags = {name: str(env.get(name) or "none") for name in (*_ENVIRONMENT, *_DIGESTS)}
    versions = {name: version for name, version in env.get("packages", {}).items() if name in ("torch", "timm")}
    return tags | versions | {"mlflow.source.git.commit": tags["commit"], "protocols": ",".join(env["protocols"])}


def epoch_metrics(env: Mapping[str, Any]) -> list[dict[str, float]]:
    """Seconds and images per second of each epoch, from env.json, for MLflow's page of system metrics."""
    images = env["training_images_per_epoch"]
    return [
        {"system/epoch_seconds": seconds, "system/images_per_second": round(images / seconds, 1) if seconds else 0.0}
        for seconds in env["seconds_per_epoch"]
    ]


def epoch_points(epoch: int, metrics: Mapping[str, float], time: int) -> list[Point]:
    """Metrics of an epoch (1-based); those without a group get the group ``epoch``, and NaN is left out."""
    named = {name if "/" in name else EPOCH + name: float(value) for name, value in metrics.items()}
    return [(name, value, time, epoch) for name, value in named.items() if value == value]


def result_points(results: Mapping[str, Any], time: int) -> list[Point]:
    """Selected epoch and accuracies per protocol, from metrics.json, at step 0, for which MLflow draws bars."""
    values = {}
    for protocol, result in results["protocols"].items():
        values[f"{protocol}/epoch"] = float(result["epoch"])
        for split, numbers in result["splits"].items():
            values |= {f"{protocol}/{split}_{name}": numbers[name] for name in _PER_SPLIT}
    return [(name, value, time, 0) for name, value in values.items()]


def param_texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested ``params`` with dotted names, as text that MLflow accepts."""
    return {key: str(value)[:_PARAM_LENGTH] for key, value in flat(params).items()}


def tag_texts(tags: Mapping[str, Any]) -> dict[str, str]:
    """``tags`` as text that MLflow accepts."""
    return {key: str(value)[:_TAG_LENGTH] for key, value in tags.items()}
