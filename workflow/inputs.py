"""Input files of jobs: raw files of the datasets, and outputs of other rules."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from transfer.datasets.registry import get as parser
from transfer.datasets.subsets import list_files
from transfer.layout import Layout
from transfer.models.weights.catalogue import OWN, find_weights
from transfer.params import Params
from transfer.sources.table import archive_path, tools, weights_path
from transfer.sources.table import load as load_sources
from transfer.tables import kinds
from transfer.utils.chain import below
from transfer.utils.digests import contents
from transfer.utils.errors import UserError
from workflow.session import errors_in_lines
from workflow.versions import Wildcards

RUN_FILES = ("model.safetensors", "history.csv", "predictions.parquet", "env.json", "metrics.json")


class Inputs:
    """Input files of an experiment's jobs.

    Public attributes are looked up once, when the workflow starts: ``archives`` and ``subset_lists`` by dataset,
    ``weights`` by source, ``synthetic`` (archives that a rule makes, with the dataset each is made for), ``tools``
    (packages that were fetched), ``downloads`` (files that a rule downloads), ``board_files`` (tasks and entries of the
    leaderboard). Raises UserError that lists all missing archives and weights.
    """

    def __init__(self, params: Params) -> None:
        self.params, self.layout = params, Layout(params.experiment)
        self.raw_dir = Path(params.raw_dir).as_posix()
        self._known: dict[Path, list[str]] = {}
        self.selected_runs = params.selected_runs()
        missing: list[str] = []
        self.archives: dict[str, str] = {}
        for dataset in params.all_datasets():
            try:
                self.archives[dataset] = archive_path(params, dataset).as_posix()
            except UserError as error:  # of a table that was not selected: reported when it is asked for
                missing += [str(error)] if dataset in params.selected_datasets() else []
        self.weights: dict[str, str] = {}
        for name in dict.fromkeys(name for run in self.selected_runs for name in params.run(*run[:2]).model.pretrained):
            try:
                self.weights[name] = (find_weights() if name == OWN else weights_path(params, name)).as_posix()
            except UserError as error:
                missing.append(str(error))
        if missing:
            raise UserError("\n".join(missing))
        definitions = params.dataset_definitions
        self.subset_lists = {
            dataset: _posix(list_files(params.raw_dir, definitions[dataset]).values())
            for dataset in params.all_datasets()
        }
        # Several datasets may share an archive; a selected one comes last and wins.
        self.synthetic = {
            definitions[dataset].archive: dataset
            for dataset in [*params.all_datasets(), *params.selected_datasets()]
            if definitions[dataset].synthetic is not None
        }
        self.tools = {name: path.as_posix() for name, path in tools(params.raw_dir).items()}
        entries = _files("leaderboard/entries/*/*")
        self.board_files = ["params/reported.yaml", *_files("leaderboard/tasks/*.yaml"), *entries]
        self.downloads = [
            file.path for entry in load_sources().values() for file in entry.files if file.url or file.package
        ]

    # ---- Raw files

    @errors_in_lines()
    def archive_of(self, wildcards: Wildcards) -> list[str]:
        """The archive of a synthetic dataset, which a rule makes; of the others the content counts: `raw_data_of`."""
        archive = self._archive(wildcards.dataset)
        return [archive] if self.params.dataset_definitions[wildcards.dataset].synthetic is not None else []

    def _archive(self, dataset: str) -> str:
        return self.archives.get(dataset) or archive_path(self.params, dataset).as_posix()

    @errors_in_lines()
    def raw_data_of(self, wildcards: Wildcards) -> list[str]:
        """What is in a dataset's archive and lists; exits with one line where it is missing."""
        index = self.layout.data(wildcards.dataset) / "index.parquet"
        return self._contents(index, [self._archive(wildcards.dataset), *self.lists_of(wildcards)])

    @errors_in_lines()
    def raw_lists_of(self, wildcards: Wildcards) -> list[str]:
        """What is in the lists of a dataset's challenge subsets."""
        return self._contents(self.layout.data(wildcards.dataset) / "subsets.parquet", self.subset_lists_of(wildcards))

    @errors_in_lines()
    def raw_weights_of(self, wildcards: Wildcards) -> list[str]:
        """What is in a third-party file of weights."""
        return self._contents(self.layout.weights(wildcards.weights), [self.weights_file_of(wildcards)])

    def _contents(self, output: Path, raw: Sequence[str]) -> list[str]:
        """What is in the ``raw`` files that ``output`` is made from, and one line on stderr if that has changed.

        A file that is gone, but can be made or downloaded again, counts as unchanged.
        """
        if output not in self._known:
            chain, present = (
                self.layout.chain,
                {Path(path): contents(Path(path)) for path in raw if Path(path).exists()},
            )
            now = (chain.raw(output) or {}) | {below(path, self.raw_dir): found for path, found in present.items()}
            names = sorted(below(Path(path), self.raw_dir) for path in raw)
            lines = [f"{name}: {line}" for name in names for line in now.get(name, ())]
            if len(present) < len(raw):  # a rule makes it, and then it is looked at again
                return lines
            if changed := chain.changed(output, present, self.raw_dir):
                print(f"changed since {output} was made: {'; '.join(changed)}", file=sys.stderr)
            self._known[output] = lines
        return self._known[output]

    def synthetic_values(self, wildcards: Wildcards) -> list[str]:
        """Parameters of a synthetic archive as command-line options, independent of the datasets that use it."""
        keys = {"parser", "archive", "synthetic", "synthetic_scale"}
        definition = self.params.dataset_definitions[self.synthetic[wildcards.archive]].model_dump_json(include=keys)
        values = (f"raw_dir={self.raw_dir}", "datasets=[synthetic]", f"dataset_definitions.synthetic={definition}")
        return [f"--set={value}" for value in values]

    def lists_of(self, wildcards: Wildcards) -> list[str]:
        """Label lists that the index of a dataset needs besides its archive."""
        data = self.params.dataset_definitions[wildcards.dataset]
        return _posix(parser(data.parser).lists(self.raw_dir, **data.options).values())

    def subset_lists_of(self, wildcards: Wildcards) -> list[str]:
        """Lists of a dataset's challenge subsets."""
        return self.subset_lists[wildcards.dataset]

    def tool_of(self, wildcards: Wildcards) -> str:
        """Package of a tool."""
        return self.tools[wildcards.tool]

    def weights_file_of(self, wildcards: Wildcards) -> str:
        """Third-party file from which weights are imported."""
        return self.weights[wildcards.weights]

    # ---- Data and runs

    def subsets_of(self, wildcards: Wildcards) -> list[str]:
        """Challenge subsets of a run's dataset, if it has any."""
        return self._data(wildcards.dataset, "subsets.parquet") if self.subset_lists[wildcards.dataset] else []

    def copies_of(self, wildcards: Wildcards) -> list[str]:
        """Duplicates within a dataset, if its training set leaves them out."""
        keep = self.params.sampling_params(wildcards.dataset).duplicates == "keep"
        return [] if keep else self._data(wildcards.dataset, "duplicates.parquet")

    def plan_of(self, wildcards: Wildcards) -> str:
        """Upsampling plan of a run."""
        upsample = self.params.run(wildcards.dataset, wildcards.recipe).sampling.upsample
        return self.layout.plan(wildcards.dataset, upsample).as_posix()

    def pretrained_of(self, wildcards: Wildcards) -> list[str]:
        """Imported weights that a run starts from."""
        names = self.params.run(wildcards.dataset, wildcards.recipe).model.pretrained
        return _posix(map(self.layout.weights, names))

    def all_datasets(self, name: str) -> list[str]:
        """File ``name`` of every dataset of the experiment."""
        return _posix(self.layout.data(dataset) / name for dataset in self.params.datasets)

    def all_runs(self, name: str) -> list[str]:
        """File ``name`` of every run of the experiment's own recipes."""
        return _posix(self.layout.run(*run) / name for run in self.params.runs())

    def all_selected_runs(self, name: str) -> list[str]:
        """File ``name`` of every run of the experiment and of the selected tables."""
        return _posix(self.layout.run(*run) / name for run in self.selected_runs)

    # ---- Tables, figures, searches

    def table_inputs(self, wildcards: Wildcards) -> dict[str, list[str]]:
        """Inputs of a table."""
        layout, name, kind = self.layout, wildcards.table, self._kind(wildcards.table)
        runs, datasets = self.params.table_runs(name), self.params.table_datasets(name)
        needed: dict[str, list[Path]] = {
            "metrics": [layout.run(*run) / "metrics.json" for run in runs],
            "environments": [layout.run(*run) / "env.json" for run in runs],
            "reports": [layout.data(dataset) / "faces.json" for dataset in datasets],
            "splits": [layout.data(dataset) / "split.parquet" for dataset in datasets],
            "others": [layout.data(dataset) / file for dataset in datasets for file in kind.dataset_inputs],
            "repository": [Path(file) for file in kind.inputs],
            "evaluations": self._evaluations(name),
            "tools": [layout.tool(dataset, tool) for dataset in datasets for tool in self.tools if kind.tools],
        }
        return {key: _posix(files) for key, files in needed.items()}

    def _kind(self, table: str) -> kinds.Kind:
        return kinds.get(self.params.table_definitions[table].kind)

    def _evaluations(self, name: str, dataset: str | None = None) -> list[Path]:
        """Evaluations of checkpoints that a table reads, on one dataset or on all."""
        files, datasets = self._kind(name).evaluation, self.params.table_datasets(name)
        runs = self.params.table_runs(name, dataset) if files else []
        return [file for run in runs for file in files(self.layout, run, datasets)] if files else []

    def figure_inputs(self, wildcards: Wildcards) -> list[str]:
        """Inputs of a table's figure on one dataset."""
        files = ["metrics.json", "env.json", "history.csv", "predictions.parquet"]
        runs = self.params.table_runs(wildcards.table, wildcards.dataset)
        needed = [self.layout.run(*run) / file for run in runs for file in files]
        return _posix([*needed, *self._evaluations(wildcards.table, wildcards.dataset)])

    def board_evaluations(self, wildcards: Wildcards) -> list[str]:
        """Predictions of the experiment's runs on corrupted faces, if one of its tables shows them."""
        tables = [name for name in self.params.tables if self.params.table_definitions[name].kind == "robustness"]
        return _posix(dict.fromkeys(file for name in tables for file in self._evaluations(name)))

    def inference_inputs(self, wildcards: Wildcards) -> list[str]:
        """Inputs of the measurement of speed: those of the attention figures of all datasets."""
        return [file for dataset in self.params.datasets for file in self._first_runs(dataset)]

    def attention_inputs(self, wildcards: Wildcards) -> list[str]:
        """Inputs of the attention figure: a run per recipe, with the first seed."""
        return self._first_runs(wildcards.dataset)

    def _first_runs(self, dataset: str) -> list[str]:
        files = ["model.safetensors", "env.json", "predictions.parquet"]
        runs = [self.layout.run(dataset, recipe, self.params.seeds[0]) for recipe in self.params.recipes]
        data = self._data(dataset, "aligned.npy", "aligned.parquet", "split.parquet")
        return [*_posix(run / name for run in runs for name in files), *data]

    def figures_of(self, tables: Sequence[str]) -> list[str]:
        """Figures of ``tables`` as png, one per dataset."""
        return _posix(
            self.layout.figures / f"{table}_{dataset}.png"
            for table in tables
            if self._kind(table).figure
            for dataset in self.params.table_datasets(table)
        )

    def search_workers_of(self, wildcards: Wildcards) -> list[str]:
        """Outputs of a search's workers on all datasets."""
        search = self.layout.search(wildcards.search)
        workers = range(self.params.search_definitions[wildcards.search].workers)
        return _posix(
            search / dataset / f"worker{worker}.json" for dataset in self.params.datasets for worker in workers
        )

    def targets(self) -> list[str]:
        """Files that may be requested by name: tables, figures and files of runs."""
        root, tables = self.layout.root, self.params.table_definitions
        files = [
            folder / f"{table}.{suffix}"
            for folder in (root.parent, root)
            for table in tables
            for suffix in ("csv", "md")
        ]
        runs = [self.layout.run(*run) / name for run in self.selected_runs for name in RUN_FILES]
        return [*_posix([*files, *runs]), *self.figures_of(list(tables))]

    def _data(self, dataset: str, *names: str) -> list[str]:
        return _posix(self.layout.data(dataset) / name for name in names)


def _files(pattern: str) -> list[str]:
    return sorted(path.as_posix() for path in Path().glob(pattern) if not path.name.startswith("."))


def _posix(paths: Iterable[Path | str]) -> list[str]:
    return [Path(path).as_posix() for path in paths]
