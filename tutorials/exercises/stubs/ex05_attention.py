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
    """Compute the attention probabilities (B, N, T, S), which `F.scaled_dot_product_attention` does not show."""
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

    queries: (B, N, T, D); keys and values: (B, N, S, D); mask: bool, True where a query may look, broadcast
    to (B, N, T, S). The result is (B, N, T, D). PyTorch's function is fast, but one cannot step into it: set
    `wav2vec2.attend = wav2vec2.attend_step_by_step` to see the scores on the way.
    """
    raise NotImplementedError("ex05")


class Attention:  # this part of it
    def split_heads(self, x: Tensor) -> Tensor:
        """Cut the width of x (B, T, H) into heads: (B, N, T, D)."""
        raise NotImplementedError("ex05")
    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Let each row of x (B, T, H) look at keys and values (B, N, S, D): the result is (B, T, H)."""
        raise NotImplementedError("ex05")
