"""Exercise 10: shift-right and loss

In training the decoder reads the right text, shifted by one position, and has to
predict the next token at each position. Labels that do not count, such as those in the
padding, are IGNORED, -100: the loss skips them, even if the logits there are NaN (the
gradient there may then be NaN), and no embedding has such a row. Every other label
counts, 0 too. The decoder's input has the labels' type, whole numbers.

The loss is one mean over the labels of the whole batch, and logits of 1000 are no
problem for it. If all labels are IGNORED it is 0, and its gradient is 0: it must have
one, or training stops with an error.

In the package this is in nanos2t/model.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 10
Stuck: nanos2t exercises hint 10
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.model import IGNORED


def shift_right(labels: Tensor, start: int, pad: int) -> Tensor:
    """Make the decoder input (B, T) of labels (B, T): `start`, then all labels but the last.

    IGNORED labels become `pad`.
    """
    raise NotImplementedError("ex10")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Average -log p(label) over all labels (B, T) that are not IGNORED. logits: (B, T, V).

    The loss is 0, with zero gradient, if all of them are IGNORED.
    """
    raise NotImplementedError("ex10")
