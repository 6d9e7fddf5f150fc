"""The machine's state as MLflow's page "System metrics" shows it: processor, memory, disk, network, GPUs."""

import contextlib


class SystemMetrics:
    """Samples with MLflow's own monitors; GPUs where nvidia-ml-py is installed."""

    def __init__(self) -> None:
        self._monitors: list | None = None

    def sample(self) -> dict[str, float]:
        """The values at this moment, by MLflow's names: ``system/<name>``."""
        if self._monitors is None:
            self._monitors = list(_monitors())
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in values.items()}


def _monitors():
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    for monitor in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        with contextlib.suppress(ImportError, RuntimeError):  # no library for GPUs, or no GPU
            yield monitor()
