"""A strided convolution as a linear layer: a window of K frames is a row of K * I numbers.

Shapes: B batch, T frames in, I channels in, K taps, W windows (frames out).
"""

from collections.abc import Iterator

from torch import Tensor, nn

# Windows overlap, so unfolding them makes copies. This many at a time bound the memory.
MAX_WINDOWS = 4096


def split_windows(x: Tensor, conv: nn.Module) -> Iterator[Tensor]:
    """Yield the windows of `conv` over x (B, T, I) in parts (B, up to MAX_WINDOWS, K * I).

    `conv` has `kernel_size` and `stride` as nn.Conv1d has them, and no padding.
    """
    windows = x.unfold(1, conv.kernel_size[0], conv.stride[0])  # (B, W, I, K), a view
    windows = windows.transpose(2, 3)  # (B, W, K, I), a view
    for part in windows.split(MAX_WINDOWS, dim=1):
        yield part.flatten(2)  # (B, up to MAX_WINDOWS, K * I), a copy


def flatten_weight(weight: Tensor) -> Tensor:
    """Return the weight (O, I, K) of a convolution as that of a linear layer over its windows.

    Returns (O, K * I). The weight (O, I) of a linear layer is returned as it is.
    """
    if weight.dim() == 2:
        return weight
    return weight.transpose(1, 2).flatten(1)  # (O, K * I)


def unflatten_weight(matrix: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the weight, of the given shape, of which `flatten_weight` made the matrix."""
    if len(shape) == 2:
        return matrix
    _, inputs, taps = shape
    return matrix.unflatten(1, (taps, inputs)).transpose(1, 2)  # (O, I, K)
