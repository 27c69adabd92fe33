"""Exercise 5: attention

softmax(Q K^T / sqrt(D)) V, in N heads. `split_heads` cuts the width H into N heads of
size D, `attention_weights` is the softmax, `attend` the whole formula, and `forward`
makes the queries, attends and merges the heads.

A mask is bool here, True where a query may look, and broadcasts to (B, N, T, S). (The
package's `attend` also takes numbers to add; yours need not.) With `is_causal` (there is no
mask then, and T = S) token t sees the tokens 0 to t. `dropout` is 0 here; you may use
F.dropout.

The module has `self.q_proj`, `self.out_proj`, `self.num_heads`, `self.dropout` (for what
`forward` returns), and `self.attention_dropout` (a number, for training only: you may
leave it out).

In the package this is in nanos2t/wav2vec2.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 5
Stuck: nanos2t exercises hint 5
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


class Attention:  # this part of it
    def split_heads(self, x: Tensor) -> Tensor:  # (B, T, H)
        raise NotImplementedError("ex05")

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Return x (B, T, H) after attention to keys and values (B, N, S, D).

        mask and is_causal: as in `attend`.
        """
        raise NotImplementedError("ex05")


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute the attention probabilities (B, N, T, S), which `attend` does not return.

    Each row sums to 1. queries: (B, N, T, D); keys: (B, N, S, D); mask: see `attend`.
    """
    raise NotImplementedError("ex05")


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Compute softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, equation 1).

    queries: (B, N, T, D); keys and values: (B, N, S, D). The result is (B, N, T, D).
    mask: bool, True where a query may look at a key; or numbers that are added to the scores. Its
    shape broadcasts to (B, N, T, S).
    is_causal, without a mask: query t looks at keys 0 ... t.

    A debugger cannot step into PyTorch's function. To see the scores, switch to the same
    computation in steps, for both encoder and decoder, with the line
    `wav2vec2.attend = wav2vec2.attend_step_by_step`.
    """
    raise NotImplementedError("ex05")
