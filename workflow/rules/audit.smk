# The leak audit: duplicates within and across splits and datasets.


rule hash_images:
    input:
        archive=inputs.archive_of,
        index=rules.index_dataset.output.index,
    output:
        hashes="results/{experiment}/data/{dataset}/hashes.parquet",
        thumbnails="results/{experiment}/data/{dataset}/thumbnails.npy",
    log:
        "results/{experiment}/logs/hash_images/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=SNAPSHOT,
        version=versions.hash,
    message:
        "Hashing the images of {wildcards.dataset}"
    shell:
        "python -m transfer hash --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule find_duplicates:
    input:
        hashes=rules.hash_images.output.hashes,
        thumbnails=rules.hash_images.output.thumbnails,
    output:
        duplicates="results/{experiment}/data/{dataset}/duplicates.parquet",
    log:
        "results/{experiment}/logs/find_duplicates/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=SNAPSHOT,
        version=versions.duplicates,
    message:
        "Finding duplicates within {wildcards.dataset}"
    shell:
        "python -m transfer duplicates --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule audit_copies:
    input:
        hashes=inputs.all_datasets("hashes.parquet"),
        thumbnails=inputs.all_datasets("thumbnails.npy"),
        duplicates=inputs.all_datasets("duplicates.parquet"),
    output:
        duplicates="results/{experiment}/audit/duplicates.csv",
        csv="results/{experiment}/audit/audit.csv",
        md="results/{experiment}/audit/audit.md",
        picture="results/{experiment}/audit/pairs.png",
    log:
        "results/{experiment}/logs/audit_copies.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=6000,
        runtime=240,
    params:
        config=SNAPSHOT,
        version=versions.audit,
    message:
        "Duplicates within and across splits and datasets of {wildcards.experiment}"
    shell:
        "python -m transfer audit --params {params.config:q} > {log:q} 2>&1"
