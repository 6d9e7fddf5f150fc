"""Versions of jobs: digests of the parameters and of the code that a job depends on.

A rule hands the version of a job to Snakemake as a parameter: a job reruns when its version has changed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transfer.losses.registry import module_of as loss_module
from transfer.models.registry import module_of
from transfer.params import RUNTIME_KEYS, Params, RunParams, digest
from transfer.tables import kinds
from transfer.utils.code_digest import step_digest

Wildcards = Any
"""The wildcards of a job, one attribute each."""


class Versions:
    """One method per rule. ``archives`` are the datasets' files; ``code`` digests the code of a step."""

    def __init__(self, params: Params, archives: Mapping[str, str], code: Callable[..., str] = step_digest) -> None:
        self.params, self.archives, self._code = params, archives, code

    def of(self, step: str) -> str:
        """Of a step that no parameter changes."""
        return self._code(step)

    def _run(self, wildcards: Wildcards) -> RunParams:
        return self.params.run(wildcards.dataset, wildcards.recipe)

    def _model_code(self, step: str, wildcards: Wildcards) -> str:
        """Digest of a step that runs a model."""
        return self._code(step, module_of(self._run(wildcards).model.name))

    def _train_code(self, step: str, run: RunParams) -> str:
        """Digest of a step that trains."""
        return self._code(step, module_of(run.model.name), loss_module(run.train.loss.name))

    def index(self, wildcards: Wildcards) -> str:
        data = self.params.dataset_definitions[wildcards.dataset]
        code = self._code("index", f"transfer.datasets.{data.parser}")
        # When a synthetic archive, whose date does not count, is made again.
        made = [self._code("synthesize"), data.synthetic, data.synthetic_scale] if data.synthetic is not None else []
        return digest(data.parser, data.options, data.expect, data.missing, code, made)

    def subsets(self, wildcards: Wildcards) -> str:
        data = self.params.dataset_definitions[wildcards.dataset]
        return digest(data.parser, data.options, self._code("subsets"))

    def detect(self, wildcards: Wildcards) -> str:
        return digest(self.params.face_params(wildcards.dataset).search(), self._code("detect"))

    def align(self, wildcards: Wildcards) -> str:
        return digest(self.params.face_params(wildcards.dataset).alignment(), self._code("align"))

    def inspect(self, wildcards: Wildcards) -> str:
        # The page shows the archive's name and the alignment.
        archive = Path(self.archives[wildcards.dataset]).name
        return digest(archive, self.align(wildcards), self._code("inspect"))

    def audit(self, wildcards: Wildcards) -> str:
        about = [self.params.dataset_definitions[dataset].about for dataset in self.params.datasets]
        return digest(self.params.experiment, self.params.datasets, about, self._code("audit"))

    def sample(self, wildcards: Wildcards) -> str:
        sampling = self.params.sampling_params(wildcards.dataset)
        groups = [] if sampling.duplicates == "keep" else ["transfer.audit.copies"]
        return digest(sampling.val_fraction, sampling.split_seed, sampling.duplicates, self._code("sample", *groups))

    def weights(self, wildcards: Wildcards) -> str:
        from transfer.models.weights.catalogue import importer

        return digest(importer(wildcards.weights), self._code("weights"))

    def train(self, wildcards: Wildcards) -> str:
        run = self._run(wildcards)
        train = run.train.model_dump(mode="json", exclude=RUNTIME_KEYS)
        return digest(run.model, train, sorted(self.params.protocols), self._train_code("train", run))

    def robustness(self, wildcards: Wildcards) -> str:
        robustness = self.params.robustness
        return digest(robustness.selected(), robustness.seed, self._model_code("robustness", wildcards))

    def cross(self, wildcards: Wildcards) -> str:
        # Datasets made from the same archive are not evaluated on each other.
        named = [self.params.dataset_definitions[name] for name in (wildcards.dataset, wildcards.test_dataset)]
        pictures = [(definition.parser, definition.archive) for definition in named]
        return digest(pictures, self._model_code("cross", wildcards))

    def diversity(self, wildcards: Wildcards) -> str:
        return self._model_code("diversity", wildcards)

    def search(self, wildcards: Wildcards) -> str:
        search = self.params.search_definitions[wildcards.search]
        run = self.params.run(wildcards.dataset, search.recipe)
        train = run.train.model_dump(mode="json", exclude=RUNTIME_KEYS)
        definition = search.model_dump(mode="json", exclude={"workers"})
        code = self._train_code("search", run)
        return digest(definition, run.model, run.sampling.upsample, train, code)

    def search_report(self, wildcards: Wildcards) -> str:
        search = self.params.search_definitions[wildcards.search]
        runs = [self.params.run(dataset, search.recipe) for dataset in self.params.datasets]
        recipe = self.params.recipe(search.recipe)
        return digest(self.params.recipes, recipe, *runs, self._code("search_report"))

    def table(self, wildcards: Wildcards) -> str:
        name, params = wildcards.table, self.params
        definition = params.table_definitions[name]
        datasets = [params.dataset_definitions[dataset] for dataset in params.table_datasets(name)]
        return digest(
            params.experiment,
            definition.model_dump(mode="json", exclude={"sweep"}),
            params.table_runs(name),
            kinds.protocols_of(params, name),
            params.table_baseline(name),
            [(dataset.reported_as, dataset.about) for dataset in datasets],
            self._table_code(name),
        )

    def _table_code(self, name: str) -> str:
        return self._code("table", f"transfer.tables.kinds.{self.params.table_definitions[name].kind}")

    def published_table(self, wildcards: Wildcards) -> str:
        # Another experiment may have been the last to publish: the copy must be this experiment's.
        return f"{self.params.experiment} {self.table(wildcards)}"

    def leaderboard(self, wildcards: Wildcards) -> str:
        params = self.params
        of = [(dataset, params.dataset_definitions[dataset].reported_as) for dataset in params.datasets]
        return digest(params.experiment, of, params.runs(), sorted(params.protocols), self._code("leaderboard"))

    def figure(self, wildcards: Wildcards) -> str:
        name, params = wildcards.table, self.params
        return digest(
            params.experiment,
            params.table_definitions[name].model_dump(mode="json"),
            kinds.protocols_of(params, name),
            params.table_runs(name, wildcards.dataset),
            self._table_code(name),
        )

    def attention(self, wildcards: Wildcards) -> str:
        return digest(self.params.experiment, self.params.recipes, self.params.seeds[0], self._code("attention"))
