"""MLflow: a view of the files below results/, live while trainings run, brought in line with the files afterwards."""

from transfer.tracking.live import Tracking
from transfer.tracking.shown import environment_tags, epoch_metrics

__all__ = ["Tracking", "environment_tags", "epoch_metrics"]
