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

    def data(self, dataset: str) -> Path:
        """Folder of a dataset: index, faces, aligned store, split, upsampling plans."""
        return self.root / "data" / dataset

    def run(self, dataset: str, recipe: str, seed: int) -> Path:
        """Folder of one training."""
        return self.root / "runs" / dataset / recipe / f"seed{seed}"

    def plan(self, dataset: str, upsample: str) -> Path:
        """Row numbers of the training part after upsampling."""
        return self.data(dataset) / f"plan_{upsample}.npy"
