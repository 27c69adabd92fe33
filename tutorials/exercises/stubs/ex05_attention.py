"""Exercise 5 of 14: attention

softmax(Q K^T / sqrt(D)) V, in N heads. `split` cuts the width H into N heads of D,
`attention_weights` is the softmax, `attend` the whole formula, and `forward` makes queries,
attends, merges the heads.
A mask is True where one may look, and broadcasts to (B, N, T, S). With `is_causal` (there is no
mask then, and T = S) token t sees the tokens 0 ... t. `dropout` is 0 here; F.dropout if you like.
Given in the module: `self.q_proj`, `self.out_proj`, `self.num_heads`, `self.dropout`,
`self.attention_dropout` (a number, for training only).

In the package this stands in nanos2t/wav2vec2.py; try it before you look.
Check it: nanos2t exercises 5    Stuck: nanos2t exercises hint 5
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def attention_weights(queries: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
    """The softmax that `attend` applies and never shows, for pictures and alignments; rows sum to 1."""
    raise NotImplementedError("ex05")


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(Q K^T / sqrt(D)) V (Vaswani et al. 2017, eq. 1) of (B, N, T, D) and twice (B, N, S, D)."""
    raise NotImplementedError("ex05")


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
    ) -> Tensor:  # (B, T, H)
        raise NotImplementedError("ex05")
