"""Exercise 11 of 14: cached greedy

The simplest search: take the likeliest token, again and again. Keys and values of past tokens do
not change, so a cache keeps them, and each step reads one new token only.
`KVCache.append` stores keys and values of new tokens behind the `self.length` stored before, in
`self.keys` and `self.values` (B, N, size, D), and returns all that are filled.
`DecoderSession` is called with all tokens so far, and gives the decoder those that the cache lacks:
`self.decoder(new, self.memory, self.mask, self.cache)` returns logits (R, T, V). `self.cache` is a
list with a KVCache for each block; each has `.length` and `.reorder(parents)`, for rows that changed
places.
`greedy_search` calls `next_logits(tokens, None)` for logits (R, V), and lets `process_logits(logits, tokens,
config)` (given) forbid tokens. It ends at `config.max_total_length` tokens, start included, or when each row
has a token of `config.eos_ids`. Behind its EOS a row has pads, with log-probability 0, which count
for nothing.
The score is the sum of log-probabilities / length ** config.length_penalty; the length counts EOS,
not the start token. Sampling (config.do_sample) and `trace` (for pictures) are not asked
for here.

In the package this stands in nanos2t/decoder.py and nanos2t/generate.py; try it before you look.
Check it: nanos2t exercises 11    Stuck: nanos2t exercises hint 11
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.generate import Generated, NextLogits
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import process_logits


class KVCache:  # this part of it
    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B * K, N, T, D) of new tokens.

        Return those of all tokens so far, each (B * K, N, P + T, D), as views.
        """
        raise NotImplementedError("ex11")


class DecoderSession:  # this part of it
    def __call__(self, tokens: Tensor, parents: Tensor | None) -> Tensor:  # (R, T), (R,)
        raise NotImplementedError("ex11")


def greedy_search(
    next_logits: NextLogits, start: Tensor, config: GenerationConfig, trace=None
) -> Generated:
    """The likeliest next token, or with do_sample a drawn one, until each row (R, 1) has its EOS."""
    raise NotImplementedError("ex11")
