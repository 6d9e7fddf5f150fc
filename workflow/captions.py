"""Captions of tables and figures in Snakemake's report, and the labels to filter by."""

from transfer.params import Params
from transfer.tables import kinds
from transfer.utils.text import in_rst
from workflow.versions import Wildcards


class Captions:
    """Captions and labels of an experiment's tables and figures."""

    def __init__(self, params: Params) -> None:
        self.params = params

    def table(self, wildcards: Wildcards) -> str:
        name = wildcards.table
        datasets = "; ".join(map(self._dataset, self.params.table_datasets(name)))
        protocols = ", ".join(kinds.protocols_of(self.params, name))
        return f"{self._title(name)}. Protocols: {protocols}. n: {self._seeds(name)} per recipe. Datasets: {datasets}."

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
