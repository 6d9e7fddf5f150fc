# Figures: one per table and dataset, and the attention maps.


rule draw_figure:
    input:
        inputs.figure_inputs,
    output:
        png=report(
            "results/{experiment}/figures/{table}_{dataset}.png",
            caption="../report/figure.rst",
            category="Figures",
            labels=captions.figure_labels,
        ),
        svg="results/{experiment}/figures/{table}_{dataset}.svg",
        caption="results/{experiment}/figures/{table}_{dataset}.json",
    log:
        "results/{experiment}/logs/draw_figure/{table}_{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.figure,
        about=captions.figure,
    message:
        "Figure of {wildcards.table} on {wildcards.dataset}"
    shell:
        "python -m transfer figure table --params {params.config:q}"
        " --name {wildcards.table:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule draw_attention:
    input:
        inputs.attention_inputs,
    output:
        report(
            expand("results/{{experiment}}/figures/{name}_{{dataset}}.png", name=["attention", "lanets"]),
            caption="../report/figure.rst",
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
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=needs.store_mb,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.attention,
        about=captions.attention,
    message:
        "Attention figures of {wildcards.dataset}"
    shell:
        "python -m transfer figure attention --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"
