"""From predictions to numbers: predictions.parquet, metrics.json, and the statistics over seeds."""
