"""Exercise 9 of 14: cross-attention

Here the text looks at the sound. `memory` is a pair: keys and values that were made of the
encoder's frames once, (B, N, S, D) each; the mask (B, 1, 1, S) says which frames are real. In a
beam search x has B * K rows, the K beams of one utterance next to each other, and all of them look
at the same memory.
Then the whole decoder block: self-attention, cross-attention, MLP, each with residual and norm.
Given: `self.cross_attn(x, keys, values, mask)`; `self.attend_past(x, cache)`, the causal
self-attention; `self.attend_memory(x, memory, memory_mask)`, yours; `self.mlp`;
`self.self_attn_norm`, `self.cross_attn_norm`, `self.mlp_norm`; `self.pre_norm`.

In the package this stands in nanos2t/decoder.py; try it before you look.
Check it: nanos2t exercises 9    Stuck: nanos2t exercises hint 9
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.decoder import KVCache


class Block:  # this part of it
    def attend_memory(
        self, x: Tensor, cross_keys_values: tuple[Tensor, Tensor], memory_mask: Tensor | None
    ) -> Tensor:
        """Let each token of x (B * K, T, H) look at the real frames of its utterance.

        Queries do not see each other. So the K beams of an utterance are laid one after another along the time
        axis, and share its keys and values, instead of copying them K times.
        """
        raise NotImplementedError("ex09")
    def forward(
        self,
        x: Tensor,
        cross_keys_values: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        """Turn x (B * K, T, H) into a tensor of the same shape.

        cross_keys_values: this block's keys and values of the memory, (B, N, S, D) both; memory_mask:
        (B, 1, 1, S) bool, True for real frames; cache: this block's past, to which the new tokens are added.
        """
        raise NotImplementedError("ex09")
