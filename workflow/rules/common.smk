# The only helpers: the checked configuration, the versions that decide what is out of date, the resources of a job.

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from snakemake.shell import shell
from snakemake_interface_executor_plugins.settings import DeploymentMethod, ExecMode, SharedFSUsage

from transfer.params.read import DEFAULT, load, validate
from transfer.datasets.registry import get as parser
from transfer.datasets.subsets import list_files
from transfer.utils.code_digest import step_digest
from transfer.utils.errors import UserError
from transfer.layout import UPSAMPLING, Layout
from transfer.sources.table import archive_is_there, archive_path, weights_path
from transfer.models.registry import check_models
from transfer.models.registry import modules as models
from transfer.models.weights.catalogue import OF_SOURCE
from transfer.params import WHERE, digest
from transfer.running import RUNNING, begin, edits, share
from transfer.sources.table import load as load_sources

# ---- Before any job


def or_stop(function, *arguments):
    """Result of ``function``; a wrong configuration or a missing archive is one line, and exit code 1."""
    try:
        return function(*arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def checked_params():
    """The validated configuration; --configfile and --config lie on top of params/default.yaml.

    A job on another node parses this again: it reads what its workflow started with, also where the files were edited
    since.
    """
    if "snapshot" in config:
        return load([config["snapshot"]], checks=[check_models])
    return validate(config, [DEFAULT, *CONFIG_FILES], workflow.config_settings.config, [check_models])


def located_archives():
    """Folder or archive of each dataset; that of a drawn one may be missing, a rule makes it.

    One that only a table needs which is not chosen is missed when that table is asked for.
    """
    chosen = PARAMS.chosen_datasets()
    return {
        dataset: archive_path(PARAMS, dataset).as_posix()
        for dataset in PARAMS.every_dataset()
        if dataset in chosen or archive_is_there(PARAMS, dataset)
    }


def located_subset_lists():
    """The lists of challenge subsets of each dataset that are there."""
    definitions = {dataset: PARAMS.dataset_definitions[dataset] for dataset in PARAMS.every_dataset()}
    return {
        dataset: [file.as_posix() for file in list_files(PARAMS.raw_dir, definition).values()]
        for dataset, definition in definitions.items()
    }


def located_weights():
    """File of each selected source of weights."""
    runs = [PARAMS.run(dataset, recipe) for dataset, recipe in dict.fromkeys(run[:2] for run in CHOSEN)]
    names = dict.fromkeys(name for run in runs for name in run.model.pretrained)
    return {name: weights_path(PARAMS, name).as_posix() for name in names}


def drop_conda_if_absent():
    """Without conda on PATH the jobs run in the current environment, where Snakemake alone would stop."""
    settings = workflow.deployment_settings
    if DeploymentMethod.CONDA in settings.deployment_method and shutil.which("conda") is None:
        settings.deployment_method = set(settings.deployment_method) - {DeploymentMethod.CONDA}
        print("conda is not on PATH: the jobs run in the current environment", file=sys.stderr)
    if DeploymentMethod.CONDA not in settings.deployment_method:
        # `python` means the one that runs Snakemake, also where its environment is not activated.
        shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(os.path.dirname(sys.executable))}:$PATH; ")


def drop_stale_locks():
    """Remove the locks of a run that was killed, so that it continues without --unlock.

    Every running workflow holds a shared lock on one file. Who gets it exclusively is alone, and whatever lies in
    .snakemake/locks is stale.
    """
    return share(RUNNING, lambda: shutil.rmtree(".snakemake/locks", ignore_errors=True))


CONFIG_FILES = [os.path.relpath(file) for file in workflow.overwrite_configfiles]
PARAMS = or_stop(checked_params)
EXPERIMENT = PARAMS.experiment
SNAPSHOT = Layout(EXPERIMENT).params.as_posix()
RAW_DIR = Path(PARAMS.raw_dir).as_posix()
# The trainings of the experiment and of the tables that are chosen.
CHOSEN = PARAMS.chosen_runs()
ARCHIVES = or_stop(located_archives)
SUBSET_LISTS = located_subset_lists()
WEIGHTS = or_stop(located_weights)
# Archives that the workflow draws itself, with the dataset that each is for: of several one that is chosen.
DRAWN = {
    PARAMS.dataset_definitions[name].archive: name
    for name in [*PARAMS.every_dataset(), *PARAMS.chosen_datasets()]
    if PARAMS.dataset_definitions[name].synthetic is not None
}
# Files below raw_dir that a rule downloads.
DOWNLOADS = [file.path for entry in or_stop(load_sources).values() for file in entry.files if file.url]

