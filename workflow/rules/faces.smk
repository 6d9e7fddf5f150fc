# Faces: detection, alignment, quality page, splits and upsampling plans; duplicates, and the leak audit.


rule detect_faces:
    input:
        archive=ancient(inputs.archive_of),
        index=rules.index_dataset.output.index,
    output:
        faces="results/{experiment}/data/{dataset}/faces.parquet",
    log:
        "results/{experiment}/logs/detect_faces/{dataset}.log",
    benchmark:
        "results/{experiment}/benchmarks/detect_faces/{dataset}.tsv"
    conda:
        "../envs/transfer.yaml"
    threads: needs.detect_threads
    resources:
        mem_mb=8000,
        runtime=720,
    params:
        config=SNAPSHOT,
        version=versions.detect,
    message:
        "Detecting faces and landmarks in {wildcards.dataset}"
    shell:
        "python -m transfer detect --params {params.config:q} --set faces.threads={threads}"
        " --dataset {wildcards.dataset:q} > {log:q} 2>&1"


use rule index_dataset as align_faces with:
    input:
        archive=ancient(inputs.archive_of),
        index=rules.index_dataset.output.index,
        faces=rules.detect_faces.output.faces,
    output:
        images="results/{experiment}/data/{dataset}/aligned.npy",
        manifest="results/{experiment}/data/{dataset}/aligned.parquet",
        evaluation="results/{experiment}/data/{dataset}/evaluation.csv",
    log:
        "results/{experiment}/logs/align_faces/{dataset}.log",
    params:
        command="align --dataset {dataset}".split(),
        version=versions.align,
    message:
        "Aligning the faces of {wildcards.dataset}"


use rule index_dataset as inspect_faces with:
    input:
        archive=ancient(inputs.archive_of),
        index=rules.index_dataset.output.index,
        faces=rules.detect_faces.output.faces,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
    output:
        page="results/{experiment}/data/{dataset}/faces.html",
        report="results/{experiment}/data/{dataset}/faces.json",
    log:
        "results/{experiment}/logs/inspect_faces/{dataset}.log",
    params:
        command="inspect --dataset {dataset}".split(),
        version=versions.inspect,
    message:
        "Quality page of {wildcards.dataset}"


use rule index_dataset as sample_faces with:
    input:
        manifest=rules.align_faces.output.manifest,
        copies=inputs.copies_of,
    output:
        split="results/{experiment}/data/{dataset}/split.parquet",
        plans=expand("results/{{experiment}}/data/{{dataset}}/plan_{upsample}.npy", upsample=UPSAMPLING),
    log:
        "results/{experiment}/logs/sample_faces/{dataset}.log",
    params:
        command="sample --dataset {dataset}".split(),
        version=versions.sample,
    message:
        "Splitting and balancing {wildcards.dataset}"


use rule index_dataset as hash_images with:
    input:
        archive=ancient(inputs.archive_of),
        index=rules.index_dataset.output.index,
    output:
        hashes="results/{experiment}/data/{dataset}/hashes.parquet",
        thumbnails="results/{experiment}/data/{dataset}/thumbnails.npy",
    log:
        "results/{experiment}/logs/hash_images/{dataset}.log",
    params:
        command="hash --dataset {dataset}".split(),
        version=versions.of("hash"),
    message:
        "Hashing the images of {wildcards.dataset}"


use rule index_dataset as find_duplicates with:
    input:
        hashes=rules.hash_images.output.hashes,
        thumbnails=rules.hash_images.output.thumbnails,
    output:
        duplicates="results/{experiment}/data/{dataset}/duplicates.parquet",
    log:
        "results/{experiment}/logs/find_duplicates/{dataset}.log",
    params:
        command="duplicates --dataset {dataset}".split(),
        version=versions.of("duplicates"),
    message:
        "Finding duplicates within {wildcards.dataset}"


# Further steps of the whole experiment use this rule.
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
        command="audit".split(),
        config=SNAPSHOT,
        version=versions.audit,
    message:
        "Duplicates within and across splits and datasets of {wildcards.experiment}"
    shell:
        "python -m transfer {params.command:q} --params {params.config:q} > {log:q} 2>&1"
