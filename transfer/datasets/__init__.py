"""Datasets: where the images lie (source), one parser per dataset (registry), decoding (images) and count checks."""
