"""Exercise 6: encoder layer

Attention, then the MLP, each with a residual connection and a norm. wav2vec2-base
normalises the sum (`pre_norm` is False), the large models normalise the input of each
part (`pre_norm` is True). Keys and values are made of the same tensor as the queries:
`self.self_attn.project_keys_values(source)` makes both, and `self.self_attn(x, keys,
values, mask)` attends.

The module has `self.pre_norm`, `self.self_attn`, `self.self_attn_norm`, `self.mlp` and
`self.mlp_norm`.

In the package this is in nanos2t/wav2vec2.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 6
Stuck: nanos2t exercises hint 6
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class Block:  # this part of it
    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:  # (B, T, H), (B, 1, 1, T)
        raise NotImplementedError("ex06")
