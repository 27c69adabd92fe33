"""Linear layers in float32 on a CPU by oneDNN: faster for few rows, with the activation included.

For one row, a token of greedy search, it depends on the processor whether oneDNN or torch's own
product is faster: `choose_min_rows` tries both.

Every class here is a class of the core, or nn.Linear, with another `forward`. It is built from a
module of the core and shares its parameters, so that the model still trains, saves and loads as
the core does. Where oneDNN's product cannot be used, `forward` is the core's.

Shapes: B batch, T frames or tokens, H hidden_size, I inputs, O outputs, V vocab_size.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.decoder import Head
from nanos2t.wav2vec2 import MLP


def has_onednn() -> bool:
    """Return whether this build of torch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def is_supported(x: Tensor, weight: Tensor, min_rows: int = 1) -> bool:
    """Return whether `linear_onednn` can be used: without gradients, in float32, on a CPU.

    x: at least min_rows rows (..., I).
    """
    return (
        0 < min_rows * x.shape[-1] <= x.numel()
        and not torch.is_grad_enabled()
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
    )


def linear_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
) -> Tensor:
    """Return activation(x W^T + b) (..., O) of x (..., I), weight (O, I) and bias (O,) or None."""
    # The activations that oneDNN can apply to the product: their names and algorithms.
    if activation is None:
        name = "none"
        algorithm = ""
    elif isinstance(activation, nn.GELU):
        name = "gelu"
        algorithm = activation.approximate  # "none" or "tanh"
    elif isinstance(activation, nn.ReLU):
        name = "relu"
        algorithm = ""
    else:
        return activation(linear_onednn(x, weight, bias))
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


def choose_min_rows(weights: list[Tensor]) -> int:
    """Return the fewest rows that oneDNN shall multiply: 1, or 2 if torch is faster for one row.

    Both multiply one row by all `weights`, each (O, I), eight times in turns: what a token of
    greedy search does. The shortest time counts.
    """
    rows = [torch.ones(1, weight.shape[1]) for weight in weights]
    if not all(map(is_supported, rows, weights)):
        return 1

    def seconds(multiply: Callable[[Tensor, Tensor, None], Tensor]) -> float:
        start = time.perf_counter()
        for row, weight in zip(rows, weights):
            multiply(row, weight, None)
        return time.perf_counter() - start

    turns = [(seconds(F.linear), seconds(linear_onednn)) for _ in range(8)]
    torch_seconds, onednn_seconds = map(min, zip(*turns))
    if torch_seconds < onednn_seconds:
        return 2
    return 1


class FastLinear(nn.Linear):
    """nn.Linear, multiplied by oneDNN where there are at least min_rows rows."""

    def __init__(self, linear: nn.Linear, min_rows: int = 1):
        # Not nn.Linear.__init__, which would make new parameters.
        nn.Module.__init__(self)
        self.min_rows = min_rows
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", linear.bias)

    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        if not is_supported(x, self.weight, self.min_rows):
            return super().forward(x)
        return linear_onednn(x, self.weight, self.bias)  # (..., O)


class FastMLP(MLP):
    """The core's MLP, whose first product and activation are one step."""

    def __init__(self, mlp: MLP, min_rows: int = 1):
        nn.Module.__init__(self)
        self.min_rows = min_rows
        self.up_proj = mlp.up_proj
        self.activation = mlp.activation
        self.activation_dropout = mlp.activation_dropout
        self.down_proj = mlp.down_proj
        self.dropout = mlp.dropout

    def forward(self, x: Tensor) -> Tensor:  # (B, T, H)
        # In training mode there is a dropout after the activation.
        if self.training or not is_supported(x, self.up_proj.weight, self.min_rows):
            return super().forward(x)

        up = self.up_proj
        x = linear_onednn(x, up.weight, up.bias, self.activation)  # (B, T, intermediate_size)
        return self.down_proj(x)  # (B, T, H)


class FastHead(Head):
    """The core's Head, whose output matrix is multiplied by oneDNN."""

    def __init__(self, head: Head, min_rows: int = 1):
        nn.Module.__init__(self)
        self.min_rows = min_rows
        self.transform = head.transform
        self.register_parameter("weight", head.weight)
        self.register_parameter("bias", head.bias)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H), (V, H)
        if not is_supported(x, embeddings, self.min_rows):
            return super().forward(x, embeddings)

        x = self.transform(x)  # (B, T, H)
        weight = embeddings if self.weight is None else self.weight  # (V, H)
        return linear_onednn(x, weight, self.bias)  # (B, T, V)
