"""Exercise 2 of 14: frame counts and masks

Seven convolutions without padding turn samples into frames: 16,000 samples become 49 frames, not
50. In a batch each item has its own count, and all that looks across time must know where an item
ends. `conv` has `.kernel_size`, `.stride` and `.padding`, each a tuple of one number. `frames` may
be None: then nothing is padded.

In the package this stands in nanos2t/wav2vec2.py; try it before you look.
Check it: nanos2t exercises 2    Stuck: nanos2t exercises hint 2
"""

import torch
from torch import Tensor, nn


def conv_output_lengths(frames: Tensor | None, conv: nn.Conv1d) -> Tensor | None:
    """Frames (B,) that a convolution makes of frames, or samples, (B,); None, all are real, stays None."""
    raise NotImplementedError("ex02")


def valid_frames(frames: Tensor, total: int) -> Tensor:
    """(B,) -> (B, T) bool: True while item b has frames, False in the padding behind them."""
    raise NotImplementedError("ex02")


def zero_padding(x: Tensor, frames: Tensor | None) -> Tensor:
    """x (B, T, H) with zeros behind each item's end, as a convolution over the item alone would see it."""
    raise NotImplementedError("ex02")
