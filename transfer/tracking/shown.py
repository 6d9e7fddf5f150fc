"""What MLflow shows of a run, by which names: the same whether a training says it live or its files do afterwards."""

from collections.abc import Iterator, Mapping
from typing import Any

# Limits of mlflow.utils.validation; longer values are refused or cut with a warning, depending on MLflow's settings.
_PARAM_LENGTH, _TAG_LENGTH = 6000, 8000
_ENVIRONMENT = ("commit", "python", "system", "cpu", "cores", "device", "precision", "threads", "deployment")
# MLflow's page of a run shows its charts group by group, by name, and what has no group last: so the curves come first.
EPOCH = "epoch/"
_DIGESTS = ("data_digest", "params_digest", "code_digest")


def identity_tags(experiment: str, dataset: str, recipe: str, seed: int, digest: str) -> dict[str, str]:
    """The tags by which a training is found again in a store."""
    return {
        "transfer.run": f"{experiment}/{dataset}/{recipe}/seed{seed}@{digest}",
        "dataset": dataset,
        "recipe": recipe,
        "seed": str(seed),
        "mlflow.source.name": "transfer",
        "mlflow.source.type": "LOCAL",
    }


def shown_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of one epoch by MLflow's names: those without a group get the group ``epoch``."""
    return {name if "/" in name else EPOCH + name: float(value) for name, value in metrics.items()}


def shown_results(metrics: Mapping[str, Any]) -> dict[str, float]:
    """From the content of metrics.json, per protocol: its epoch and its accuracies.

    To be logged at step 0: MLflow draws bars of them then, which compare runs, and else curves of one point.
    """
    return {
        f"{protocol}/{name}": value
        for protocol, result in metrics["protocols"].items()
        for name, value in [("epoch", float(result["epoch"])), *_accuracies(result["splits"])]
    }


def _accuracies(splits: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for split, values in splits.items():
        for name in ("accuracy", "mean_class_accuracy", "macro_f1"):
            yield f"{split}_{name}", values[name]


def environment_tags(env: Mapping[str, Any]) -> dict[str, str]:
    """Commit, hardware, protocols and digests, from the content of env.json."""
    tags = {name: str(env.get(name) or "none") for name in (*_ENVIRONMENT, *_DIGESTS)}
    versions = {name: version for name, version in env.get("packages", {}).items() if name in ("torch", "timm")}
    return tags | versions | {"mlflow.source.git.commit": tags["commit"], "protocols": ",".join(env["protocols"])}


def epoch_metrics(env: Mapping[str, Any]) -> list[dict[str, float]]:
    """Per epoch what stands on MLflow's page of system metrics, from the content of env.json."""
    images = env["training_images_per_epoch"]
    return [
        {"system/epoch_seconds": seconds, "system/images_per_second": round(images / seconds, 1) if seconds else 0.0}
        for seconds in env["seconds_per_epoch"]
    ]


def shown_params(params: Mapping[str, Any]) -> dict[str, str]:
    """Nested ``params`` with dotted names, as text that MLflow takes."""
    return {key: str(value)[:_PARAM_LENGTH] for key, value in _flatten(params)}


def shown_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """``tags`` as text that MLflow takes."""
    return {key: str(value)[:_TAG_LENGTH] for key, value in tags.items()}


def _flatten(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
