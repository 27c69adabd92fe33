"""Exercise 12 of 14: beam search

Keep the K best beginnings instead of one. `KVCache.reorder` gives row i of the cache what row rows[i]
had.
`continuations` adds each possible token to each beam of an utterance and returns the best C = 2 K
of the K * V results, best first, as Beams (B, C), and which beam each comes from (B, C): with 2 K,
K are left to run on even if K end. (With several EOS ids: 1 + their number, times K.)
`beam_search`, until nothing running can beat the K that ended,
STEP 1: continuations.
STEP 2: the K best that did not end run on; `next_logits(tokens, parents)` is told which of the R =
B * K former rows each goes on from.
STEP 3: those of the first K continuations that ended compete for K places, by sum / length **
length_penalty; the length counts EOS, not the start token.
STEP 4: stop when in every utterance K have ended and the best that runs, at its present length, is
no better than the worst of them (with early_stopping True: as soon as K have ended), or when all
ended at config.max_total_length. Rows always stay B * K. Sampling, early_stopping="never" and `trace` are
not asked for here.
Given: Beams with `pick` and `join`; `initial_beams(start, K)`: the running beams, of which only the
first counts as all are the same, and K empty places; `process_logits(logprobs, tokens, config)`;
IMPOSSIBLE. Behind the end of a sequence stands the pad (EOS if that is 0 or None), with
log-probability 0.

In the package this stands in nanos2t/decoder.py and nanos2t/generate.py; try it before you look.
Check it: nanos2t exercises 12    Stuck: nanos2t exercises hint 12
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.decoder import KVCache
from nanos2t.generate import IMPOSSIBLE, Beams, Generated, NextLogits, initial_beams
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import process_logits


class KVCache:  # this part of it
    def reorder(self, rows: Tensor) -> None:
        """Give row i the tokens that row rows[i] had before; rows: (B * K,)."""
        raise NotImplementedError("ex12")


def best_continuations(
    running: Beams, logits: Tensor, config: GenerationConfig
) -> tuple[Beams, Tensor]:
    """The best, or drawn, one-token continuations of an utterance's beams, C in all, and their parents."""
    raise NotImplementedError("ex12")


def beam_search(
    next_logits: NextLogits, start: Tensor, config: GenerationConfig, trace=None
) -> Generated:
    """The num_beams best hypotheses at a time (Sutskever et al. 2014, section 3.2), from start (B, 1)."""
    raise NotImplementedError("ex12")
