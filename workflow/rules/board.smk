# The leaderboard of the experiment's tasks: pages, csv and JSON from its runs and from the entries in leaderboard/.


rule leaderboard:
    input:
        board=inputs.board_files,
        indices=inputs.all_datasets("index.parquet"),
        duplicates=inputs.all_datasets("duplicates.parquet"),
        metrics=inputs.all_runs("metrics.json"),
        predictions=inputs.all_runs("predictions.parquet"),
        environments=inputs.all_runs("env.json"),
        weights=inputs.all_runs("model.safetensors"),
    output:
        page="results/leaderboard/index.html",
        csv="results/leaderboard/leaderboard.csv",
        json="results/leaderboard/leaderboard.json",
    log:
        f"results/{EXPERIMENT}/logs/leaderboard.log",
    conda:
        "../envs/transfer.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        config=SNAPSHOT,
        version=versions.leaderboard,
    message:
        "Leaderboard of {EXPERIMENT}"
    shell:
        "python -m transfer board build --params {params.config} > {log} 2>&1"
