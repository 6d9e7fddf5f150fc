"""Paths of an experiment's files; workflow/rules uses the same names."""

from dataclasses import dataclass
from pathlib import Path

from transfer.utils.chain import Chain


@dataclass(frozen=True)
class Layout:
    """Paths below ``results/<experiment>/``; no rule declares the resume states, for Snakemake deletes outputs."""

    experiment: str
    results: Path = Path("results")

    @property
    def root(self) -> Path:
        return self.results / self.experiment

    @property
    def chain(self) -> Chain:
        """The notes of what each file was made from."""
        return Chain(self.root)

    @property
    def params(self) -> Path:
        """Snapshot of the resolved configuration, written when a workflow starts."""
        return self.root / "params.yaml"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def inference(self) -> Path:
        """Speed of each recipe's network, and whether its predictions depend on the batch."""
        return self.root / "inference.json"

    @property
    def metrics(self) -> Path:
        """Folder of the accuracies for `dvc metrics`: a small file per dataset and recipe."""
        return self.root / "metrics"

    @property
    def figures(self) -> Path:
        """Folder of the figures, each with a caption in a .json."""
        return self.root / "figures"

    def table(self, name: str, suffix: str) -> Path:
        return self.root / f"{name}.{suffix}"

    def report(self, table: str) -> Path:
        """The page of a table in Snakemake's report."""
        return self.root / "report" / f"{table}.html"

    def data(self, dataset: str) -> Path:
        """Folder of a dataset: index, faces, aligned store, split, upsampling plans."""
        return self.root / "data" / dataset

    def plan(self, dataset: str, upsample: str) -> Path:
        """Row numbers of the training set after upsampling."""
        return self.data(dataset) / f"plan_{upsample}.npy"

    def run(self, dataset: str, recipe: str, seed: int) -> Path:
        return self.root / "runs" / dataset / recipe / f"seed{seed}"

    def state(self, dataset: str, recipe: str, seed: int) -> Path:
        return self.root / "state" / dataset / recipe / f"seed{seed}"

    def detection_state(self, dataset: str) -> Path:
        return self.root / "state" / dataset / "detect"

    def evaluation(self, kind: str, dataset: str, recipe: str, seed: int) -> Path:
        """Folder of an additional evaluation of a run: robustness, cross, attention."""
        return self.root / "evaluations" / kind / dataset / recipe / f"seed{seed}"

    def tool(self, dataset: str, tool: str) -> Path:
        """A tool's predictions on a dataset's test faces."""
        return self.root / "evaluations" / "tools" / dataset / f"{tool}.parquet"

    def weights(self, name: str) -> Path:
        """Third-party weights under this project's parameter names."""
        return self.root / "weights" / f"{name}.safetensors"

    def evaluated(self, weights: Path, sha256: str, dataset: str) -> Path:
        """Folder of a weight file's predictions on a dataset; the digest tells files of the same name apart."""
        return self.root / "weights" / f"{weights.stem}-{sha256[:8]}" / dataset

    @property
    def journal(self) -> Path:
        """All studies of the experiment in the default storage; no rule declares it."""
        return self.root / "search" / "journal.log"

    def search(self, search: str) -> Path:
        """Folder of a search: best.yaml and a folder per dataset."""
        return self.root / "search" / search

    def search_state(self, search: str, dataset: str) -> Path:
        """Folder of the unfinished trials of a study."""
        return self.root / "state" / "search" / search / dataset
