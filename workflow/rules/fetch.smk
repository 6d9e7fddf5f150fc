# Downloads of lists, votes and weights; the rest must be obtained by hand (`transfer fetch NAME`).


# Compute nodes often have no Internet access.
localrules:
    fetch_source,


rule fetch_source:
    output:
        # update: an existing file, perhaps put there by hand, is not deleted before the job or when the job fails.
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
        "python -m transfer fetch {wildcards.source_file:q} --set {params.raw_dir:q} > {log:q} 2>&1"
