# Faces: detection, alignment, quality page, splits and upsampling plans.


rule detect_faces:
    input:
        archive=inputs.archive_of,
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


rule align_faces:
    input:
        archive=inputs.archive_of,
        index=rules.index_dataset.output.index,
        faces=rules.detect_faces.output.faces,
    output:
        images="results/{experiment}/data/{dataset}/aligned.npy",
        manifest="results/{experiment}/data/{dataset}/aligned.parquet",
        evaluation="results/{experiment}/data/{dataset}/evaluation.csv",
    log:
        "results/{experiment}/logs/align_faces/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        config=SNAPSHOT,
        version=versions.align,
    message:
        "Aligning the faces of {wildcards.dataset}"
    shell:
        "python -m transfer align --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule inspect_faces:
    input:
        archive=inputs.archive_of,
        index=rules.index_dataset.output.index,
        faces=rules.detect_faces.output.faces,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
    output:
        page="results/{experiment}/data/{dataset}/faces.html",
        report="results/{experiment}/data/{dataset}/faces.json",
    log:
        "results/{experiment}/logs/inspect_faces/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=SNAPSHOT,
        version=versions.inspect,
    message:
        "Quality page of {wildcards.dataset}"
    shell:
        "python -m transfer inspect --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"


rule sample_faces:
    input:
        manifest=rules.align_faces.output.manifest,
        copies=inputs.copies_of,
    output:
        split="results/{experiment}/data/{dataset}/split.parquet",
        plans=expand("results/{{experiment}}/data/{{dataset}}/plan_{upsample}.npy", upsample=UPSAMPLING),
    log:
        "results/{experiment}/logs/sample_faces/{dataset}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.sample,
    message:
        "Splitting and balancing {wildcards.dataset}"
    shell:
        "python -m transfer sample --params {params.config:q} --dataset {wildcards.dataset:q} > {log:q} 2>&1"
