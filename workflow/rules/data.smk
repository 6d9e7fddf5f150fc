# Raw files and what is made of them once: downloads, synthetic archives, indices, subsets, imported weights.


# Compute nodes often have no Internet access.
localrules:
    fetch_source,


rule fetch_source:
    output:
        # update: an existing file, perhaps put there by hand, is not deleted before the job or when the job fails.
        file=update(f"{RAW_DIR}/{{source_file}}"),
    log:
        f"results/{EXPERIMENT}/logs/fetch_source/{{source_file}}.log",
    conda:
        "../envs/transfer.yaml"
    params:
        raw_dir=f"raw_dir={RAW_DIR}",
    message:
        "Downloading {wildcards.source_file}"
    shell:
        "python -m transfer fetch {wildcards.source_file:q} --set {params.raw_dir:q} > {log:q} 2>&1"


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
        version=versions.of("synthesize"),
    message:
        "Generating synthetic dataset {wildcards.archive}"
    shell:
        "python -m transfer synthesize {params.values:q} --dataset synthetic > {log:q} 2>&1"


# Further steps of a dataset use this rule, and its params by name: they differ in command and files.
rule index_dataset:
    input:
        # Not their dates decide but what is in them: raw.
        archive=ancient(inputs.archive_of),
        lists=ancient(inputs.lists_of),
    output:
        index="results/{experiment}/data/{dataset}/index.parquet",
        summary="results/{experiment}/data/{dataset}/index.json",
    log:
        "results/{experiment}/logs/index_dataset/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        command="index --dataset {dataset}".split(),
        config=SNAPSHOT,
        version=versions.index,
        raw=inputs.raw_data_of,
    message:
        "Indexing images, labels and splits of {wildcards.dataset}"
    shell:
        "python -m transfer {params.command:q} --params {params.config:q} > {log:q} 2>&1"


use rule index_dataset as find_subsets with:
    input:
        index=rules.index_dataset.output.index,
        lists=ancient(inputs.subset_lists_of),
    output:
        subsets="results/{experiment}/data/{dataset}/subsets.parquet",
        report="results/{experiment}/data/{dataset}/subsets.json",
    log:
        "results/{experiment}/logs/find_subsets/{dataset}.log",
    params:
        command="subsets --dataset {dataset}".split(),
        version=versions.subsets,
        raw=inputs.raw_lists_of,
    message:
        "Finding challenge subsets of {wildcards.dataset}"


use rule index_dataset as import_weights with:
    input:
        ancient(inputs.weights_file_of),
    output:
        weights="results/{experiment}/weights/{weights}.safetensors",
        report="results/{experiment}/weights/{weights}.json",
    log:
        "results/{experiment}/logs/import_weights/{weights}.log",
    params:
        command="weights {weights}".split(),
        version=versions.weights,
        raw=inputs.raw_weights_of,
    message:
        "Importing the weights {wildcards.weights}"
