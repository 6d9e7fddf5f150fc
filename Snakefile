# TransFER and its ablations, from raw archives to results/table1.csv.
#   snakemake --cores all --use-conda results/table1.csv
# Parameters: params/default.yaml, on it --configfile FILE and --config KEY=VALUE. Helpers: workflow/rules/common.smk.

from snakemake.utils import min_version

min_version("9.20")


if "snapshot" not in config:

    configfile: "params/default.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/align.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/search.smk"
include: "workflow/rules/track.smk"


onstart:
    or_stop(check_cluster)
    write_snapshot()


onsuccess:
    say_edits()


onerror:
    say_edits()


rule all:
    default_target: True
    input:
        "results/table1.csv",
        f"results/{EXPERIMENT}/table1.md",


rule draw_archives:
    input:
        expand(f"{RAW_DIR}/{{archive}}", archive=DRAWN),


rule prepare_data:
    input:
        expand(
            "results/{experiment}/data/{dataset}/{name}",
            experiment=EXPERIMENT,
            dataset=PARAMS.chosen_datasets(),
            name=["split.parquet", "faces.html"],
        ),


rule train_all:
    input:
        of_chosen_runs("metrics.json"),


rule tables:
    input:
        rules.all.input,
        expand("results/{experiment}/{table}.csv", experiment=EXPERIMENT, table=PARAMS.tables),
        figures_of(PARAMS.tables),
        expand("results/{experiment}/figures/attention_{dataset}.png", experiment=EXPERIMENT, dataset=PARAMS.datasets),
        expand(rules.summarize_runs.output, experiment=EXPERIMENT),


rule audit:
    input:
        expand(rules.audit_copies.output, experiment=EXPERIMENT),


rule search:
    input:
        expand("results/{experiment}/search/{search}/best.yaml", experiment=EXPERIMENT, search=PARAMS.searches),
