"""Exercise 3: conv block

The feature encoder turns samples into frames by several layers of convolution, norm and
activation. wav2vec2-base normalises each channel over time (`masked_group_norm`, after
the first convolution only), the large models each frame over its channels (after every
convolution). Padding must not enter any statistics, even if it is NaN; the variance is
divided by the number of real frames. `lengths` is None if nothing is padded. What you
return in padded frames is free.

A ConvLayer has `self.conv`, `self.norm` (call it with x and the lengths after the
convolution; None in some layers) and `self.activation`. The FeatureEncoder has
`self.conv_layers` (call each with x and the lengths) and `self.min_samples`. It sets the
padding of x to zero, even if it is NaN. Shorter clips are padded with zeros to
min_samples, and items that are shorter count as min_samples long.

The layout changes on the way: the waveforms are (B, L), the convolutions need (B, C, T),
with C = 1 at first, and the frames that FeatureEncoder returns are (B, T, C).

In the package this is in nanos2t/wav2vec2.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 3
Stuck: nanos2t exercises hint 3
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.wav2vec2 import conv_output_lengths, valid_frames, zero_padding


def masked_group_norm(
    x: Tensor, lengths: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Normalise each channel of x (B, C, T) over time, given the lengths (B,) of the items.

    This is group norm (Wu and He 2018) with a group for each channel. Its mean and variance are
    those of the real frames. weight and bias: (C,).
    """
    raise NotImplementedError("ex03")


class ConvLayer:  # this part of it
    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return x (B, C, T) and lengths (B,) after this layer: with fewer time steps."""
        raise NotImplementedError("ex03")


class FeatureEncoder:  # this part of it
    def forward(self, x: Tensor, sample_lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return frames (B, T, C) and frame_lengths (B,) of x (B, L) and sample_lengths (B,)."""
        raise NotImplementedError("ex03")
