"""How large the steps are: the learning rate of each step, and which weights decay."""

import math

from torch import nn

from nanos2t.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly in the warm-up. Then it falls linearly to 0, or along half a cosine, or it
    stays until the last `config.decay_steps`, in which it falls linearly to 0.
    """
    rising = (step + 1) / max(1, config.warmup_steps)
    steps_left = config.steps - step
    share_left = steps_left / max(1, config.steps - config.warmup_steps)
    if config.schedule == "linear":
        falling = share_left
    elif config.schedule == "cosine":
        falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, share_left))
    else:
        falling = steps_left / max(1, config.decay_steps)
    return config.learning_rate * min(1.0, rising, falling)


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Return parameter groups for an optimizer: matrices, which decay, and biases, norms, gains."""
    matrices = []
    vectors = []
    for parameter in module.parameters():
        if not parameter.requires_grad:
            continue
        # The gain of the positional convolution, (1, 1, K), is a vector, too.
        dimensions = [length for length in parameter.shape if length > 1]
        if len(dimensions) > 1:
            matrices.append(parameter)
        else:
            vectors.append(parameter)
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
