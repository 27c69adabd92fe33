"""Products by oneDNN on a CPU: faster for few rows, with the activation included.

For one row, a token of greedy search, it depends on the processor whether oneDNN or torch's own
product is faster: `choose_min_rows` tries both.

Shapes: B batch, T frames or tokens, H hidden_size, I inputs, O outputs, V vocab_size.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.decoder import Head

# The number of rows that a packed weight is made for. It is as good for others.
PACKED_ROWS = 64


def has_onednn() -> bool:
    """Return whether this build of torch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def has_bfloat16() -> bool:
    """Return whether oneDNN multiplies bfloat16 on this CPU, as with AVX-512."""
    name = "_is_mkldnn_bf16_supported"
    return has_onednn() and hasattr(torch.ops.mkldnn, name) and getattr(torch.ops.mkldnn, name)()


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


def find_post_op(activation: nn.Module | None) -> tuple[str, str] | None:
    """Return the name and the algorithm of an activation that oneDNN applies to a product, or None.

    No activation is one of them: ("none", "").
    """
    if activation is None:
        return "none", ""
    if isinstance(activation, nn.GELU):
        return "gelu", activation.approximate  # "none" or "tanh"
    if isinstance(activation, nn.ReLU):
        return "relu", ""
    return None


def linear_onednn(
    x: Tensor, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
) -> Tensor:
    """Return activation(x W^T + b) (..., O) of x (..., I), weight (O, I) and bias (O,) or None.

    The weight may be one that `pack_weight` made.
    """
    post_op = find_post_op(activation)
    if post_op is None:
        return activation(linear_onednn(x, weight, bias))
    name, algorithm = post_op
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


def multiply_from_left(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b (..., O) of x (..., I), weight (O, I) and bias (O,) or None, as (W x^T)^T.

    In bfloat16 torch copies the weight of x W^T into pieces, in each call; that of W x^T it reads
    as it lies.
    """
    rows = x.reshape(-1, x.shape[-1])  # (N, I)
    if bias is None:
        bias = weight.new_zeros(len(weight))
    if len(rows) == 1:
        y = torch.addmv(bias, weight, rows[0])  # (O,)
    else:
        y = torch.addmm(bias[:, None], weight, rows.T).T.contiguous()  # (N, O)
    return y.view(*x.shape[:-1], len(weight))


def pack_weight(weight: Tensor) -> Tensor:
    """Return a copy of a weight (O, I) in oneDNN's own layout; its `to_dense()` is the weight."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)


def choose_min_rows(weights: list[Tensor]) -> int:
    """Return the fewest rows that oneDNN shall multiply: 1, or 2 if torch is faster for one row.

    Both multiply one row by all `weights`, each (O, I), eight times in turns: what a token of
    greedy search does. The shortest time counts. oneDNN gets the weights packed.
    """
    packed_weights = [pack_weight(weight) for weight in weights]
    rows = [weight.new_ones(1, weight.shape[1]) for weight in weights]

    def seconds(multiply: Callable[[Tensor, Tensor, None], Tensor], weights: list[Tensor]) -> float:
        start = time.perf_counter()
        for row, weight in zip(rows, weights):
            multiply(row, weight, None)
        return time.perf_counter() - start

    turns = []
    for _ in range(8):
        turns.append((seconds(F.linear, weights), seconds(linear_onednn, packed_weights)))
    torch_seconds, onednn_seconds = map(min, zip(*turns))
    if torch_seconds < onednn_seconds:
        return 2
    return 1


class FastHead(Head):
    """The core's Head, whose output matrix is multiplied faster.

    It shares the parameters of the core's: a packed copy of the embeddings, beside those that
    tokens are looked up in, would save 2 % of the time of a token.
    """

    def __init__(self, head: Head, min_rows: int = 1):
        nn.Module.__init__(self)
        self.min_rows = min_rows
        self.transform = head.transform
        self.register_parameter("weight", head.weight)
        self.register_parameter("bias", head.bias)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H), (V, H)
        if x.numel() > 0 and x.dtype == torch.bfloat16:
            multiply = multiply_from_left
        elif is_supported(x, embeddings, self.min_rows):
            multiply = linear_onednn
        else:
            return super().forward(x, embeddings)

        x = self.transform(x)  # (B, T, H)
        weight = embeddings if self.weight is None else self.weight  # (V, H)
        return multiply(x, weight, self.bias)  # (B, T, V)
