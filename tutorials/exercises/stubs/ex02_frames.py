"""Exercise 2: frame counts and masks

Seven convolutions without padding turn samples into frames: 16,000 samples become 49
frames, not 50. In a batch each item has its own length, and every operation that mixes
time steps must know where an item ends. `conv` has `.kernel_size`, `.stride` and
`.padding`, each a tuple of one number. Padding is added on both sides, and a window that
does not fit makes no frame.

The buffer may be longer than every item. `zero_padding` returns x in its full shape and
type, and puts 0 where padding was, even if that was NaN or infinity; real frames stay as
they are. `lengths` may be None: then nothing is padded, and conv_output_lengths returns
None, zero_padding all of x.

In the package this is in nanos2t/wav2vec2.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 2
Stuck: nanos2t exercises hint 2
"""

import torch
from torch import Tensor, nn


def conv_output_lengths(lengths: Tensor | None, conv: nn.Conv1d) -> Tensor | None:
    """Return the lengths (B,) of a convolution's outputs for inputs with lengths (B,), or None.

    As in transformers, the number for an input much shorter than the kernel may be negative. That
    is no frame, as 0 is.
    """
    raise NotImplementedError("ex02")


def valid_frames(lengths: Tensor, total: int) -> Tensor:
    """Return a mask (B, total) for lengths (B,): True for real frames, False for padding."""
    raise NotImplementedError("ex02")


def zero_padding(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return x (B, T, H) with its padding set to zero, given the lengths (B,) of its items.

    A convolution then sees what it would see if each item were alone.
    """
    raise NotImplementedError("ex02")
