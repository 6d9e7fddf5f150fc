"""Measurements of speed and memory, as ratios and peaks within one run."""
