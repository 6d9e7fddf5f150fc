# Import of the runs into MLflow. Without outputs, it runs whenever it is requested.


# On a cluster this runs where Snakemake does, so that its output is printed there.
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
        "Importing the runs of {EXPERIMENT} into MLflow and checking Table 1 against it"
    shell:
        "(python -m transfer track sync --params {params.config:q}"
        " && python -m transfer track check --params {params.config:q}) 2>&1 | tee {log:q}"
