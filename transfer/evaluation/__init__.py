"""From a run's weights to predictions of further faces, and from predictions to statistics."""
