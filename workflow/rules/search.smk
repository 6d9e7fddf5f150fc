# Hyperparameter searches on the validation split: one job per dataset and worker, then the report.


rule search_worker:
    input:
        index=rules.index_dataset.output.index,
        images=rules.align_faces.output.images,
        manifest=rules.align_faces.output.manifest,
        split=rules.sample_faces.output.split,
        plans=rules.sample_faces.output.plans,
    output:
        # The study is not an output: Snakemake would delete it before the job.
        done="results/{experiment}/search/{search}/{dataset}/worker{worker}.json",
    log:
        "results/{experiment}/logs/search_worker/{search}/{dataset}/worker{worker}.log",
    conda:
        "../envs/transfer.yaml"
    threads: needs.search_threads
    resources:
        mem_mb=needs.store_mb,
        runtime=2880,
    params:
        config=SNAPSHOT,
        version=versions.search,
    message:
        "Search {wildcards.search} on {wildcards.dataset}, worker {wildcards.worker}"
    # exec: a cluster's SIGTERM reaches the run, which saves its state; a shell in between would end the job.
    shell:
        "exec python -m transfer search --params {params.config:q} --set train.threads={threads}"
        " --search {wildcards.search:q} --dataset {wildcards.dataset:q} --worker {wildcards.worker:q} > {log:q} 2>&1"


use rule audit_copies as report_search with:
    input:
        workers=inputs.search_workers_of,
    output:
        best="results/{experiment}/search/{search}/best.yaml",
        tables=expand(
            "results/{{experiment}}/search/{{search}}/{dataset}/{name}",
            dataset=PARAMS.datasets,
            name=["trials.csv", "grid.csv", "importances.json"],
        ),
        figures=expand(
            "results/{{experiment}}/search/{{search}}/{dataset}/{name}.png",
            dataset=PARAMS.datasets,
            name=["history", "slices", "contour", "importances"],
        ),
    log:
        "results/{experiment}/logs/report_search/{search}.log",
    params:
        command="search-report --search {search}".split(),
        version=versions.search_report,
    message:
        "Report of the search {wildcards.search}"
