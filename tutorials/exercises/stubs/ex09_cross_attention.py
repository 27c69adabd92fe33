"""Exercise 9: cross-attention

Here the text looks at the sound. `cross_keys_values` is a pair of keys and values that
were made of the encoder's frames once, (B, N, S, D) each; the mask (B, 1, 1, S) says
which frames are real. In a beam search x has B * K rows, the K beams of one utterance
next to each other, and all of them look at the same keys and values. Copies of them for
each beam are right as well, only slower.

Then write the whole decoder block: self-attention, cross-attention and MLP, each with a
residual connection and a norm.

The module has `self.cross_attn(x, keys, values, mask)`; `self.attend_tokens(x, cache)`,
the causal self-attention; `self.attend_memory(x, cross_keys_values, memory_mask)`,
which you write; `self.mlp`; `self.self_attn_norm`, `self.cross_attn_norm`,
`self.mlp_norm`; and `self.pre_norm`: with it the input of each part is normalised, as in
GPT-2, without it each sum, as in BERT (see exercise 6).

In the package this is in nanos2t/decoder.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 9
Stuck: nanos2t exercises hint 9
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.decoder import KVCache


class Block:  # this part of it
    def attend_memory(
        self, x: Tensor, cross_keys_values: tuple[Tensor, Tensor], memory_mask: Tensor | None
    ) -> Tensor:
        """Attend from each token of x (B * K, T, H) to the real frames of its utterance.

        In cross-attention, the queries of a row do not depend on each other. So the K beams of an
        utterance are folded into the time axis, into one row of K * T queries: they share the keys
        and values of the utterance, which are never copied K times.
        """
        raise NotImplementedError("ex09")

    def forward(
        self,
        x: Tensor,
        cross_keys_values: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """Return x (B * K, T, H) after this block.

        cross_keys_values: this block's keys and values of the memory, each (B, N, S, D).
        memory_mask: (B, 1, 1, S) bool, True for real frames, or None if all are real.
        cache: this block's keys and values of past tokens; those of x are added. None: no past.
        """
        raise NotImplementedError("ex09")
