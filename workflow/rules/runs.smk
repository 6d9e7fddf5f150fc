# Training, one run per dataset, recipe and seed; its metrics, and additional evaluations of its checkpoint.


rule train_model:
    input:
        index=rules.index_dataset.output.index,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
        split=rules.sample_faces.output.split,
        plan=inputs.plan_of,
        pretrained=inputs.pretrained_of,
    output:
        weights="results/{experiment}/runs/{dataset}/{recipe}/seed{seed}/model.safetensors",
        history="results/{experiment}/runs/{dataset}/{recipe}/seed{seed}/history.csv",
        predictions="results/{experiment}/runs/{dataset}/{recipe}/seed{seed}/predictions.parquet",
        environment="results/{experiment}/runs/{dataset}/{recipe}/seed{seed}/env.json",
    log:
        "results/{experiment}/logs/train_model/{dataset}/{recipe}/seed{seed}.log",
    benchmark:
        "results/{experiment}/benchmarks/train_model/{dataset}/{recipe}/seed{seed}.tsv"
    conda:
        "../envs/transfer.yaml"
    threads: needs.train_threads
    resources:
        mem_mb=needs.train_mb,
        runtime=2880,
        gpu=needs.train_gpus,
    params:
        config=SNAPSHOT,
        version=versions.train,
        threads_each=needs.threads_each,
    message:
        "Training {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    # --keep-state: after a kill Snakemake deletes outputs whose job it has not recorded; evaluate_run removes the state.
    # exec: a cluster's SIGTERM reaches the run, which saves its state; a shell in between would end the job.
    shell:
        "exec python -m transfer train --params {params.config:q}"
        " --set train.threads={params.threads_each:q}"
        " --dataset {wildcards.dataset:q} --recipe {wildcards.recipe:q} --seed {wildcards.seed:q} --keep-state > {log:q} 2>&1"


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
        version=versions.of("evaluate"),
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
        command="robustness --dataset {dataset} --recipe {recipe} --seed {seed}".split(),
        config=SNAPSHOT,
        version=versions.robustness,
    message:
        "Robustness of {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"
    shell:
        "python -m transfer {params.command:q} --params {params.config:q} --set train.threads={threads} > {log:q} 2>&1"


use rule evaluate_robustness as evaluate_cross with:
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
    params:
        command="cross --dataset {dataset} --recipe {recipe} --seed {seed} --on {test_dataset}".split(),
        version=versions.cross,
    message:
        "Cross-dataset: {wildcards.recipe} of {wildcards.dataset} on {wildcards.test_dataset}, seed {wildcards.seed}"


use rule evaluate_robustness as measure_diversity with:
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
    params:
        command="diversity --dataset {dataset} --recipe {recipe} --seed {seed}".split(),
        version=versions.diversity,
    message:
        "Diversity of maps and heads: {wildcards.recipe} on {wildcards.dataset}, seed {wildcards.seed}"


rule evaluate_tool:
    input:
        package=ancient(inputs.tool_of),
        archive=ancient(inputs.archive_of),
        index=rules.index_dataset.output.index,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
        split=rules.sample_faces.output.split,
    output:
        predictions="results/{experiment}/evaluations/tools/{dataset}/{tool}.parquet",
    log:
        "results/{experiment}/logs/evaluate_tool/{dataset}/{tool}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=SNAPSHOT,
        version=versions.of("tools"),
    message:
        "The tool {wildcards.tool} on {wildcards.dataset}"
    shell:
        "python -m transfer evaluate --params {params.config:q} --set train.threads={threads}"
        " --dataset {wildcards.dataset:q} --tool {wildcards.tool:q} > {log:q} 2>&1"
