"""Typed models of the configuration: the keys of ``params/*.yaml`` and what they mean.

``transfer.params.read`` reads the files; the JSON schema ``params/schema.json`` is generated from these models.
"""

from transfer.params.base import SPLITS, ParamsError, Strict, digest, merge
from transfer.params.datasets import FaceParams
from transfer.params.experiment import Params
from transfer.params.recipes import RunParams
from transfer.params.train import RUNTIME_KEYS, Augmentation, ModelParams, TrainParams

__all__ = ["RUNTIME_KEYS", "SPLITS", "Augmentation", "FaceParams", "ModelParams", "Params", "ParamsError", "RunParams"]
__all__ += ["Strict", "TrainParams", "digest", "merge"]
