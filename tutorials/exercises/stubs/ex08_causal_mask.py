"""Exercise 8: causal mask

In training the decoder reads all tokens at once, and must not see the token that it has
to predict. True means that a token may look there. With a cache there are also
`past_length` tokens before the T new ones. The mask is bool, and on `device`.

In the package this is in nanos2t/decoder.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 8
Stuck: nanos2t exercises hint 8
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def causal_mask(T: int, past_length: int, device: torch.device) -> Tensor:
    """Return a mask (T, past_length + T): True where a new token may look at a token.

    New token t may look at all past tokens and at the new tokens 0 ... t.
    """
    raise NotImplementedError("ex08")
