"""Linear layers and convolutions on a CPU that keep their weights as oneDNN reads them.

oneDNN, which multiplies matrices for torch, wants a weight in blocks that fit its registers. From
a plain matrix it makes them anew in every call; here they are made once.

Shapes: I inputs, O outputs, K taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t.fast.frozen import ADVICE, FrozenLayer
from nanos2t.fast.memory import release_pages
from nanos2t.fast.onednn import has_bfloat16, has_onednn, linear_onednn, pack_weight
from nanos2t.fast.windows import flatten_weight, unflatten_weight


def can_pack(weight: Tensor) -> bool:
    """Return whether weights of this dtype on this device can be packed."""
    if weight.device.type != "cpu":
        return False
    if weight.dtype == torch.bfloat16:
        return has_bfloat16()
    return weight.dtype == torch.float32 and has_onednn()


class FastLinear(FrozenLayer):
    """nn.Linear, and the activation after it. state_dict() has its plain weight, bit for bit.

    min_rows: the weight is packed when at least so many rows are multiplied for the first time, and
    products of fewer rows are torch's own before that: see `choose_min_rows`. 1: it is packed now.
    With None it is never packed, which is as fast for the many rows of the encoder in float32.
    """

    def __init__(
        self, layer: nn.Module, activation: nn.Module | None = None, min_rows: int | None = 1
    ):
        super().__init__()
        self.activation = activation
        self.min_rows = min_rows
        self.take(layer)

    def take(self, layer: nn.Module) -> None:
        """Take over the weight and the bias of an nn.Linear or nn.Conv1d."""
        weight = layer.weight.detach()  # (O, I), or (O, I, K) of a convolution
        if not can_pack(weight):
            raise ValueError(
                "a fast model is float32 on the CPU, or bfloat16 on one with AVX-512, found "
                f"{weight.dtype} on {weight.device}: {ADVICE}"
            )
        self.register_parameter("bias", layer.bias)
        self.weight_shape = weight.shape
        self.num_packed = weight.numel()

        # Exactly one of the two weights is there.
        self.plain_weight = weight
        self.packed_weight = None
        if self.min_rows == 1:
            self.pack()

    def pack(self) -> Tensor:
        """Exchange the plain weight for a packed one, unless that was done, and return it."""
        weight = self.plain_weight
        if weight is not None:
            self.packed_weight = pack_weight(flatten_weight(weight))
            self.plain_weight = None
            release_pages(weight)
        return self.packed_weight

    def unpack(self) -> nn.Module:
        """Return a module with a plain copy of the weight and the bias, as `take` takes it."""
        if self.packed_weight is None:
            weight = self.plain_weight.clone()
        else:
            weight = unflatten_weight(self.packed_weight.to_dense(), self.weight_shape)
        layer = nn.Module()
        layer.weight = nn.Parameter(weight)
        layer.register_parameter("bias", self.bias)
        return layer

    def multiply(self, x: Tensor) -> Tensor:
        """Return the layer's result (..., O), after the activation, for x (..., I)."""
        # In this order: another thread may pack now, which drops the plain weight at the end.
        plain_weight = self.plain_weight
        weight = self.packed_weight
        if weight is None and self.min_rows is None:
            weight = flatten_weight(plain_weight)
        elif weight is None and x.numel() >= self.min_rows * x.shape[-1]:
            weight = self.pack()
        if weight is not None:
            return linear_onednn(x, weight, self.bias, self.activation)

        y = F.linear(x, plain_weight, self.bias)
        return y if self.activation is None else self.activation(y)

    # torch calls these to save, load, convert and copy a module. All work on the plain weight.

    def _save_to_state_dict(self, *arguments) -> None:
        self.unpack()._save_to_state_dict(*arguments)

    def _load_from_state_dict(self, *arguments) -> None:
        layer = self.unpack()
        layer._load_from_state_dict(*arguments)
        self.take(layer)

    def _apply(self, convert, recurse: bool = True) -> "FastLinear":
        self.take(self.unpack()._apply(convert))
        return self

    def __getstate__(self) -> dict:
        return vars(self) | {"plain_weight": None, "packed_weight": None, "layer": self.unpack()}

    def __setstate__(self, state: dict) -> None:
        layer = state.pop("layer")
        super().__setstate__(state)
        self.take(layer)


class FastConv(FastLinear):
    """nn.Conv1d without padding: a linear layer over its windows, and the activation after it."""

    def __init__(
        self, conv: nn.Conv1d, activation: nn.Module | None = None, min_rows: int | None = 1
    ):
        super().__init__(conv, activation, min_rows)
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        self.padding = conv.padding
