# Tables: one rule for all entries of `table_definitions`; and the summary for DVC.


# Copying two small files needs no cluster job.
localrules:
    publish_table,


rule make_table:
    input:
        unpack(inputs.table_inputs),
    output:
        csv="results/{experiment}/{table}.csv",
        md="results/{experiment}/{table}.md",
        tex="results/{experiment}/{table}.tex",
        html=report(
            "results/{experiment}/report/{table}.html",
            caption="../report/table.rst",
            category="Tables",
            labels=captions.table_labels,
        ),
    log:
        "results/{experiment}/logs/make_table/{table}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.table,
        about=captions.table,
    message:
        "Table {wildcards.table} of {wildcards.experiment}"
    shell:
        "python -m transfer table --params {params.config:q} --name {wildcards.table:q} > {log:q} 2>&1"


rule summarize_runs:
    input:
        table="results/{experiment}/table1.csv",
        histories=inputs.all_runs("history.csv"),
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
        version=versions.overview,
    message:
        "Accuracies and learning curves of {wildcards.experiment}"
    shell:
        "python -m transfer overview --params {params.config:q} > {log:q} 2>&1"


rule publish_table:
    input:
        csv=f"results/{EXPERIMENT}/{{table}}.csv",
        md=f"results/{EXPERIMENT}/{{table}}.md",
    output:
        csv="results/{table}.csv",
        md="results/{table}.md",
    log:
        f"results/{EXPERIMENT}/logs/publish_table/{{table}}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        version=versions.published_table,
    message:
        "Copying {input.csv} to {output.csv}"
    shell:
        "(cp {input.csv:q} {output.csv:q}.part && cp {input.md:q} {output.md:q}.part"
        " && mv {output.csv:q}.part {output.csv:q} && mv {output.md:q}.part {output.md:q}) > {log:q} 2>&1"
