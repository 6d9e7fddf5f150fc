"""MLflow: a view of the files in results/, live during runs and completed from their files afterwards."""