drop_conda_if_absent()
if workflow.exec_mode == ExecMode.DEFAULT:
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.output_settings.dryrun:
    HELD = [drop_stale_locks()]
if workflow.exec_mode == ExecMode.DEFAULT and SharedFSUsage.SOURCES in workflow.storage_settings.shared_fs_usage:
    workflow.config_settings.configfiles = []
    workflow.config_settings.config_args = [f"snapshot={SNAPSHOT}"]


def write_snapshot():
    """The resolved configuration, which the jobs read; what a job depends on is in its version."""
    HELD.append(or_stop(begin, PARAMS, Layout(EXPERIMENT)))


def say_edits():
    """One line where a parameter file was edited while the workflow ran."""
    if line := edits(PARAMS, CONFIG_FILES, workflow.config_settings.config):
        print(line, file=sys.stderr)


def check_cluster():
    """Stop before the first job where SLURM is asked for and it, or a partition that is named, is not there.

    Snakemake would say it once per job, each time in the middle of a page.
    """
    if workflow.executor_plugin.name != "slurm":
        return
    try:
        answer = subprocess.run(["sinfo", "--all", "--noheader", "--format=%R"], capture_output=True, text=True)
    except FileNotFoundError:
        advice = "run this where sbatch works, or without --profile profiles/slurm"
        raise UserError(f"executor slurm: SLURM's commands are not on PATH; {advice}") from None
    if answer.returncode != 0:
        raise UserError(f"executor slurm: {answer.stderr.strip().partition(chr(10))[0]}; nothing was submitted")
    settings, partitions = workflow.resource_settings, answer.stdout.split()
    for resources in (settings.default_resources or {}, *settings.overwrite_resources.values()):
        named = resources["slurm_partition"] if "slurm_partition" in resources else ""
        asked = str(getattr(named, "raw", named)).strip("'\"")
        unknown = set(asked.split(",")) - {"", *partitions}
        if unknown and re.fullmatch(r"[\w.,-]+", asked):  # else it is an expression
            listed = ", ".join(partitions) or "none"
            raise UserError(f"slurm_partition: unknown name '{min(unknown)}'; this cluster has: {listed}")


# ---- Files


wildcard_constraints:
    experiment=re.escape(EXPERIMENT),
    dataset="|".join(PARAMS.every_dataset()),
    test_dataset="|".join(PARAMS.every_dataset()),
    recipe="|".join(PARAMS.every_recipe()),
    table="|".join(PARAMS.table_definitions),
    seed=r"\d+",
    search="|".join(PARAMS.searches) or "$^",
    worker=r"\d+",
    # Nothing matches $^: there is no search, no archive is drawn where all datasets are real, no weights are imported
    # where none are named.
    archive="|".join(map(re.escape, DRAWN)) or "$^",
    weights="|".join(WEIGHTS) or "$^",
    source_file="|".join(map(re.escape, DOWNLOADS)) or "$^",


def archive(wildcards):
    """Where a dataset lies."""
    if wildcards.dataset not in ARCHIVES:
        or_stop(archive_path, PARAMS, wildcards.dataset)
    return ARCHIVES[wildcards.dataset]


def drawn_values(wildcards):
    """What a drawn archive depends on, as options of the command line; not the name of a dataset that uses it."""
    keys = {"parser", "archive", "synthetic", "synthetic_scale"}
    definition = PARAMS.dataset_definitions[DRAWN[wildcards.archive]].model_dump_json(include=keys)
    return [
        f"--set=raw_dir={RAW_DIR}",
        "--set=datasets=[drawn]",
        f"--set=dataset_definitions.drawn={definition}",
    ]


def lists(wildcards):
    """Files besides the archive that a dataset's index needs."""
    data = PARAMS.dataset_definitions[wildcards.dataset]
    return [file.as_posix() for file in parser(data.parser).lists(RAW_DIR, **data.options).values()]


def subset_lists(wildcards):
    """The lists of a dataset's challenge subsets that were there when the workflow started."""
    return SUBSET_LISTS[wildcards.dataset]


def subsets_of_dataset(wildcards):
    """The challenge subsets of a run's dataset, where there are lists of them."""
    found = SUBSET_LISTS[wildcards.dataset]
    return [(Layout(wildcards.experiment).data(wildcards.dataset) / "subsets.parquet").as_posix()] if found else []


