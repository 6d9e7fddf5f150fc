# TransFER and its ablations, from raw archives to results/table1.csv.
#   snakemake --cores all --use-conda results/table1.csv
# Parameters: params/default.yaml, then --configfile FILE, then --config KEY=VALUE. Helpers: workflow/*.py.

import sys

from snakemake.utils import min_version

min_version("9.20")

if "snapshot" not in config:

    configfile: "params/default.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/faces.smk"
include: "workflow/rules/runs.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/search.smk"


onstart:
    SESSION.start()


onsuccess:
    SESSION.end()


rule all:
    default_target: True
    input:
        "results/table1.csv",
        f"results/{EXPERIMENT}/table1.md",


rule draw_archives:
    input:
        expand(f"{RAW_DIR}/{{archive}}", archive=inputs.synthetic),


rule prepare_data:
    input:
        expand(
            "results/{experiment}/data/{dataset}/{name}",
            experiment=EXPERIMENT,
            dataset=PARAMS.selected_datasets(),
            name=["split.parquet", "faces.html"],
        ),


rule train_all:
    input:
        inputs.all_selected_runs("metrics.json"),


rule tables:
    input:
        rules.all.input,
        expand("results/{experiment}/{table}.csv", experiment=EXPERIMENT, table=PARAMS.tables),
        inputs.figures_of(PARAMS.tables),
        expand("results/{experiment}/figures/attention_{dataset}.png", experiment=EXPERIMENT, dataset=PARAMS.datasets),
        expand(rules.summarize_runs.output, experiment=EXPERIMENT),


rule audit:
    input:
        expand(rules.audit_copies.output, experiment=EXPERIMENT),


rule search:
    input:
        expand("results/{experiment}/search/{search}/best.yaml", experiment=EXPERIMENT, search=PARAMS.searches),


with errors_in_lines():
    SESSION.check_targets(sys.argv[1:], lambda: parse_args(sys.argv[1:])[1].targets, inputs.targets)
