"""The search around the graphs of a peer: NumPy alone, and no more than the benchmark needs.

Every sequence gets the same number of tokens, so that none ends early. A peer's step is a function
`step(tokens, parent_rows)`: log-probabilities (R, V) after tokens (R, 1), of rows that continue the
rows `parent_rows` (R,) of the step before.
"""

from collections.abc import Callable

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The score of beams that do not exist yet: all but the first one, before the first token.
IMPOSSIBLE = -1e9


def search_tokens(step: Step, ids: dict[str, int], beams: int, count: int) -> list[int]:
    """Return the start token and `count` tokens of the best of `beams` sequences, without EOS.

    One beam is greedy search.
    """
    sequences = np.full((beams, 1), ids["decoder_start_token_id"])  # (R, T)
    scores = np.full(beams, IMPOSSIBLE, dtype=np.float32)  # (R,)
    scores[0] = 0
    parent_rows = np.arange(beams)
    for _ in range(count):
        logprobs = step(sequences[:, -1:], parent_rows)  # (R, V)
        logprobs[:, ids["eos_token_id"]] = -np.inf
        totals = (scores[:, None] + logprobs).ravel()  # (R * V,)

        # The best continuations of all beams together, the best one first.
        best = np.argpartition(totals, -beams)[-beams:]  # (R,)
        best = best[np.argsort(-totals[best])]
        scores = totals[best]
        parent_rows = best // logprobs.shape[1]
        tokens = best % logprobs.shape[1]
        sequences = np.concatenate([sequences[parent_rows], tokens[:, None]], axis=1)
    return sequences[0].tolist()
