# Training: one run per dataset, recipe and seed.


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
