"""Linear layers and convolutions in int8 on a CPU, in a quarter of the memory.

    y = W x + b,  W ~ scale * int8,  x ~ scale * (uint8 - zero)

so that products and sums are those of integers. A weight has one scale for each of its rows,
an input one for each call. A model with these modules cannot be trained or saved.

Shapes: B batch, T frames or tokens, I inputs, O outputs, K taps, H hidden_size, V vocab_size.
"""

import warnings

import torch
from torch import Tensor, nn

from nanos2t.decoder import Head
from nanos2t.fast.frozen import ADVICE, FrozenLayer
from nanos2t.fast.windows import flatten_weight, split_windows

# The largest value of a signed byte: -128 is not used, so that the range is symmetric.
INT8_MAX = 127


class Int8Linear(FrozenLayer):
    """nn.Linear with its weight (O, I) in int8.

    many_rows: whether it multiplies hundreds of rows at once, as an encoder's do. That only decides
    which kernel is used.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, many_rows: bool = False):
        super().__init__()

        # The largest absolute value of each row becomes 127.
        largest = torch.maximum(weight.amax(1), -weight.amin(1)).clamp(min=1e-12)  # (O,)
        scale = largest / INT8_MAX  # (O,)
        rows = (weight / scale[:, None]).round_().to(torch.int8)  # (O, I)
        zero_point = torch.zeros_like(scale, dtype=torch.long)  # (O,)

        # torch warns that these kernels will move to another package.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = torch._make_per_channel_quantized_tensor(rows, scale, zero_point, 0)

        self.packed = pack_int8(quantised, bias, choose_engine(many_rows))
        self.bias = None  # it is packed, too
        self.num_packed = weight.numel() + (0 if bias is None else bias.numel())

    def multiply(self, x: Tensor) -> Tensor:
        """Return the layer's result (..., O) for x (..., I)."""
        return torch.ops.quantized.linear_dynamic(x, self.packed)

    def _save_to_state_dict(self, *arguments) -> None:
        raise ValueError(f"an int8 model has only rounded weights: to save it, {ADVICE}")


def choose_engine(many_rows: bool) -> str:
    """Return the engine of torch.ops.quantized that multiplies faster.

    For many rows it is oneDNN's, twice as fast with AMX, if the CPU has AVX-512 with VNNI. On
    others it is slower, and sums of two products overflow.
    """
    quantized = torch.backends.quantized
    # An older torch does not know them.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    is_better = "onednn" in quantized.supported_engines and capabilities.get("avx512_vnni")
    if many_rows and is_better:
        return "onednn"
    return quantized.engine


def pack_int8(weight: Tensor, bias: Tensor | None, engine: str) -> torch.ScriptObject:
    """Return a quantised weight (O, I) and a bias (O,) or None as an engine reads them."""
    usual_engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        return torch.ops.quantized.linear_prepack(weight, bias)
    finally:
        torch.backends.quantized.engine = usual_engine


class Int8Conv(nn.Module):
    """nn.Conv1d without padding: an Int8Linear over its windows."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        self.padding = conv.padding
        self.linear = Int8Linear(flatten_weight(conv.weight), conv.bias, many_rows=True)

    def forward(self, x: Tensor) -> Tensor:  # (B, I, T)
        windows = split_windows(x.transpose(1, 2), self)
        y = torch.cat([self.linear(part) for part in windows], dim=1)  # (B, W, O)
        return y.transpose(1, 2)  # (B, O, W)

    def multiply(self, windows: Tensor) -> Tensor:
        """Return the results (B, W, O) for windows (B, W, K * I)."""
        return self.linear.multiply(windows)


class Int8Head(nn.Module):
    """The core's Head with its output matrix in int8."""

    def __init__(self, head: Head, embeddings: Tensor):
        super().__init__()
        self.transform = head.transform
        weight = embeddings if head.weight is None else head.weight  # (V, H)
        self.output = Int8Linear(weight, head.bias)
        if head.weight is None:
            # The embeddings are parameters already.
            self.output.num_packed -= weight.numel()

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:  # (B, T, H), not used
        return self.output(self.transform(x))  # (B, T, V)
