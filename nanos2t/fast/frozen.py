"""What the layers of a fast model have in common: they compute results, and cannot be trained.

The weight of such a layer is packed, or may be at any time: it lies in memory as the kernel that
multiplies by it wants it, and no plain copy is kept. So there is nothing that could differ from it.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

ADVICE = "load the model without fast=True and int8"


class Product(torch.autograd.Function):
    """The result of a FrozenLayer, of which no gradient can be computed."""

    @staticmethod
    def forward(ctx, layer: "FrozenLayer", x: Tensor, bias: Tensor | None) -> Tensor:
        # Autograd looks at x and the bias here: a result that depends on them needs a backward.
        return layer.multiply(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> None:
        raise ValueError(f"a fast model has no gradients: to train it, {ADVICE}")


class FrozenLayer(nn.Module, ABC):
    """A linear layer that owns its weight. Subclasses have a `bias`, and define `multiply`.

    num_packed: how many numbers of the core's layer are no parameters of this one.
    """

    num_packed: int = 0

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """Return the layer's result (..., O) for x (..., I)."""

    def forward(self, x: Tensor) -> Tensor:  # (..., I)
        if torch.is_grad_enabled():
            return Product.apply(self, x, self.bias)
        return self.multiply(x)  # (..., O)

    @property
    def weight(self) -> Tensor:
        """Raise ValueError: what reads or changes a weight in place would miss the packed one."""
        raise ValueError(
            "the weight of a fast layer is packed: state_dict() has a copy of it, "
            f"load_state_dict() replaces it; to change it in place, {ADVICE}"
        )
