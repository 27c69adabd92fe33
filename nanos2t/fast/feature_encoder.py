"""The feature encoder with channels last: each convolution is a linear layer over its windows.

Shapes: B batch, T frames, W frames out, C channels, I channels in, O channels out, K taps.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import wav2vec2
from nanos2t.fast.int8 import Int8Conv
from nanos2t.fast.onednn import linear_onednn
from nanos2t.fast.packed import FastConv
from nanos2t.fast.windows import split_windows
from nanos2t.wav2vec2 import ConvLayer

MakeConv = Callable[[nn.Conv1d, nn.Module | None], FastConv | Int8Conv]


class FastConvLayer(ConvLayer):
    """The core's ConvLayer with a convolution that is a linear layer.

    It takes and returns (B, C, T) as the core does. In memory, its result has the channels last, so
    that the next layer need not move them.
    """

    def __init__(self, core: ConvLayer, conv: FastConv | Int8Conv, activation: nn.Module):
        nn.Module.__init__(self)
        self.conv = conv
        self.norm = core.norm  # over channels, or None
        self.activation = activation

    @torch.no_grad()  # its gradients would be refused anyway: see FrozenLayer
    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, O, W) and their lengths (B,) of x (B, I, T) and lengths (B,).

        Lengths are None if nothing is padded.
        """
        # All that is done with a part is done while the cache of the CPU has it.
        parts = []
        for windows in split_windows(x.transpose(1, 2), self.conv):  # (B, MAX_WINDOWS, K * I)
            part = self.conv.multiply(windows)  # (B, MAX_WINDOWS, O)
            if self.norm is not None:
                norm = self.norm
                part = F.layer_norm(part, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
            parts.append(self.activation(part))
        y = join(parts, dim=1)  # (B, W, O)
        return y.transpose(1, 2), wav2vec2.conv_output_lengths(lengths, self.conv)


class FoldedConvLayer(ConvLayer):
    """The core's first ConvLayer, with a norm over time, as one product. It has its parameters.

    The norm gives each channel a factor and an offset, and a convolution is linear: so they can be
    those of its weight and bias. `fold_norm` finds them without the convolution's result, over
    which the norm needs several passes: there are 3,200 numbers for each of 5 samples.
    """

    def __init__(self, core: ConvLayer):
        nn.Module.__init__(self)
        self.conv = core.conv
        self.norm = core.norm
        self.activation = core.activation

    @torch.no_grad()
    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, O, W) and their lengths (B,) of x (B, 1, T) and lengths (B,)."""
        windows = x[:, 0].unfold(1, self.conv.kernel_size[0], self.conv.stride[0])  # (B, W, K)
        lengths = wav2vec2.conv_output_lengths(lengths, self.conv)
        frame_counts = [windows.shape[1]] * len(windows)
        if lengths is not None:
            frame_counts = lengths.tolist()

        # Each item has statistics of its own: those of its real frames.
        items = []
        for item, frame_count in zip(windows, frame_counts):
            weight, bias = fold_norm(item[:frame_count], self.conv.weight, self.norm)
            items.append(linear_onednn(item[None], weight, bias, self.activation))  # (1, W, O)
        return join(items, dim=0).transpose(1, 2), lengths


def join(parts: list[Tensor], dim: int) -> Tensor:
    """Return the parts as one tensor. torch.cat copies one that is alone, too: tens of MB."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def fold_norm(windows: Tensor, weight: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return a weight (O, K) and a bias (O,) whose product is that of `weight`, normalised.

    windows: (W, K), over which each output is normalised. weight: (O, 1, K). A bias of the
    convolution would make no difference: the norm subtracts it with the mean.
    """
    # The mean of w x is that of x times w, its variance is w C w with the covariance C of x.
    taps = windows.double()  # (W, K)
    mean = taps.mean(dim=0)  # (K,)
    centred = taps - mean  # (W, K)
    covariance = centred.T @ centred / len(taps)  # (K, K)
    matrix = weight[:, 0].double()  # (O, K)
    variance = ((matrix @ covariance) * matrix).sum(dim=1)  # (O,)

    gain = norm.weight / (variance + norm.eps).sqrt()  # (O,)
    folded = (matrix * gain[:, None]).to(weight.dtype)  # (O, K)
    bias = norm.bias - folded.double() @ mean  # (O,)
    return folded, bias.to(weight.dtype)


def make_fast_layer(core: ConvLayer, make_conv: MakeConv) -> ConvLayer:
    """Return a fast layer in the place of the core's.

    make_conv(conv, activation): returns a FastConv or an Int8Conv.
    """
    if isinstance(core.norm, wav2vec2.MaskedGroupNorm):
        return FoldedConvLayer(core)
    if core.norm is not None:
        return FastConvLayer(core, make_conv(core.conv, None), core.activation)

    # Without a norm between them, the product and the activation are one step.
    return FastConvLayer(core, make_conv(core.conv, core.activation), nn.Identity())
