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
from nanos2t.fast.onednn import find_post_op, has_onednn
from nanos2t.fast.windows import flatten_weight, split_windows

# The largest value of a signed byte: -128 is not used, so that the range is symmetric.
INT8_MAX = 127


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight (O, I) in int8, and the scale (O,) of each of its rows."""
    # The largest absolute value of each row becomes 127.
    largest = torch.maximum(weight.amax(1), -weight.amin(1)).clamp(min=1e-12)  # (O,)
    scale = largest / INT8_MAX  # (O,)
    rows = (weight / scale[:, None]).round_().to(torch.int8)  # (O, I)
    return rows, scale


class Int8Layer(FrozenLayer):
    """nn.Linear with its weight (O, I) in int8, and the activation after it."""

    def _save_to_state_dict(self, *arguments) -> None:
        raise ValueError(f"an int8 model has only rounded weights: to save it, {ADVICE}")


class Int8Linear(Int8Layer):
    """An int8 layer by the kernels of torch.ops.quantized, which are fast for a few rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None):
        super().__init__()
        self.activation = activation
        rows, scale = quantise_weight(weight)
        zero_point = torch.zeros_like(scale, dtype=torch.long)  # (O,)

        # torch warns that these kernels will move to another package.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = torch._make_per_channel_quantized_tensor(rows, scale, zero_point, 0)

        self.packed = torch.ops.quantized.linear_prepack(quantised, bias)
        # Without VNNI two products are added in 16 bits, for which only inputs of 7 bits are small
        # enough.
        self.reduce_range = not has_vnni()
        self.bias = None  # it is packed, too
        self.num_packed = weight.numel() + (0 if bias is None else bias.numel())

    def multiply(self, x: Tensor) -> Tensor:
        """Return the layer's result (..., O) for x (..., I)."""
        y = torch.ops.quantized.linear_dynamic(x, self.packed, self.reduce_range)
        return y if self.activation is None else self.activation(y)


class Int8ManyRows(Int8Layer):
    """An int8 layer by oneDNN: for hundreds of rows twice as fast with AMX, for one it is slower.

    See `has_fast_bytes` for the CPUs that it is meant for.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None):
        super().__init__()
        self.activation = activation
        self.register_parameter("bias", bias)
        self.num_packed = weight.numel()
        rows, self.scale = quantise_weight(weight.detach())
        self.pack(rows)

    def pack(self, rows: Tensor) -> None:
        """Take the weight (O, I) in int8, in which 0 stands for 0."""
        self.packed = torch.ops.onednn.qlinear_prepack(rows, None)
        self.zero_points = torch.zeros(len(rows), dtype=torch.int32)  # (O,)

        # torch warns once that these tensors will move to another package: let it do so here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.quantize_per_tensor_dynamic(self.scale, torch.quint8, False)

    def multiply(self, x: Tensor) -> Tensor:
        """Return the layer's result (..., O) for x (..., I)."""
        if x.numel() == 0:
            return x.new_zeros(*x.shape[:-1], len(self.scale))

        # The smallest and the largest number become 0 and 255.
        quantised = torch.quantize_per_tensor_dynamic(x.contiguous(), torch.quint8, False)
        codes = torch.empty(0, dtype=torch.uint8)
        codes.set_(quantised.untyped_storage(), 0, x.shape)  # its bytes, without a copy

        post_op = find_post_op(self.activation)
        name, algorithm = post_op or ("none", "")
        y = torch.ops.onednn.qlinear_pointwise(
            *(codes, quantised.q_scale(), quantised.q_zero_point()),
            *(self.packed, self.scale, self.zero_points, self.bias),
            *(1.0, 0, torch.float32, name, [], algorithm),
        )
        return y if post_op is not None else self.activation(y)

    def __getstate__(self) -> dict:
        # A packed weight can neither be copied nor written to a file.
        return vars(self) | {"packed": None, "rows": self.packed.to_dense().T.contiguous()}

    def __setstate__(self, state: dict) -> None:
        rows = state.pop("rows")
        super().__setstate__(state)
        self.pack(rows)


def has_vnni() -> bool:
    """Return whether the CPU has AVX-512's VNNI, which adds products of bytes in 32 bits."""
    # An older torch does not know what the CPU can do.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_vnni"))


def has_fast_bytes() -> bool:
    """Return whether Int8ManyRows is faster than Int8Linear: on a CPU with AVX-512 and its VNNI.

    On others it is slower, and sums of two products overflow.
    """
    return has_onednn() and has_vnni()


def quantise_many(
    weight: Tensor, bias: Tensor | None, activation: nn.Module | None = None
) -> Int8Layer:
    """Return the layer that is faster here for hundreds of rows at once, as an encoder has them."""
    layer_class = Int8ManyRows if has_fast_bytes() else Int8Linear
    return layer_class(weight, bias, activation)


class Int8Conv(nn.Module):
    """nn.Conv1d without padding, and the activation after it: an int8 layer over its windows."""

    def __init__(self, conv: nn.Conv1d, activation: nn.Module | None = None):
        super().__init__()
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        self.padding = conv.padding
        self.linear = quantise_many(flatten_weight(conv.weight), conv.bias, activation)

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
