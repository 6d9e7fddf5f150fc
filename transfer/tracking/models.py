"""Registered models: the best seed of each recipe, with weights, code and requirements."""

import contextlib
import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

_CODE = Path(__file__).with_name("classifier.py")
_PACKAGE = Path(__file__).resolve().parents[1]
# What classifier.py imports, down to the last module of this package.
_PACKAGES = (
    *("mlflow", "facenet-pytorch", "matplotlib", "numpy", "pandas", "pillow", "pyarrow", "pydantic", "pyyaml", "rich"),
    *("safetensors", "scipy", "timm", "torch", "torchvision"),
)
_NOTE = "The seed with the best validation accuracy under the alias's protocol; selected without the test split."


def registered_weights(client: "MlflowClient", name: str, alias: str) -> str | None:
    """SHA-256 of the weights that an alias names; None if there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias).tags.get("weights_sha256")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def register(client: "MlflowClient", name: str, weights: Path, run_id: str, alias: str, tags: dict[str, str]) -> None:
    """Log a run's model.safetensors in the MLflow run ``run_id``, as the newest version of the model ``name``."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_NOTE)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # MLflow writes its progress to stderr, and recommends type hints that it would then take for the signature.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()), mlflow.start_run(run_id):
        warnings.simplefilter("ignore")
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=_CODE,
            artifacts={"weights": str(weights)},
            code_paths=[str(_PACKAGE)],
            signature=_signature(weights),
            pip_requirements=[f"{package}=={version(package)}" for package in _PACKAGES],
            registered_model_name=name,
            tags={"weights_sha256": tags["weights_sha256"]},
        )
    number = str(logged.registered_model_version)
    for key, value in tags.items():
        client.set_model_version_tag(name, number, key, value)
    client.set_registered_model_alias(name, alias, number)


def _signature(weights: Path) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema, TensorSpec
    from pyarrow.parquet import read_schema

    columns = read_schema(weights.with_name("predictions.parquet")).names
    answer: list[ColSpec | TensorSpec] = [ColSpec("string", name) for name in ("status", "expression")]
    answer += [ColSpec("float", name) for name in columns if name.startswith("p_")]
    return ModelSignature(Schema([ColSpec(AnyType(), "image")]), Schema(answer))
