"""Train runs, evaluate what they learnt, and search hyperparameters."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from transfer.cli.options import Dataset, Recipe, Seed, classes_of, existing, verb
from transfer.layout import Layout
from transfer.models.weights import catalogue
from transfer.utils.errors import UserError, choices

if TYPE_CHECKING:
    from transfer.params import Params

app = typer.Typer()
search_app = typer.Typer()
Search = Annotated[str, typer.Option("--search", metavar="NAME", help="One of the experiment's searches.")]


@verb(app)
def weights(
    params: "Params",
    layout: Layout,
    source: Annotated[str, typer.Argument(metavar="NAME", help="Source in params/sources.yaml, or a file.")],
    importer: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Format of a file: {', '.join(catalogue.FILLS)}.")
    ] = None,
) -> None:
    """Convert third-party checkpoints to this project's parameter names. Reads: the source's file in raw_dir, whose
    checksum must match params/sources.yaml or params/sources.lock.json where these have one; or the given file.
    Writes: R/weights/NAME.safetensors, R/weights/NAME.json (what became of every tensor)."""
    if importer is None:
        from transfer.sources import fetch
        from transfer.sources import table as sources

        if source not in catalogue.FITS:
            known = choices(source, catalogue.FITS)
            raise UserError(f"{source}: no weights of params/sources.yaml (for a file, add --importer); {known}")
        name, importer = source, catalogue.importer(source)
        own = source == catalogue.OWN
        path = catalogue.find_weights() if own else existing(sources.weights_path(params, source), f"fetch {source}")
        if source in catalogue.OF_SOURCE:
            fetch.check(sources.get(source).files[0], path)
    elif importer in catalogue.FILLS:
        name, path = Path(source).stem, Path(source)
    else:
        raise UserError(f"--importer {importer}: unknown; {choices(importer, catalogue.FILLS)}")

    from transfer.models.weights.importers import convert

    report = convert(path, importer, layout.weights(name))
    layout.chain.note([layout.weights(name)], raw=[path], raw_dir=params.raw_dir)
    print(f"{path} as {importer}:\n{report.to_text()}")


@verb(app)
def train(
    params: "Params",
    layout: Layout,
    dataset: Dataset,
    recipe: Recipe,
    seed: Seed,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Leave the state of the last epoch; again, and the outputs are there.")
    ] = False,
) -> None:
    """Train one run. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet, D/split.parquet, D/plan_METHOD.npy.
    Writes: RUN/model.safetensors, RUN/history.csv, RUN/predictions.parquet, RUN/env.json; continues after a kill from
    R/state/DATASET/RECIPE/seedSEED. With train.gpus above 1, torchrun starts a process per GPU."""
    gpus = params.run(dataset, recipe).train.gpus
    if gpus > 1 and "RANK" not in os.environ:
        from torch.cuda import device_count

        if (found := device_count()) < gpus:  # in one line, which torchrun would bury
            raise UserError(f"train.gpus: {gpus}, but torch sees {found} CUDA devices; lower it")
        torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
        os.execv(sys.executable, [sys.executable, "-m", *torchrun, "-m", "transfer", *sys.argv[1:]])

    from transfer.tracking.live import MlflowListener
    from transfer.training import run

    listeners = [MlflowListener()] if params.tracking else []
    run.train(params, dataset, recipe, seed, layout, listeners=listeners, keep_state=keep_state)


@verb(app)
def evaluate(
    params: "Params",
    layout: Layout,
    dataset: Dataset,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="One of the experiment's recipes.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Instead of a run: model.safetensors, or the authors' .pdiparams."),
    ] = None,
    tool: Annotated[str | None, typer.Option(metavar="NAME", help="Instead of a run: fer or face_api.")] = None,
) -> None:
    """Metrics of a run under each protocol. Reads: RUN/predictions.parquet, D/subsets.parquet if present.
    Writes: RUN/metrics.json.
    With --weights: of a weight file on the test split. Reads: FILE, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/weights/STEM-SHA256/DATASET/predictions.parquet (with logits) and metrics.json.
    With --tool: of a tool that was fetched, likewise, on whole images and on aligned faces. Reads also: the archive,
    D/index.parquet. Writes: R/evaluations/tools/DATASET/NAME.parquet."""
    if (weights or tool) and (recipe is not None or seed is not None or (weights and tool)):
        raise UserError("--weights and --tool take the place of --recipe and --seed; leave these out")
    if tool is not None:
        from transfer.evaluation.tools import evaluate_tool
        from transfer.runs.metrics import frame_metrics

        for shown, part in evaluate_tool(params, layout, dataset, tool, classes_of(params, dataset)).groupby("input"):
            print(f"{tool} on {dataset}, {shown}: {frame_metrics(part)['accuracy']:.2%} of {len(part):,}")
        return
    if weights is not None:
        from transfer.evaluation.predict import evaluate_weights

        evaluate_weights(weights, layout, dataset, classes_of(params, dataset), params.train)
        return
    if recipe is None or seed is None:
        raise UserError(f"Missing option '--{'recipe' if recipe is None else 'seed'}', or --weights instead")

    from transfer.runs.metrics import evaluate

    run, chain, subsets = layout.run(dataset, recipe, seed), layout.chain, layout.data(dataset) / "subsets.parquet"
    chain.check(run / "predictions.parquet", subsets)
    about = {"experiment": params.experiment, "dataset": dataset, "recipe": recipe}
    evaluate(run, **about, seed=seed, subsets=subsets if subsets.exists() else None)
    chain.note([run / "metrics.json"], filter(Path.exists, (run / "predictions.parquet", subsets)))


@verb(app)
def robustness(params: "Params", layout: Layout, dataset: Dataset, recipe: Recipe, seed: Seed) -> None:
    """A run on corrupted test faces. Reads: RUN/model.safetensors, RUN/predictions.parquet, RUN/env.json,
    D/index.parquet, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/evaluations/robustness/DATASET/RECIPE/seedSEED/robustness.parquet."""
    from transfer.evaluation.robustness import evaluate_robustness
    from transfer.runs.evaluations import accuracies

    table = evaluate_robustness(params, layout, dataset, recipe, seed)
    if left_out := table.attrs["without_landmarks"]:
        print(f"{dataset}: {left_out:,} faces without landmarks are excluded from occlusions of eyes, nose and mouth")
    for row in accuracies(table).itertuples():
        accuracy = f"{row.accuracy:.2%} of {row.n:,} ({row.clean_accuracy:.2%} clean)"
        print(f"{row.corruption} {row.severity:g}: {accuracy}")


@verb(app)
def cross(
    params: "Params",
    layout: Layout,
    dataset: Annotated[str, typer.Option(metavar="NAME", help="The dataset of the run.")],
    recipe: Recipe,
    seed: Seed,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A dataset to test on; repeatable. Default: all others of the experiment."),
    ] = None,
) -> None:
    """A run on the test faces of other datasets. Reads: RUN/model.safetensors, RUN/predictions.parquet,
    RUN/env.json, D/split.parquet; of each other dataset D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/evaluations/cross/DATASET/RECIPE/seedSEED/OTHER.parquet."""
    known = [name for name in params.datasets if name != dataset]
    for name in on or ():
        if name not in known:
            allowed = choices(name, known)
            raise UserError(f"--on {name}: not another dataset of experiment {params.experiment}; {allowed}")
    if not known:
        raise UserError(f"experiment {params.experiment} has no other dataset than {dataset}; add one to datasets")

    from transfer.evaluation.cross import evaluate_cross
    from transfer.runs.evaluations import cross_accuracy

    for other, frame in evaluate_cross(params, layout, dataset, recipe, seed, on or known).items():
        found = cross_accuracy(frame)
        gone = "".join(f", {count:,} of {name} left out" for name, count in frame.attrs["left_out"].items())
        print(f"{dataset} on {other}: {found['accuracy']:.2%} of {found['n']:,}{gone}")


@verb(app)
def diversity(params: "Params", layout: Layout, dataset: Dataset, recipe: Recipe, seed: Seed) -> None:
    """Diversity of a run's LANet maps and heads on the test faces. Reads: RUN/model.safetensors,
    RUN/predictions.parquet, RUN/env.json, D/aligned.npy, D/aligned.parquet, D/split.parquet.
    Writes: R/evaluations/attention/DATASET/RECIPE/seedSEED/diversity.json."""
    from transfer.explain.diversity import write_diversity

    found = write_diversity(params, layout, dataset, recipe, seed)
    lanets = found["lanets"] or {}
    print(f"{dataset} {recipe} seed{seed}, {found['n']:,} test faces:")
    print("LANets: " + (", ".join(f"{name} {value:.3f}" for name, value in lanets.items()) or "fewer than two"))
    for name, blocks in found["heads"].items():
        print(f"heads, {name.replace('_', ' ')}, by block: {' '.join(f'{value:.3f}' for value in blocks)}")


@verb(app)
def verify(params: "Params", layout: Layout) -> None:
    """Check every file of an experiment against the digests that its step noted. Reads: R/chain and the files that it
    names, also those in raw_dir. Writes: nothing."""
    problems, unnoted = layout.chain.verify(params.raw_dir)
    for path in unnoted:
        print(f"{path}: no digest was noted when it was made; not checked")
    if problems:
        raise UserError(f"{layout.root}: {len(problems)} breaks in the chain of digests (above)", "\n".join(problems))
    print(f"{layout.root}: all files are as they were written, and belong together")


@verb(search_app)
def search(
    params: "Params",
    layout: Layout,
    search: Search,
    dataset: Dataset,
    worker: Annotated[int, typer.Option(min=0, help="Number of this worker; run each number once at a time.")] = 0,
) -> None:
    """Train trials of a study until enough are finished. Reads: D/aligned.npy, D/aligned.parquet, D/index.parquet,
    D/split.parquet, D/plan_METHOD.npy (no test row), the study. Writes: the study in search_storage (by default
    R/search/journal.log), R/search/SEARCH/DATASET/workerK.json; state of unfinished trials in R/state/search."""
    existing(layout.data(dataset) / "aligned.parquet", "align")
    existing(layout.data(dataset) / "split.parquet", "sample")

    from transfer.search.worker import work
    from transfer.tracking.live import MlflowListener

    def listeners(trial: int) -> list[MlflowListener]:
        return [MlflowListener(f"search/{search}/{dataset}", f"trial{trial}")] if params.tracking else []

    work(params, search, dataset, worker, layout, listeners)


@verb(search_app, "search-report")
def search_report(params: "Params", layout: Layout, search: Search) -> None:
    """Report the results of a search. Reads: its studies. Writes: R/search/SEARCH/best.yaml, and in
    R/search/SEARCH/DATASET trials.csv, grid.csv, importances.json, history.png, slices.png, contour.png,
    importances.png."""
    from transfer.search.report import report

    report(params, search, layout)
