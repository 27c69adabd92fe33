"""Exercise 11: cached greedy

The simplest search: append the most likely token, again and again. Keys and values of
past tokens do not change. A cache keeps them, so that each step computes those of one
new token only.

`KVCache.append` stores the keys and values of new tokens after the `self.length` tokens
stored before, in the buffers `self.keys` and `self.values` (B, N, size, D), raises
`self.length`, and returns everything stored, as views of the buffers, not copies.

`DecoderSession` is called with all tokens so far, and gives the decoder those that the
caches lack: `self.decoder(new_tokens, self.cross_keys_values, self.memory_mask,
self.caches)` returns logits (R, T, V), and appends the new tokens to the caches.
`self.caches` is a list with one KVCache for each block: the `.length` of each is the
number of tokens that it has, so that of the first cache, `self.caches[0].length`, says
which tokens are new. If `parent_rows` is not None, rows have changed places, and there
may be fewer than before, because an utterance whose search is over leaves the batch: its
rows are not in `parent_rows`. Then `.reorder(parent_rows)` of each cache comes first,
and `self.keep_utterances(parent_rows)` (given), which takes its keys, values and mask out
of the memory. The result are the logits of the last token, (R, V).

`greedy_search` calls `next_logits(tokens, None)` for logits (R, V), and applies
`process_logits(logits, tokens, config)` (given), which forbids tokens, before
log_softmax. It stops at `config.max_total_length` tokens, the start token included, or
when each row has a token of `config.eos_ids`, a list. After its EOS, a row gets pads,
whose log-probability is 0: `config.pad_token_id`, or the first EOS id if that is None.
They add nothing to its length. (Without an EOS id no row ends, and no pad is needed.)

The result is `Generated(sequences, sequences_scores, token_logprobs)`: the tokens (R, T)
with the start token first, the score of each row (R,), and the log-probability of each
token but the start token (R, T - 1).

The score of a row is the sum of its log-probabilities / length **
config.length_penalty; the length counts EOS, but not the start token. Sampling
(config.do_sample), `trace` (for pictures), numbers of another type than float32, and
errors about logits that are not finite are not part of this exercise.

In the package this is in nanos2t/decoder.py and nanos2t/generate.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 11
Stuck: nanos2t exercises hint 11
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.generate import Generated, NextLogits
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import process_logits
from nanos2t.search_trace import Candidate


class KVCache:  # this part of it
    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add keys and values (B * K, N, T, D) of new tokens.

        Return those of all tokens so far, each (B * K, N, P + T, D), as views.
        """
        raise NotImplementedError("ex11")


class DecoderSession:  # this part of it
    def __call__(self, tokens: Tensor, parent_rows: Tensor | None) -> Tensor:
        """Return the logits (R, V) after `tokens` (R, T), of which only the last ones are new."""
        raise NotImplementedError("ex11")


def greedy_search(
    next_logits: NextLogits,
    start: Tensor,
    config: GenerationConfig,
    trace: list[Candidate] | None = None,
) -> Generated:
    """Extend each row of start (R, 1) by the likeliest token, again and again, until EOS.

    With do_sample, tokens are drawn instead, from the distribution that `warp_logits` leaves.
    """
    raise NotImplementedError("ex11")
