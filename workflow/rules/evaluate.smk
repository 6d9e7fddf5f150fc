# Metrics of each run, from its predictions; further evaluations of its weights: corrupted faces, other datasets, diversity.


rule evaluate_run:
    input:
        predictions=rules.train_model.output.predictions,
        subsets=subsets_of_dataset,
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
        version=evaluate_version,
    message:
        "Metrics of {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    # The resume state can go: this job only starts once Snakemake has recorded the training as complete.
    shell:
        "python -m transfer evaluate --params {params.config}"
        " --dataset {wildcards.dataset} --recipe {wildcards.recipe} --seed {wildcards.seed} > {log} 2>&1"
        " && rm -rf results/{wildcards.experiment}/state/{wildcards.dataset}/{wildcards.recipe}/seed{wildcards.seed}"


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
    threads: prediction_threads
    resources:
        mem_mb=store_mb,
        runtime=240,
        gpu=prediction_gpus,
    params:
        config=SNAPSHOT,
        version=robustness_version,
    message:
        "Robustness of {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer robustness --params {params.config} --set train.threads={threads}"
        " --dataset {wildcards.dataset} --recipe {wildcards.recipe} --seed {wildcards.seed} > {log} 2>&1"


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
    threads: prediction_threads
    resources:
        mem_mb=store_mb,
        runtime=60,
        gpu=prediction_gpus,
    params:
        config=SNAPSHOT,
        version=cross_version,
    message:
        "{wildcards.recipe} of {wildcards.dataset} on {wildcards.test_dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer cross --params {params.config} --set train.threads={threads}"
        " --dataset {wildcards.dataset} --recipe {wildcards.recipe} --seed {wildcards.seed}"
        " --on {wildcards.test_dataset} > {log} 2>&1"


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
    threads: prediction_threads
    resources:
        mem_mb=store_mb,
        runtime=60,
        gpu=prediction_gpus,
    params:
        config=SNAPSHOT,
        version=diversity_version,
    message:
        "Diversity of maps and heads: {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer diversity --params {params.config} --set train.threads={threads}"
        " --dataset {wildcards.dataset} --recipe {wildcards.recipe} --seed {wildcards.seed} > {log} 2>&1"
