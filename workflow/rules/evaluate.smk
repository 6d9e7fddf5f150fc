# Metrics of each training, from its predictions.


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
    # That this job runs shows that Snakemake has noted the training as complete.
    shell:
        "python -m transfer evaluate --params {params.config}"
        " --dataset {wildcards.dataset} --recipe {wildcards.recipe} --seed {wildcards.seed} > {log} 2>&1"
        " && rm -rf results/{wildcards.experiment}/state/{wildcards.dataset}/{wildcards.recipe}/seed{wildcards.seed}"
