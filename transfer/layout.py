"""Where the files of an experiment lie; the same names stand in workflow/rules."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """Paths below ``results/<experiment>/``."""

    experiment: str
    results: Path = Path("results")

    @property
    def root(self) -> Path:
        """Folder of the experiment."""
        return self.results / self.experiment

    @property
    def params(self) -> Path:
        """Snapshot of the resolved configuration, written when a workflow starts."""
        return self.root / "params.yaml"

    @property
    def audit(self) -> Path:
        """Folder of the leak audit."""
        return self.root / "audit"

    @property
    def metrics(self) -> Path:
        """Folder of the accuracies that DVC shows: a small file per dataset and recipe."""
        return self.root / "metrics"

    @property
    def figures(self) -> Path:
        """Folder of the figures, each with its caption in a .json."""
        return self.root / "figures"

    def table(self, name: str, suffix: str) -> Path:
        """A table of the experiment as csv, md or tex."""
        return self.root / f"{name}.{suffix}"

    def data(self, dataset: str) -> Path:
        """Folder of a dataset: index, faces, aligned store, split, upsampling plans."""
        return self.root / "data" / dataset

    def run(self, dataset: str, recipe: str, seed: int) -> Path:
        """Folder of one training."""
        return self.root / "runs" / dataset / recipe / f"seed{seed}"

    def plan(self, dataset: str, upsample: str) -> Path:
        """Row numbers of the training part after upsampling."""
        return self.data(dataset) / f"plan_{upsample}.npy"

    def weights(self, name: str) -> Path:
        """Weights of others with our names, as ``transfer weights`` writes them."""
        return self.root / "weights" / f"{name}.safetensors"

    def evaluated(self, weights: Path, sha256: str, dataset: str) -> Path:
        """Folder of what a weight file predicts on a dataset; many files are named model.safetensors."""
        return self.root / "weights" / f"{weights.stem}-{sha256[:8]}" / dataset

    def report(self, table: str) -> Path:
        """The page of a table in Snakemake's report."""
        return self.root / "report" / f"{table}.html"

    def evaluation(self, kind: str, dataset: str, recipe: str, seed: int) -> Path:
        """Folder of what a finished training is asked besides its own test faces: robustness, cross and so on."""
        return self.root / "evaluations" / kind / dataset / recipe / f"seed{seed}"

    def state(self, dataset: str, recipe: str, seed: int) -> Path:
        """Folder of a training's resume state, which no rule declares: Snakemake deletes declared files."""
        return self.root / "state" / dataset / recipe / f"seed{seed}"

    def detection_state(self, dataset: str) -> Path:
        """Folder of a detection's resume state, which no rule declares."""
        return self.root / "state" / dataset / "detect"

    @property
    def journal(self) -> Path:
        """All studies of the experiment, where no other storage is named; no rule declares it."""
        return self.root / "search" / "journal.log"

    def search(self, search: str) -> Path:
        """Folder of a search: its best.yaml, and a folder per dataset."""
        return self.root / "search" / search

    def search_state(self, search: str, dataset: str) -> Path:
        """Folder of the locks and unfinished trials of a study, which no rule declares."""
        return self.root / "state" / "search" / search / dataset
