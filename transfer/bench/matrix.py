"""The matrix rate: how fast this machine multiplies square matrices, the yardstick for a training's speed."""

import time

import torch

SIZES = {"cuda": (8192,), "cpu": (512, 1024, 2048)}
"""Sides of the matrices; the fastest counts. Which one that is on a CPU depends on its caches and threads."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class MatrixRate:
    """Square products in one precision, bf16 or fp32; ``best`` is the fastest yet: operations per second and side."""

    def __init__(self, precision: str, device: torch.device, seconds: float = 0.1) -> None:
        self.seconds = seconds
        self.best = (0.0, 0)
        generator = torch.Generator(device).manual_seed(0)
        self.matrices = [
            torch.randn(n, n, generator=generator, device=device).to(DTYPES[precision]) for n in SIZES[device.type]
        ]
        self()  # the first product of a shape builds its kernel; it is slow, so that it never counts

    def __call__(self) -> None:
        """Multiply for about ``seconds`` at each size, at least twice."""
        for matrix in self.matrices:
            begin, times = time.perf_counter(), 0
            while times < 2 or time.perf_counter() - begin < self.seconds:
                start = time.perf_counter()
                matrix @ matrix
                if matrix.is_cuda:
                    torch.cuda.synchronize()
                self.best = max(self.best, (2 * len(matrix) ** 3 / (time.perf_counter() - start), len(matrix)))
                times += 1
