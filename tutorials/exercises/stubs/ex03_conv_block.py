"""Exercise 3 of 14: conv block

The feature encoder: convolution, norm, activation, several times, from samples to frames.
wav2vec2-base normalises each channel over time (`masked_group_norm`, after the first convolution only), the
large models each frame over its channels (after all). Padding must not enter any statistics.
Given in the module: `self.convs`, `self.norms` (call them with x and frames; there may be fewer of
them than convolutions), `self.activation`, `self.min_samples`: shorter clips are padded to it.

In the package this stands in nanos2t/wav2vec2.py; try it before you look.
Check it: nanos2t exercises 3    Stuck: nanos2t exercises hint 3
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.wav2vec2 import conv_output_lengths, valid_frames, zero_padding


def masked_group_norm(
    x: Tensor, frames: Tensor | None, weight: Tensor, bias: Tensor, eps: float = 1e-5
) -> Tensor:
    """Each channel of x (B, C, T) normalised over its item's real frames: group norm, C groups, masked."""
    raise NotImplementedError("ex03")


class FeatureEncoder:  # this part of it
    def forward(
        self, x: Tensor, samples: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:  # (B, L), (B,)
        raise NotImplementedError("ex03")
