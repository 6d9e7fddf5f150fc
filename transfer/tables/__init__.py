"""The tables of an experiment, made from metrics.json and predictions.parquet of its runs."""
