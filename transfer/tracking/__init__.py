"""MLflow: a view of the files below results/, live while runs go on, completed from their files afterwards."""

from transfer.tracking.live import Tracking
from transfer.tracking.names import environment_tags, epoch_metrics

__all__ = ["Tracking", "environment_tags", "epoch_metrics"]
