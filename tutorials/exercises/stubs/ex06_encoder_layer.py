"""Exercise 6 of 14: encoder layer

Attention, then the MLP, each with a residual and a norm. wav2vec2-base normalises the sum
(`pre_norm` False), the large models what goes in (`pre_norm` True). Keys and values come from what
the queries come from: `self.self_attn.project_keys_values(source)` makes both, and `self.self_attn(x, keys,
values, mask)` attends.
Given in the module: `self.pre_norm`, `self.self_attn`, `self.self_attn_norm`, `self.mlp`,
`self.mlp_norm`.

In the package this stands in nanos2t/wav2vec2.py; try it before you look.
Check it: nanos2t exercises 6    Stuck: nanos2t exercises hint 6
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class Block:  # this part of it
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, H), (B, 1, 1, T)
        raise NotImplementedError("ex06")
