# MLflow, brought in line with the files. No outputs: it runs whenever it is asked for.


# On a cluster too it runs where Snakemake does: what it finds is printed there.
localrules:
    track,


rule track:
    input:
        table=f"results/{EXPERIMENT}/table1.csv",
    log:
        f"results/{EXPERIMENT}/logs/track.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        config=SNAPSHOT,
    message:
        "Runs of {EXPERIMENT} into MLflow, and Table 1 against it"
    shell:
        "(python -m transfer track sync --params {params.config}"
        " && python -m transfer track check --params {params.config}) 2>&1 | tee {log}"
