"""The configuration's typed models: what ``params/*.yaml`` may say, and what each key means.

``transfer.config`` reads the files; the JSON schema ``params/schema.json`` is generated from these models.
"""

from transfer.params.datasets import DatasetDefinition, FaceParams, SamplingParams
from transfer.params.experiment import Params
from transfer.params.model import ModelParams
from transfer.params.recipes import RecipeDefinition, RunParams
from transfer.params.robustness import RobustnessParams
from transfer.params.search import PrunerParams, SearchDefinition, SearchSpace
from transfer.params.strict import SPLITS, Name, ParamsError, S, Strict, digest, merge
from transfer.params.tables import OF_WEIGHTS, TableDefinition
from transfer.params.train import WHERE, Augmentation, TrainParams

__all__ = [
    "Augmentation",
    "DatasetDefinition",
    "FaceParams",
    "ModelParams",
    "Name",
    "OF_WEIGHTS",
    "Params",
    "ParamsError",
    "PrunerParams",
    "RecipeDefinition",
    "RobustnessParams",
    "RunParams",
    "S",
    "SPLITS",
    "SamplingParams",
    "SearchDefinition",
    "SearchSpace",
    "Strict",
    "TableDefinition",
    "TrainParams",
    "WHERE",
    "digest",
    "merge",
]
