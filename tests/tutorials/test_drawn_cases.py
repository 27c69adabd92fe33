# pytest tests/tutorials/test_drawn_cases.py
"""Cases with numbers that are drawn anew refuse nobody who is right."""

import numpy as np
from exercises.drawn_cases import find_drawn_mistake
from exercises.inputs import Draw
from helpers.answers import exercise_number


def test_whoever_computes_in_float64_is_right_for_all_seeds():
    """The mean of float32 numbers must not depend on how they are added."""
    exercise = exercise_number(1)

    def normalise(waveform, eps=1e-7):
        wide = np.asarray(waveform).astype(np.float64)
        return ((wide - wide.mean()) / np.sqrt(wide.var() + eps)).astype(np.float32)

    for seed in range(1, 41):
        sentence, _ = find_drawn_mistake(exercise, "audio:normalise", normalise, Draw(seed))
        assert not sentence, (seed, sentence)