def copies(wildcards):
    """The pairs of copies of a dataset, where those of its training part are left out."""
    if PARAMS.sampling_params(wildcards.dataset).duplicates == "keep":
        return []
    return (Layout(wildcards.experiment).data(wildcards.dataset) / "duplicates.parquet").as_posix()


def plan(wildcards):
    """The upsampling plan of a training."""
    upsample = PARAMS.run(wildcards.dataset, wildcards.recipe).sampling.upsample
    return Layout(wildcards.experiment).plan(wildcards.dataset, upsample).as_posix()


def weights_file(wildcards):
    """The file of others from which weights are imported."""
    return WEIGHTS[wildcards.weights]


def pretrained(wildcards):
    """The imported weights that a training begins with."""
    names = PARAMS.run(wildcards.dataset, wildcards.recipe).model.pretrained
    return [Layout(wildcards.experiment).weights(name).as_posix() for name in names]


def of_all_datasets(name):
    """A file of every dataset of the experiment."""
    return expand(
        "results/{experiment}/data/{dataset}/{name}", experiment=EXPERIMENT, dataset=PARAMS.datasets, name=name
    )


def of_all_runs(name):
    """A file of every training of the experiment's own recipes."""
    return [(Layout(EXPERIMENT).run(*run) / name).as_posix() for run in PARAMS.runs()]


def of_chosen_runs(name):
    """A file of every training of the experiment and of the tables that are chosen."""
    return [(Layout(EXPERIMENT).run(*run) / name).as_posix() for run in CHOSEN]


def table_inputs(wildcards):
    """What a table is made from."""
    layout, name = Layout(wildcards.experiment), wildcards.table
    runs = PARAMS.table_runs(name)
    datasets = dict.fromkeys(dataset for dataset, _, _ in runs)
    kind = PARAMS.table_definitions[name].kind
    needed = {
        "metrics": [layout.run(*run) / "metrics.json" for run in runs],
        "environments": [layout.run(*run) / "env.json" for run in runs],
        "reports": [layout.data(dataset) / "faces.json" for dataset in datasets],
        "splits": [layout.data(dataset) / "split.parquet" for dataset in datasets],
    }
    if kind in ("recipes", "reported"):
        needed["reported"] = ["params/reported.yaml"]
    if kind == "subgroups":
        needed["index"] = [layout.data(dataset) / "index.parquet" for dataset in datasets]
    needed["evaluations"] = evaluations(name)
    return {key: [Path(file).as_posix() for file in files] for key, files in needed.items()}


def evaluations(name, dataset=None):
    """What the kept weights of a table's trainings are asked besides their test part; of one dataset, or of all."""
    kind, layout = PARAMS.table_definitions[name].kind, Layout(EXPERIMENT)
    runs = PARAMS.table_runs(name, dataset)
    if kind == "robustness":
        return [layout.evaluation(kind, *run) / "robustness.parquet" for run in runs]
    if kind == "cross":
        others = PARAMS.table_datasets(name)
        return [
            layout.evaluation(kind, *run) / f"{other}.parquet" for run in runs for other in others if other != run[0]
        ]
    if kind == "diversity":
        return [layout.evaluation("attention", *run) / "diversity.json" for run in runs]
    return []


def figure_inputs(wildcards):
    """What the figure of a table on one dataset is made from."""
    layout = Layout(wildcards.experiment)
    files = ["metrics.json", "env.json", "history.csv", "predictions.parquet"]
    runs = PARAMS.table_runs(wildcards.table, wildcards.dataset)
    needed = [layout.run(*run) / file for run in runs for file in files]
    return [Path(file).as_posix() for file in [*needed, *evaluations(wildcards.table, wildcards.dataset)]]


def attention_inputs(wildcards):
    """What the picture of the attention is made from: a training per recipe, with the first seed."""
    layout, dataset = Layout(wildcards.experiment), wildcards.dataset
    files = ["model.safetensors", "env.json", "predictions.parquet"]
    runs = [layout.run(dataset, recipe, PARAMS.seeds[0]) for recipe in PARAMS.recipes]
    data = [layout.data(dataset) / name for name in ("aligned.npy", "aligned.parquet", "split.parquet")]
    return [file.as_posix() for file in [*(run / name for run in runs for name in files), *data]]


def figures_of(tables):
    """The figures of some tables, as png; one per dataset."""
    layout = Layout(EXPERIMENT)
    return [
        (layout.figures / f"{table}_{dataset}.png").as_posix()
        for table in tables
        if PARAMS.has_figure(table)
        for dataset in PARAMS.table_datasets(table)
    ]


