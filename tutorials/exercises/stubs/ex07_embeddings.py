"""Exercise 7 of 14: decoder embeddings

What the decoder's first block reads: token embedding, plus position, plus (BERT) token type, then a
norm. One class serves all families, so each part may be neutral: `embed_scale` 1, `position_offset`
0, `token_types` None, `norm` an identity. `past` tokens are in the cache already, so the new ones
do not start at position 0.
Given in the module: `self.tokens`, `self.positions`, `self.token_types` (embeddings; the last or
None), `self.norm`, `self.dropout`, `self.config.embed_scale`, `self.config.position_offset`.

In the package this stands in nanos2t/decoder.py; try it before you look.
Check it: nanos2t exercises 7    Stuck: nanos2t exercises hint 7
"""

import torch
from torch import Tensor
from torch.nn import functional as F


class Embedding:  # this part of it
    def forward(self, tokens: Tensor, past_length: int) -> Tensor:
        """Return x (B * K, T, H) for new tokens (B * K, T) that come after `past_length` others.

        ValueError if there are more tokens than positions.
        """
        raise NotImplementedError("ex07")
