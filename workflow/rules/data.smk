# Raw archives and their indices.


rule synthesize_archive:
    output:
        archive=f"{RAW_DIR}/{{archive}}",
    log:
        f"results/{EXPERIMENT}/logs/synthesize_archive/{{archive}}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        # Not the experiment's snapshot: experiments share their synthetic archives.
        values=inputs.synthetic_values,
        version=versions.synthesize,
    message:
        "Generating synthetic dataset {wildcards.archive}"
    shell:
        "python -m transfer synthesize {params.values:q} --dataset synthetic > {log:q} 2>&1"


rule index_dataset:
    input:
        archive=inputs.archive_of,
        lists=inputs.lists_of,
    output:
        index="results/{experiment}/data/{dataset}/index.parquet",
        summary="results/{experiment}/data/{dataset}/index.json",
    log:
        "results/{experiment}/logs/index_dataset/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=SNAPSHOT,
        version=versions.index,
    message:
        "Indexing images, labels and splits of {wildcards.dataset}"
    shell:
        "python -m transfer index --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule find_subsets:
    input:
        index=rules.index_dataset.output.index,
        lists=inputs.subset_lists_of,
    output:
        subsets="results/{experiment}/data/{dataset}/subsets.parquet",
        report="results/{experiment}/data/{dataset}/subsets.json",
    log:
        "results/{experiment}/logs/find_subsets/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.subsets,
    message:
        "Finding challenge subsets of {wildcards.dataset}"
    shell:
        "python -m transfer subsets --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"
