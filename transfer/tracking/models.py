"""Trained networks in MLflow: a logged model per run, and per recipe a registered one that stands on its own."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "model"
_CODE = Path(__file__).with_name("classifier.py")
_PACKAGE = Path(__file__).resolve().parents[1]
# What the code of classifier.py imports, down to the last module of this package.
_PACKAGES = (
    "mlflow",
    "facenet-pytorch",
    "matplotlib",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "rich",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)


def log_model(
    client: "MlflowClient",
    experiment: str,
    run_id: str,
    classes: Sequence[str],
    weights: Path,
    sha256: str,
    *,
    params: Mapping[str, str],
    whole: bool,
) -> str:
    """Log the network of a run; return the model's id.

    ``whole``: with the weights and this package's code, so that it stands on its own. Otherwise it names the run's
    model.safetensors and its digest, since a store should not hold every checkpoint a second time.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    tags = {"weights_sha256": sha256, "weights": weights.as_posix()}
    model = client.create_logged_model(experiment, NAME, run_id, tags, dict(params), "classifier")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends type hints, and would then take them for the signature
        mlflow.pyfunc.save_model(
            Path(folder) / NAME,
            mlflow_model=Model(
                artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
            ),
            python_model=_CODE,
            artifacts={"weights": str(weights)} if whole else None,
            model_config=None if whole else {"weights": weights.as_posix(), "sha256": sha256},
            code_paths=[str(_PACKAGE)] if whole else None,
            signature=_signature(classes),
            input_example=_example(),
            pip_requirements=_requirements(),
        )
        client.log_model_artifacts(model.model_id, str(Path(folder) / NAME))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model.model_id


def has_model(client: "MlflowClient", experiment: str, run_id: str, sha256: str) -> bool:
    """Whether a run has a model, whole to its last file, with these weights."""
    query = f"source_run_id = '{run_id}' and tags.weights_sha256 = '{sha256}'"
    return any(str(model.status) == "READY" for model in client.search_logged_models([experiment], query))


def register(client: "MlflowClient", name: str, model_id: str, run_id: str, alias: str, tags: Mapping[str, str]) -> str:
    """Make a model the newest version of the registered model ``name`` and let ``alias`` name it; return its number."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name,
            description="The seed with the best accuracy on the validation part, under the protocol of the alias; "
            "never chosen by the test set.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = client.create_model_version(name, f"models:/{model_id}", run_id, dict(tags), model_id=model_id)
    client.set_registered_model_alias(name, alias, made.version)
    return made.version


def registered_weights(client: "MlflowClient", name: str, alias: str) -> str | None:
    """The digest of the weights that an alias names; None where there is no such model or alias."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias).tags.get("weights_sha256")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


@cache
def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in _PACKAGES]


@cache
def _example() -> pd.DataFrame:
    """A drawn photo, as the bytes of a file: never a face of a dataset."""
    import io

    from PIL import Image

    from transfer.datasets.synthetic.render import render_face

    content = io.BytesIO()
    Image.fromarray(render_face(np.random.default_rng(0), "happiness", 0.8, 160).image).save(content, "PNG")
    return pd.DataFrame({"image": [content.getvalue()]})


def _signature(classes: Sequence[str]) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import AnyType, ColSpec, Schema

    text, number = (
        [ColSpec("string", name) for name in ("status", "expression")],
        [ColSpec("float", f"p_{name}") for name in classes],
    )
    return ModelSignature(Schema([ColSpec(AnyType(), "image")]), Schema(text + number))
