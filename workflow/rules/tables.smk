# Tables, figures and the summary for DVC: one rule for all entries of `table_definitions`; the import into MLflow.


# Copying two small files needs no cluster job; the output of `track` is printed where Snakemake runs.
localrules:
    publish_table,
    track,


use rule audit_copies as make_table with:
    input:
        unpack(inputs.table_inputs),
    output:
        csv="results/{experiment}/{table}.csv",
        md="results/{experiment}/{table}.md",
        tex="results/{experiment}/{table}.tex",
        html=report(
            "results/{experiment}/report/{table}.html",
            caption="../report/caption.rst",
            category="Tables",
            labels=captions.table_labels,
        ),
    log:
        "results/{experiment}/logs/make_table/{table}.log",
    params:
        command="table --name {table}".split(),
        version=versions.table,
        about=captions.table,
    message:
        "Table {wildcards.table} of {wildcards.experiment}"


use rule audit_copies as summarize_runs with:
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
    params:
        command="overview".split(),
        version=versions.of("overview"),
    message:
        "Accuracies and learning curves of {wildcards.experiment}"


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


use rule audit_copies as draw_figure with:
    input:
        inputs.figure_inputs,
    output:
        png=report(
            "results/{experiment}/figures/{table}_{dataset}.png",
            caption="../report/caption.rst",
            category="Figures",
            labels=captions.figure_labels,
        ),
        svg="results/{experiment}/figures/{table}_{dataset}.svg",
        caption="results/{experiment}/figures/{table}_{dataset}.json",
    log:
        "results/{experiment}/logs/draw_figure/{table}_{dataset}.log",
    params:
        command="figure table --name {table} --dataset {dataset}".split(),
        version=versions.figure,
        about=captions.figure,
    message:
        "Figure of {wildcards.table} on {wildcards.dataset}"


use rule audit_copies as draw_attention with:
    input:
        inputs.attention_inputs,
    output:
        report(
            expand("results/{{experiment}}/figures/{name}_{{dataset}}.png", name=["attention", "lanets"]),
            caption="../report/caption.rst",
            category="Figures",
            labels={"figure": "attention", "dataset": "{dataset}", "protocol": PARAMS.checkpoint_protocol},
        ),
        expand(
            "results/{{experiment}}/figures/{name}_{{dataset}}.{suffix}",
            name=["attention", "lanets"],
            suffix=["svg", "json"],
        ),
    log:
        "results/{experiment}/logs/draw_attention/{dataset}.log",
    resources:
        mem_mb=needs.store_mb,
    params:
        command="figure attention --dataset {dataset}".split(),
        version=versions.attention,
        about=captions.attention,
    message:
        "Attention figures of {wildcards.dataset}"


# Without outputs, it runs whenever it is requested.
rule track:
    input:
        table=f"results/{EXPERIMENT}/table1.csv",
    log:
        f"results/{EXPERIMENT}/logs/track.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        config=SNAPSHOT,
    message:
        "Importing the runs of {EXPERIMENT} into MLflow and checking Table 1 against it"
    shell:
        "(python -m transfer track sync --params {params.config:q}"
        " && python -m transfer track check --params {params.config:q}) 2>&1 | tee {log:q}"


# With all cores, so that no other job disturbs the clock.
use rule audit_copies as measure_inference with:
    input:
        inputs.inference_inputs,
    output:
        f"results/{EXPERIMENT}/inference.json",
    log:
        f"results/{EXPERIMENT}/logs/measure_inference.log",
    threads: needs.all_cores
    resources:
        mem_mb=needs.store_mb,
        runtime=60,
        gpu=int(PARAMS.train.device == "cuda"),
    params:
        command="board measure".split(),
        config=SNAPSHOT,
        version=versions.of("inference"),
    message:
        "Speed of the networks of {EXPERIMENT}"


# The pages of the experiment's tasks, from its runs and from the entries in leaderboard/.
use rule audit_copies as leaderboard with:
    input:
        board=inputs.board_files,
        indices=inputs.all_datasets("index.parquet"),
        duplicates=inputs.all_datasets("duplicates.parquet"),
        metrics=inputs.all_runs("metrics.json"),
        predictions=inputs.all_runs("predictions.parquet"),
        environments=inputs.all_runs("env.json"),
        inference=rules.measure_inference.output,
        evaluations=inputs.board_evaluations,
    output:
        page="results/leaderboard/index.html",
        csv="results/leaderboard/leaderboard.csv",
        json="results/leaderboard/leaderboard.json",
    log:
        f"results/{EXPERIMENT}/logs/leaderboard.log",
    params:
        command="board build".split(),
        version=versions.leaderboard,
    message:
        "Leaderboard of {EXPERIMENT}"
