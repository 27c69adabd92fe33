"""Exercise 12: beam search

Keep the K best beginnings instead of one.

`KVCache.reorder` moves rows of the cache: row i becomes what row rows[i] was. There may
be fewer rows than before: then the buffers `self.keys` and `self.values` have fewer. They
keep their room for later tokens.

`best_continuations` continues each beam of an utterance by each possible token. It
returns the best C = 2 K of the K * V results, best first, as Beams (B, C), and the
beams that they continue, their parents (B, C), numbers from 0 to K - 1. There are 2 K of
them so that K can run on even if K end. (With several EOS ids, C is 1 + their number,
times K. V is so large that there are as many, and the order of equal ones is free.) It
takes log_softmax of the logits, and applies `process_logits(logprobs,
tokens, config)` (given) to the result, with the tokens (B * K, T). The Beams have
`.tokens` (B, C, T + 1); `.logprobs` (B, C, T), of each token; `.scores` (B, C), the sum
of all log-probabilities, not divided; and `.ended` (B, C), True after a token of
`config.eos_ids`, and for all candidates with `config.max_total_length` tokens.

`beam_search` repeats four steps:
STEP 1: find the best continuations, the candidates.
STEP 2: the K best candidates that have not ended run on. `next_logits(tokens,
parent_rows)` is told which of the R = B * K rows of the previous call each row
continues.
STEP 3: those of the first K candidates that have ended compete for K places, by their
sum / length ** length_penalty. The length counts EOS, but not the start token.
STEP 4: an utterance is closed for good when it has K finished hypotheses, and its best
running beam, scored with its present length, is no better than the worst of them: it
collects no more, while the others go on. With early_stopping True, an utterance is
closed as soon as K have finished. Stop when all are closed. Stop also when all
candidates end, at config.max_total_length.

The result is `Generated` as in exercise 11: the `config.num_return_sequences` best
hypotheses of each utterance, best first, those of one utterance together. It is trimmed:
as long as the longest of them. After the end of a hypothesis come pads (the first EOS,
if the pad id is 0 or None), with log-probability 0. (Exercise 11 gives process_logits
the logits, and pads with 0 if that is the id: the searches of transformers differ so.)

You may go on with all B * K rows to the end. Rows of an utterance that is closed may also
leave, all K of them at once, as in the package. Sampling, early_stopping="never" and
`trace` are not part of this exercise.

Given: Beams with `select`, `append`, `pad`, `merge`; `initial_beams(start, K)`, which
returns the running beams (all are the same, so only the first one counts) and K empty
places; IMPOSSIBLE. `python -m pydoc nanos2t.beams.Beams` shows what they say, and no
code.

In the package this is in nanos2t/decoder.py and nanos2t/generate.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 12
Stuck: nanos2t exercises hint 12
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from nanos2t.beams import IMPOSSIBLE, Beams, initial_beams
from nanos2t.decoder import KVCache
from nanos2t.generate import Generated, NextLogits
from nanos2t.generation_config import GenerationConfig
from nanos2t.logits_processing import process_logits
from nanos2t.search_trace import Candidate


class KVCache:  # this part of it
    def reorder(self, rows: Tensor) -> None:
        """Give row i the tokens that row rows[i] had before.

        rows: (B * K,), or fewer: then there are fewer rows from now on.
        """
        raise NotImplementedError("ex12")


def best_continuations(
    running: Beams, logits: Tensor, config: GenerationConfig
) -> tuple[Beams, Tensor]:
    """Return the C best continuations of each utterance by one token, and their parents.

    The parents (B, C) are the beams that they continue. logits: (B * K, V), of the token after each
    of the K running beams. The best comes first. C is so large that K candidates have not ended,
    even if every beam proposes every EOS token. With do_sample, candidates are drawn instead.
    """
    raise NotImplementedError("ex12")


def beam_search(
    next_logits: NextLogits,
    start: Tensor,
    config: GenerationConfig,
    trace: list[Candidate] | None = None,
) -> Generated:
    """Extend start (B, 1), keeping the num_beams best hypotheses of each utterance at every step.

    Sutskever et al. 2014, section 3.2; scores and stopping rules are those of transformers.
    """
    raise NotImplementedError("ex12")
