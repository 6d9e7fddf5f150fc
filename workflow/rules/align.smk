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
        "python -m transfer detect --params {params.config} --set faces.threads={threads}"
        " --dataset {wildcards.dataset} > {log} 2>&1"


use rule index_dataset as align_faces with:
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
    params:
        verb="align",
        config=SNAPSHOT,
        version=versions.align,
    message:
        "Aligning the faces of {wildcards.dataset}"


use rule index_dataset as inspect_faces with:
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
    params:
        verb="inspect",
        config=SNAPSHOT,
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
        verb="sample",
        config=SNAPSHOT,
        version=versions.sample,
    message:
        "Splitting and balancing {wildcards.dataset}"
