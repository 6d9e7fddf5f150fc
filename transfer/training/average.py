"""The average of the weights over a training's steps, which is evaluated and kept in their place."""

from timm.utils.model_ema import ModelEmaV3
from torch import nn

WARMUP = 9.0


def make_average(model: nn.Module, decay: float) -> ModelEmaV3 | None:
    """The exponential average of the weights and buffers of ``model``, to be updated after each step; None for 0.

    ``update(model, step)`` counts steps from 1; the first one copies. Until its decay has grown to ``decay`` it is
    t / (9 + t) after t + 1 steps, so that the start values are soon forgotten: TensorFlow's (1 + n) / (10 + n)
    (tf.train.ExponentialMovingAverage), where timm counts one less. The statistics of batch norm are averaged like the
    weights before them, as timm does (``--model-ema``): those of the present weights would belong to another network.
    """
    if not decay:
        return None
    return ModelEmaV3(model, decay, use_warmup=True, warmup_gamma=WARMUP, warmup_power=1.0)
