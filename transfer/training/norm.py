"""Batch norm over the batch of all processes of a training, on the CPU; torch's SyncBatchNorm is for CUDA alone."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from transfer.utils.errors import UserError


class _OfAllProcesses(torch.autograd.Function):
    """torch's kernels on this process's images, with means over all processes between them.

    All processes have equally many images.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        zeros, ones = torch.zeros_like(weight), torch.ones_like(weight)
        own = torch.stack(torch.batch_norm_update_stats(x, zeros, ones, 0.0))  # mean and variance, in float32
        every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(every, own)
        means, variances = torch.stack(every, dim=1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        y, _, _ = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        # The kernel of evaluation takes mean and variance as constants; what comes through them is linear in x
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        through = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(through)
        through /= dist.get_world_size() * (x.numel() // x.shape[1])
        scale = (variance + ctx.eps).rsqrt()
        slope = -weight * through[0] * scale * scale
        offset = -weight * through[1] * scale - slope * mean
        # In float32: slope * x and the offset nearly cancel where a channel's mean is large
        grad_x = (grad_x + torch.addcmul(offset.view(-1, 1, 1), x, slope.view(-1, 1, 1))).to(grad.dtype)
        return grad_x, grad_weight, grad_bias, None


class BatchNormOfAll(nn.BatchNorm2d):
    """The same layer as ``nn.BatchNorm2d`` in one process with the batch of all; parameters and names are the same."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape; in training all processes must call it, with the same shape."""
        if not self.training:
            return super().forward(x)
        y, mean, variance = _OfAllProcesses.apply(x, self.weight, self.bias, self.eps)
        count = dist.get_world_size() * (x.numel() // x.shape[1])
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        return y


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` with batch norms whose statistics are those of all processes; parameters stay the same objects.

    Raises UserError for a kind of batch norm that the CPU has no such version of.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, module in model.named_modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        if type(module) is not nn.BatchNorm2d or not module.affine or module.running_mean is None:
            raise UserError(f"model: several processes on the CPU share no batch norm like {name}; use one process")
        module.__class__ = BatchNormOfAll
    return model
