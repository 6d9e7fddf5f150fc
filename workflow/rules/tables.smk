# Table 1, over datasets, recipes, seeds and protocols.


# A copy of two small files is no job for a cluster's queue.
localrules:
    publish_table1,


rule make_table1:
    input:
        metrics=of_all_runs("metrics.json"),
        environments=of_all_runs("env.json"),
        reports=of_all_datasets("faces.json"),
        splits=of_all_datasets("split.parquet"),
        reported="params/reported.yaml",
    output:
        csv="results/{experiment}/table1.csv",
        md="results/{experiment}/table1.md",
    log:
        "results/{experiment}/logs/make_table1.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=table_version,
    message:
        "Table 1 of {wildcards.experiment}"
    shell:
        "python -m transfer table --params {params.config} > {log} 2>&1"


rule summarize_runs:
    input:
        table=rules.make_table1.output.csv,
        histories=of_all_runs("history.csv"),
    output:
        metrics=expand(
            "results/{{experiment}}/metrics/{dataset}/{recipe}.json", dataset=PARAMS.datasets, recipe=PARAMS.recipes
        ),
        history="results/{experiment}/history.csv",
    log:
        "results/{experiment}/logs/summarize_runs.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=overview_version,
    message:
        "Accuracies and learning curves of {wildcards.experiment}"
    shell:
        "python -m transfer overview --params {params.config} > {log} 2>&1"


rule publish_table1:
    input:
        csv=f"results/{EXPERIMENT}/table1.csv",
        md=f"results/{EXPERIMENT}/table1.md",
    output:
        csv="results/table1.csv",
        md="results/table1.md",
    log:
        f"results/{EXPERIMENT}/logs/publish_table1.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        # The table of another experiment may be newer: what lies here must be that of this one.
        version=f"{EXPERIMENT} {table_version(None)}",
    message:
        "{output.csv} is now that of {input.csv}"
    shell:
        "(cp {input.csv} {output.csv}.part && cp {input.md} {output.md}.part"
        " && mv {output.csv}.part {output.csv} && mv {output.md}.part {output.md}) > {log} 2>&1"
