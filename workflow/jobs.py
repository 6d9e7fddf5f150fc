"""What jobs need (threads, GPUs, memory), and what Snakemake's report says of their results.

Snakemake never gives a job more threads than it has itself.
"""

import os
from typing import Any

from transfer.params import Params
from transfer.params.train import TrainParams
from transfer.tables import kinds
from transfer.utils.text import in_rst
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
        return self.params.face_params(wildcards.dataset).threads or self.all_cores(wildcards)

    def all_cores(self, wildcards: Wildcards) -> int:
        """Also where Snakemake is started without --cores, such as for a report."""
        return os.cpu_count() or 1

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


class Captions:
    """Captions and labels of an experiment's tables and figures."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def table(self, wildcards: Wildcards) -> str:
        name = wildcards.table
        datasets = "; ".join(map(self._dataset, self.params.table_datasets(name)))
        protocols = ", ".join(kinds.protocols_of(self.params, name))
        return (
            f"{self._title(name)}. Protocols: {protocols}. n: {self._seeds(name)} per recipe. Datasets: {datasets}. "
            "The text above the table names the statistical test and the number of faces. The same table as csv, "
            "Markdown and LaTeX is in the results folder."
        )

    def figure(self, wildcards: Wildcards) -> str:
        name = wildcards.table
        protocol, dataset = kinds.figure_protocol(self.params, name), self._dataset(wildcards.dataset)
        return f"{self._title(name)}. Protocol: {protocol}. n: {self._seeds(name)} per recipe. Dataset: {dataset}."

    def attention(self, wildcards: Wildcards) -> str:
        return (
            "What the networks attend to: relevance on the transformer, one test face per expression. Protocol: "
            f"{self.params.checkpoint_protocol}. n: seed {self.params.seeds[0]} only. "
            f"Dataset: {self._dataset(wildcards.dataset)}."
        )

    def table_labels(self, wildcards: Wildcards) -> dict[str, str]:
        name = wildcards.table
        datasets = " ".join(self.params.table_datasets(name))
        return {"table": name, "kind": self.params.table_definitions[name].kind, "datasets": datasets}

    def figure_labels(self, wildcards: Wildcards) -> dict[str, str]:
        protocol = kinds.figure_protocol(self.params, wildcards.table)
        return {"figure": wildcards.table, "dataset": wildcards.dataset, "protocol": protocol}

    def _title(self, table: str) -> str:
        return in_rst(self.params.table_definitions[table].title) or table

    def _seeds(self, table: str) -> str:
        number = len(self.params.table_seeds(table))
        return "1 seed" if number == 1 else f"{number} seeds"

    def _dataset(self, name: str) -> str:
        """The dataset with its layout."""
        definition = self.params.dataset_definitions[name]
        synthetic = ", synthetic faces" if definition.synthetic is not None else ""
        return f"{name} (layout {in_rst(definition.layout)}{synthetic})"
