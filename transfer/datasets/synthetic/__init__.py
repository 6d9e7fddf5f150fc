"""Procedurally generated faces, for a workflow without licensed data."""