def search_workers(wildcards):
    """What the workers of a search leave, on every dataset."""
    return expand(
        "results/{experiment}/search/{search}/{dataset}/worker{worker}.json",
        experiment=wildcards.experiment,
        search=wildcards.search,
        dataset=PARAMS.datasets,
        worker=range(PARAMS.search_definitions[wildcards.search].workers),
    )


# ---- Versions: a job is out of date when a parameter or the code that it depends on has changed, and only then.


def archive_version(wildcards):
    return step_digest("synthesize")


def index_version(wildcards):
    data = PARAMS.dataset_definitions[wildcards.dataset]
    code = step_digest("index", f"transfer.datasets.{data.parser}")
    return digest(data.parser, data.options, data.expect, data.missing, code)


def subsets_version(wildcards):
    data = PARAMS.dataset_definitions[wildcards.dataset]
    return digest(data.parser, data.options, step_digest("subsets"))


def detect_version(wildcards):
    return digest(PARAMS.face_params(wildcards.dataset).search(), step_digest("detect"))


def align_version(wildcards):
    return digest(PARAMS.face_params(wildcards.dataset).alignment(), step_digest("align"))


def inspect_version(wildcards):
    # The page names the archive and the alignment that it shows.
    return digest(Path(ARCHIVES[wildcards.dataset]).name, align_version(wildcards), step_digest("inspect"))


def hash_version(wildcards):
    return step_digest("hash")


def duplicates_version(wildcards):
    return step_digest("duplicates")


def audit_version(wildcards):
    about = [PARAMS.dataset_definitions[dataset].about for dataset in PARAMS.datasets]
    return digest(PARAMS.experiment, PARAMS.datasets, about, step_digest("audit"))


def sample_version(wildcards):
    sampling = PARAMS.sampling_params(wildcards.dataset)
    groups = [] if sampling.duplicates == "keep" else ["transfer.audit.copies"]
    return digest(sampling.val_fraction, sampling.split_seed, sampling.duplicates, step_digest("sample", *groups))


def weights_version(wildcards):
    return digest(OF_SOURCE[wildcards.weights], step_digest("weights"))


def train_version(wildcards):
    run = PARAMS.run(wildcards.dataset, wildcards.recipe)
    train = run.train.model_dump(mode="json", exclude=WHERE)
    return digest(run.model, train, sorted(PARAMS.protocols), step_digest("train", models()[run.model.name]))


def evaluate_version(wildcards):
    return step_digest("evaluate")


def robustness_version(wildcards):
    model = PARAMS.run(wildcards.dataset, wildcards.recipe).model.name
    return digest(PARAMS.robustness.chosen(), PARAMS.robustness.seed, step_digest("robustness", models()[model]))


def cross_version(wildcards):
    # Which archives hold the same pictures decides what is refused.
    named = [PARAMS.dataset_definitions[name] for name in (wildcards.dataset, wildcards.test_dataset)]
    pictures = [(definition.parser, definition.archive) for definition in named]
    model = PARAMS.run(wildcards.dataset, wildcards.recipe).model.name
    return digest(pictures, step_digest("cross", models()[model]))


def search_version(wildcards):
    search = PARAMS.search_definitions[wildcards.search]
    run = PARAMS.run(wildcards.dataset, search.recipe)
    train = run.train.model_dump(mode="json", exclude=WHERE)
    chosen = search.model_dump(mode="json", exclude={"workers"})
    code = step_digest("search", models()[run.model.name])
    return digest(chosen, run.model, run.sampling.upsample, train, code)


def search_report_version(wildcards):
    search = PARAMS.search_definitions[wildcards.search]
    runs = [PARAMS.run(dataset, search.recipe) for dataset in PARAMS.datasets]
    return digest(PARAMS.recipes, PARAMS.recipe(search.recipe), *runs, step_digest("search_report"))


def table_version(wildcards):
    name = wildcards.table
    definitions = [PARAMS.dataset_definitions[dataset] for dataset in PARAMS.table_datasets(name)]
    chosen = [
        PARAMS.experiment,
        PARAMS.table_definitions[name].model_dump(mode="json", exclude={"sweep"}),
        PARAMS.table_runs(name),
        PARAMS.table_protocols(name),
        PARAMS.table_baseline(name),
        [(definition.reported_as, definition.about) for definition in definitions],
    ]
    kind = PARAMS.table_definitions[name].kind
    return digest(*chosen, step_digest("table", f"transfer.tables.kinds.{kind}"))


