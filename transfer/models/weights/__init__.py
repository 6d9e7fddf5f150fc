"""Third-party weights: read safely, checked tensor by tensor, converted once, loaded into a model."""
