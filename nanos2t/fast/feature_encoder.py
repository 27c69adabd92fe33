"""The feature encoder with channels last: each convolution is a linear layer over its windows.

Shapes: B batch, T frames, W frames out, C channels, I channels in, O channels out, K taps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nanos2t import wav2vec2
from nanos2t.fast.int8 import Int8Conv
from nanos2t.fast.packed import FastConv
from nanos2t.fast.windows import MAX_WINDOWS, split_windows
from nanos2t.wav2vec2 import ConvLayer


class FastConvLayer(ConvLayer):
    """The core's ConvLayer with a convolution that is a linear layer.

    It takes and returns (B, C, T) as the core does. In memory, its result has the channels last, so
    that the next layer need not move them.
    """

    def __init__(self, core: ConvLayer, conv: FastConv | Int8Conv, activation: nn.Module):
        nn.Module.__init__(self)
        self.conv = conv
        self.norm = core.norm
        self.activation = activation

    @torch.no_grad()  # its gradients would be refused anyway: see FrozenLayer
    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, O, W) and their lengths (B,) of x (B, I, T) and lengths (B,).

        Lengths are None if nothing is padded.
        """
        windows = split_windows(x.transpose(1, 2), self.conv)  # (B, up to MAX_WINDOWS, K * I) each
        x = torch.cat([self.conv.multiply(part) for part in windows], dim=1)  # (B, W, O)
        lengths = wav2vec2.conv_output_lengths(lengths, self.conv)
        if self.norm is not None:
            x = normalise_(x, lengths, self.norm)
        if not isinstance(self.activation, nn.Identity):
            activate_(x, self.activation)
        return x.transpose(1, 2), lengths


def make_fast_layer(core: ConvLayer, min_rows: int | None) -> FastConvLayer:
    """Return a fast layer in the place of the core's; min_rows: see FastLinear."""
    # Without a norm between them, the product and the activation are one step.
    if core.norm is None:
        conv = FastConv(core.conv, core.activation, min_rows)
        return FastConvLayer(core, conv, nn.Identity())
    return FastConvLayer(core, FastConv(core.conv, None, min_rows), core.activation)


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
