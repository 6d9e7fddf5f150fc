# Metrics of each run, from its predictions; additional evaluations of its checkpoint: corrupted faces, other datasets, diversity.


rule evaluate_run:
    input:
        predictions=rules.train_model.output.predictions,
        subsets=inputs.subsets_of,
    output:
        metrics="results/{experiment}/runs/{dataset}/{recipe}/seed{seed}/metrics.json",
    log:
        "results/{experiment}/logs/evaluate_run/{dataset}/{recipe}/seed{seed}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.evaluate,
    message:
        "Metrics of {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    # The resume state can go: this job only starts once Snakemake has recorded the run as complete.
    shell:
        "python -m transfer evaluate --params {params.config:q}"
        " --dataset {wildcards.dataset:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed:q} > {log:q} 2>&1"
        " && rm -rf results/{wildcards.experiment:q}/state/{wildcards.dataset:q}/{wildcards.recipe:q}/seed{wildcards.seed:q}"


rule evaluate_robustness:
    input:
        weights=rules.train_model.output.weights,
        predictions=rules.train_model.output.predictions,
        environment=rules.train_model.output.environment,
        index=rules.index_dataset.output.index,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
        split=rules.sample_faces.output.split,
    output:
        predictions="results/{experiment}/evaluations/robustness/{dataset}/{recipe}/seed{seed}/robustness.parquet",
    log:
        "results/{experiment}/logs/evaluate_robustness/{dataset}/{recipe}/seed{seed}.log",
    conda:
        "../envs/transfer.yaml"
    threads: needs.threads
    resources:
        mem_mb=needs.store_mb,
        runtime=240,
        gpu=needs.gpus,
    params:
        config=SNAPSHOT,
        version=versions.robustness,
    message:
        "Robustness of {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer robustness --params {params.config:q} --set train.threads={threads}"
        " --dataset {wildcards.dataset:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed:q} > {log:q} 2>&1"


rule evaluate_cross:
    input:
        weights=rules.train_model.output.weights,
        predictions=rules.train_model.output.predictions,
        environment=rules.train_model.output.environment,
        split=rules.sample_faces.output.split,
        test=expand(
            "results/{{experiment}}/data/{{test_dataset}}/{name}",
            name=["aligned.npy", "aligned.parquet", "split.parquet"],
        ),
    output:
        predictions="results/{experiment}/evaluations/cross/{dataset}/{recipe}/seed{seed}/{test_dataset}.parquet",
    log:
        "results/{experiment}/logs/evaluate_cross/{dataset}/{recipe}/seed{seed}/{test_dataset}.log",
    conda:
        "../envs/transfer.yaml"
    threads: needs.threads
    resources:
        mem_mb=needs.store_mb,
        runtime=60,
        gpu=needs.gpus,
    params:
        config=SNAPSHOT,
        version=versions.cross,
    message:
        "Cross-dataset: {wildcards.recipe} of {wildcards.dataset} on {wildcards.test_dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer cross --params {params.config:q} --set train.threads={threads}"
        " --dataset {wildcards.dataset:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed:q}"
        " --on {wildcards.test_dataset:q} > {log:q} 2>&1"


rule measure_diversity:
    input:
        weights=rules.train_model.output.weights,
        predictions=rules.train_model.output.predictions,
        environment=rules.train_model.output.environment,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
        split=rules.sample_faces.output.split,
    output:
        "results/{experiment}/evaluations/attention/{dataset}/{recipe}/seed{seed}/diversity.json",
    log:
        "results/{experiment}/logs/measure_diversity/{dataset}/{recipe}/seed{seed}.log",
    conda:
        "../envs/transfer.yaml"
    threads: needs.threads
    resources:
        mem_mb=needs.store_mb,
        runtime=60,
        gpu=needs.gpus,
    params:
        config=SNAPSHOT,
        version=versions.diversity,
    message:
        "Diversity of maps and heads: {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer diversity --params {params.config:q} --set train.threads={threads}"
        " --dataset {wildcards.dataset:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed:q} > {log:q} 2>&1"
