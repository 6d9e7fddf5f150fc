"""Helpers for every other package: errors, files, progress, environment, code digests, seeds, plots."""
