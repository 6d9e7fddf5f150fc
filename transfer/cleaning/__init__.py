"""What may go between runs: parts of an experiment, and what no table needs."""
