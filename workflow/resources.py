"""Threads, GPUs and memory of jobs. Snakemake never gives a job more threads than it has itself."""

import os
from typing import Any

from transfer.params import Params
from transfer.params.train import TrainParams
from workflow.versions import Wildcards

_LIBRARIES_MB = 4000


class JobResources:
    """What the jobs of an experiment need."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def _train(self, wildcards: Wildcards) -> TrainParams:
        return self.params.run(wildcards.dataset, wildcards.recipe).train

    def detect_threads(self, wildcards: Wildcards) -> int:
        """``faces.threads``; all cores by default."""
        return self.params.face_params(wildcards.dataset).threads or os.cpu_count() or 1

    def train_threads(self, wildcards: Wildcards) -> int:
        """Threads of all processes of a run."""
        return self._train(wildcards).threads * self._train(wildcards).gpus

    def threads_each(self, wildcards: Wildcards, threads: int) -> int:
        """Threads of one process, out of the ``threads`` that Snakemake grants."""
        return max(1, threads // self._train(wildcards).gpus)

    def train_gpus(self, wildcards: Wildcards) -> int:
        """``train.gpus`` for ``device: cuda``; ``auto`` uses what is there and requests nothing from a cluster."""
        return self._train(wildcards).gpus if self._train(wildcards).device == "cuda" else 0

    def threads(self, wildcards: Wildcards) -> int:
        """Threads of an evaluation of a run."""
        return self._train(wildcards).threads

    def gpus(self, wildcards: Wildcards) -> int:
        """GPUs of an evaluation of a run."""
        return int(self._train(wildcards).device == "cuda")

    def search_threads(self, wildcards: Wildcards) -> int:
        search = self.params.search_definitions[wildcards.search]
        return self.params.run(wildcards.dataset, search.recipe).train.threads

    def store_mb(self, wildcards: Wildcards, input: Any) -> int:
        """Memory of a job that reads the faces of a dataset: two copies of its inputs, and the libraries."""
        return int(_LIBRARIES_MB + 2 * input.size_mb)

    def train_mb(self, wildcards: Wildcards, input: Any) -> int:
        """Memory of a run: its processes share the pages of the store, but not the libraries."""
        return self.store_mb(wildcards, input) + _LIBRARIES_MB * (self._train(wildcards).gpus - 1)
