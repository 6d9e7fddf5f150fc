# Lists, votes and weights that may be downloaded; all else must be obtained manually (transfer fetch NAME).


# Compute nodes often lack Internet access.
localrules:
    fetch_source,


rule fetch_source:
    output:
        # update: a file that was put there by hand is not removed before the job, nor when it fails.
        file=update(f"{RAW_DIR}/{{source_file}}"),
    log:
        f"results/{EXPERIMENT}/logs/fetch_source/{{source_file}}.log",
    conda:
        "../envs/transfer.yaml"
    params:
        raw_dir=f"raw_dir={RAW_DIR}",
    message:
        "Downloading {wildcards.source_file}"
    shell:
        "python -m transfer fetch {wildcards.source_file:q} --set {params.raw_dir:q} > {log} 2>&1"
