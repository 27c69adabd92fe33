"""The feature encoder with channels last: each convolution is a linear layer over its windows.

Shapes: B batch, T frames, W frames out, C channels, I channels in, O channels out, K taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import wav2vec2
from nanos2t.fast.int8 import Int8Conv
from nanos2t.fast.onednn import is_supported, linear_onednn
from nanos2t.fast.windows import MAX_WINDOWS, flatten_kernel, split_windows
from nanos2t.wav2vec2 import ConvLayer


class FastConvLayer(ConvLayer):
    """The core's ConvLayer with the same parameters. Its convolution may be an Int8Conv.

    It takes and returns (B, C, T) as the core does. In memory, its result has the channels last, so
    that the next layer need not move them.
    """

    def __init__(self, core: ConvLayer):
        nn.Module.__init__(self)
        self.conv = core.conv
        self.norm = core.norm
        self.activation = core.activation

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, O, W) and their lengths (B,) of x (B, I, T) and lengths (B,).

        Lengths are None if nothing is padded.
        """
        # An Int8Conv has packed its weight: then only x decides.
        weight = x if isinstance(self.conv, Int8Conv) else self.conv.weight
        if not is_supported(x, weight):
            return super().forward(x, lengths)

        x = x.transpose(1, 2)  # (B, T, I)
        lengths = wav2vec2.conv_output_lengths(lengths, self.conv)
        if self.norm is not None:
            x = convolve(x, self.conv)  # (B, W, O)
            x = normalise_(x, lengths, self.norm)
            activate_(x, self.activation)
        else:
            x = convolve(x, self.conv, self.activation)  # (B, W, O)
        return x.transpose(1, 2), lengths


def convolve(x: Tensor, conv: nn.Conv1d | Int8Conv, activation: nn.Module | None = None) -> Tensor:
    """Return the convolution of x (B, T, I), followed by the activation: (B, W, O)."""
    windows = split_windows(x, conv)  # each (B, up to MAX_WINDOWS, K * I)

    if isinstance(conv, Int8Conv):
        parts = [conv.linear(part) for part in windows]
        if activation is not None:
            parts = [activation(part) for part in parts]
    else:
        weight = flatten_kernel(conv)  # (O, K * I)
        parts = [linear_onednn(part, weight, conv.bias, activation) for part in windows]

    return torch.cat(parts, dim=1)  # (B, W, O)


def normalise_(x: Tensor, lengths: Tensor | None, norm: nn.Module) -> Tensor:
    """Return x (B, T, C), normalised.

    Normalising over the real frames of each item is done in place, over channels it is not.
    """
    if isinstance(norm, wav2vec2.ChannelLayerNorm):
        return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    frame_counts = [x.shape[1]] * len(x)
    if lengths is not None:
        frame_counts = lengths.tolist()
    for item, frame_count in zip(x, frame_counts):
        real = item[:frame_count]  # (frame_count, C), a view
        variance, mean = torch.var_mean(real, 0, correction=0)  # 2 x (C,)
        gain = norm.weight / (variance + norm.eps).sqrt()  # (C,)
        real.sub_(mean).mul_(gain).add_(norm.bias)
    return x


def activate_(x: Tensor, activation: nn.Module) -> None:
    """Apply the activation to x (B, T, C) in place, in parts that stay in the cache of the CPU."""
    for part in x.split(MAX_WINDOWS, dim=1):
        part.copy_(activation(part))
