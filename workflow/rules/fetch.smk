# Lists, votes and weights that may be downloaded; the rest is put into raw_dir by hand (transfer fetch NAME).


# Compute nodes often have no way to the Internet.
localrules:
    fetch_source,


rule fetch_source:
    output:
        # update: what lies there, perhaps put there by hand, is not removed before the job or when it fails.
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
