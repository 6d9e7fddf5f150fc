"""Weights that others trained: read safely, checked tensor by tensor, converted once, loaded into the model."""
