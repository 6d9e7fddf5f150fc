"""Typed models of the configuration: the keys of ``params/*.yaml`` and what they mean.

``transfer.params.read`` reads the files; the JSON schema ``params/schema.json`` is generated from these models.
"""

from transfer.params.base import SPLITS, Name, ParamsError, S, Strict, digest, merge
from transfer.params.datasets import DatasetDefinition, FaceParams, SamplingParams
from transfer.params.experiment import Params
from transfer.params.recipes import RecipeDefinition, RecipeOnDataset, RunParams
from transfer.params.search import CountRange, PrunerParams, RateRange, SearchDefinition, SearchSpace
from transfer.params.tables import TableDefinition
from transfer.params.train import (
    RUNTIME_KEYS,
    Augmentation,
    ModelOverride,
    ModelParams,
    RobustnessParams,
    TrainOverride,
    TrainParams,
)

__all__ = [
    "Augmentation",
    "CountRange",
    "DatasetDefinition",
    "FaceParams",
    "ModelOverride",
    "ModelParams",
    "Name",
    "Params",
    "ParamsError",
    "PrunerParams",
    "RUNTIME_KEYS",
    "RateRange",
    "RecipeDefinition",
    "RecipeOnDataset",
    "RobustnessParams",
    "RunParams",
    "S",
    "SPLITS",
    "SamplingParams",
    "SearchDefinition",
    "SearchSpace",
    "Strict",
    "TableDefinition",
    "TrainOverride",
    "TrainParams",
    "digest",
    "merge",
]