def figure_version(wildcards):
    name = wildcards.table
    chosen = [PARAMS.experiment, PARAMS.table_definitions[name].model_dump(mode="json"), PARAMS.table_protocols(name)]
    return digest(*chosen, PARAMS.table_runs(name, wildcards.dataset), step_digest("table_figure"))


def attention_version(wildcards):
    return digest(PARAMS.experiment, PARAMS.recipes, PARAMS.seeds[0], step_digest("attention"))


def diversity_version(wildcards):
    model = PARAMS.run(wildcards.dataset, wildcards.recipe).model.name
    return step_digest("diversity", models()[model])


def overview_version(wildcards):
    return step_digest("overview")


# ---- The report: what its captions and filters say


def seeds_of(number):
    return "1 seed" if number == 1 else f"{number} seeds"


def rule_of(dataset):
    """A dataset with what decides its labels and faces."""
    definition = PARAMS.dataset_definitions[dataset]
    drawn = ", drawn faces" if definition.synthetic is not None else ""
    return f"{dataset} (layout {definition.layout}{drawn})"


def about_table(wildcards):
    name = wildcards.table
    datasets = "; ".join(rule_of(dataset) for dataset in PARAMS.table_datasets(name))
    protocols = ", ".join(PARAMS.table_protocols(name))
    seeds = seeds_of(len(PARAMS.table_seeds(name)))
    title = PARAMS.table_definitions[name].title or name
    return f"{title}. Protocols: {protocols}. n: {seeds} per recipe. Datasets: {datasets}."


def about_figure(wildcards):
    name = wildcards.table
    title = PARAMS.table_definitions[name].title or name
    protocol = PARAMS.figure_protocol(name)
    seeds = seeds_of(len(PARAMS.table_seeds(name)))
    return f"{title}. Protocol: {protocol}. n: {seeds} per recipe. Dataset: {rule_of(wildcards.dataset)}."


def about_attention(wildcards):
    return (
        f"What the networks look at: relevance on the transformer, one test face per expression. Protocol: "
        f"{PARAMS.kept_protocol}. n: seed {PARAMS.seeds[0]} alone. Dataset: {rule_of(wildcards.dataset)}."
    )


def table_labels(wildcards):
    definition = PARAMS.table_definitions[wildcards.table]
    return {
        "table": wildcards.table,
        "kind": definition.kind,
        "datasets": " ".join(PARAMS.table_datasets(wildcards.table)),
    }


def figure_labels(wildcards):
    return {
        "figure": wildcards.table,
        "dataset": wildcards.dataset,
        "protocol": PARAMS.figure_protocol(wildcards.table),
    }


# ---- Resources


def detect_threads(wildcards):
    """All cores where the parameters say nothing; Snakemake gives no job more than it has itself."""
    return PARAMS.face_params(wildcards.dataset).threads or os.cpu_count()


def train_processes(wildcards):
    """One per GPU."""
    return PARAMS.run(wildcards.dataset, wildcards.recipe).train.gpus


def train_threads(wildcards):
    """Those of all processes of a run; Snakemake gives no job more than it has itself."""
    return PARAMS.run(wildcards.dataset, wildcards.recipe).train.threads * train_processes(wildcards)


def train_gpus(wildcards):
    """One per process where CUDA is asked for; `auto` takes what is there, and asks a cluster for nothing."""
    cuda = PARAMS.run(wildcards.dataset, wildcards.recipe).train.device == "cuda"
    return train_processes(wildcards) if cuda else 0


def prediction_threads(wildcards):
    """Those of one process of the training."""
    return PARAMS.run(wildcards.dataset, wildcards.recipe).train.threads


def prediction_gpus(wildcards):
    """One where CUDA is asked for."""
    return int(PARAMS.run(wildcards.dataset, wildcards.recipe).train.device == "cuda")


def search_threads(wildcards):
    search = PARAMS.search_definitions[wildcards.search]
    return PARAMS.run(wildcards.dataset, search.recipe).train.threads


def store_mb(wildcards, input):
    """Memory for a job that goes through a dataset's faces: two copies of its inputs, and 4 GB for the libraries."""
    return 4000 + 2 * input.size_mb


def train_mb(wildcards, input):
    """As for one process, and the libraries once more for each further one; they share the pages of the store."""
    return store_mb(wildcards, input) + 4000 * (train_processes(wildcards) - 1)
