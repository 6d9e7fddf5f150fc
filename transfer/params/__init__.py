"""Typed models of the configuration: the keys of ``params/*.yaml`` and what they mean.

``transfer.params.read`` reads the files; the JSON schema ``params/schema.json`` is generated from these models.
"""

from transfer.params.base import SPLITS, Name, ParamsError, S, Strict, digest, merge, nested
from transfer.params.datasets import DatasetDefinition, FaceParams, SamplingParams
from transfer.params.experiment import Params
from transfer.params.recipes import RecipeDefinition, RecipeOnDataset, RunParams
from transfer.params.search import PrunerParams, SearchDefinition, SearchRange, SearchSpace
from transfer.params.tables import TableDefinition
from transfer.params.train import (
    RUNTIME_KEYS,
    Augmentation,
    LossParams,
    ModelOverride,
    ModelParams,
    RobustnessParams,
    TrainOverride,
    TrainParams,
)

__all__ = [
    "Augmentation",
    "DatasetDefinition",
    "FaceParams",
    "LossParams",
    "ModelOverride",
    "ModelParams",
    "Name",
    "Params",
    "ParamsError",
    "PrunerParams",
    "RUNTIME_KEYS",
    "RecipeDefinition",
    "RecipeOnDataset",
    "RobustnessParams",
    "RunParams",
    "S",
    "SPLITS",
    "SamplingParams",
    "SearchDefinition",
    "SearchRange",
    "SearchSpace",
    "Strict",
    "TableDefinition",
    "TrainOverride",
    "TrainParams",
    "digest",
    "merge",
    "nested",
]
