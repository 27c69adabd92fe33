"""Exercise 13: bonus: alignment by dynamic time warping

When was each word said? The cross-attention tells, but not sharply. Dynamic time
warping finds the cheapest path through a table cost (T tokens, S frames), from the
first token and frame to the last of both, that never goes back. There is at least one
token and one frame, there may be thousands of frames, and a cost may be negative. The
path's cost is the sum of its cells, each counted once. Of the ways that do not win a tie
(see below) either may be taken. The result lists all its cells in order, as rows (token,
frame) of whole numbers.

In the package this is in nanos2t/transcription/alignment.py; try it before you look.
Change no argument in place, unless the text asks for it.
Check it: nanos2t exercises 13
Stuck: nanos2t exercises hint 13
"""

import numpy as np


def dtw(cost: np.ndarray) -> np.ndarray:
    """Find the cheapest path through cost (T, S), from its first cell to its last.

    Return the cells of the path as rows (token, frame): (steps, 2), int. This is dynamic time
    warping: each step goes to the next token, to the next frame, or to both. The path is traced
    back from the last cell, where a step from both wins a tie.
    Sakoe & Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition".
    """
    raise NotImplementedError("ex13")
