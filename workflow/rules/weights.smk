# Third-party weights, converted to this project's parameter names: once per source in params/sources.yaml.


rule import_weights:
    input:
        inputs.weights_file_of,
    output:
        weights="results/{experiment}/weights/{weights}.safetensors",
        report="results/{experiment}/weights/{weights}.json",
    log:
        "results/{experiment}/logs/import_weights/{weights}.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=SNAPSHOT,
        version=versions.weights,
    message:
        "Importing the weights {wildcards.weights}"
    shell:
        "python -m transfer weights {wildcards.weights:q} --params {params.config:q} > {log:q} 2>&1"
