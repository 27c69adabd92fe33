# pytest tests/transcription/test_hypotheses.py
"""nanos2t/transcription/hypotheses.py: loops are cut, once is kept, with a warning."""

from pathlib import Path

import pytest
from helpers.tiny import (
    RATE,
    SOUNDS,
    save_tiny,
    write,
)

import nanos2t
from nanos2t.transcription.hypotheses import cut_loop


@pytest.mark.parametrize("tokens, expected", [
    ([1, 4, 7, 8, 9], ([1, 4, 7, 8, 9], 0)),
    ([1, 4, *[7] * 15], ([1, 4, *[7] * 15], 0)),
    ([1, 4, *[7] * 16], ([1, 4, 7], 15)),
    ([1, 4, 5, *[7, 8, 9] * 6], ([1, 4, 5, 7, 8, 9], 5)),
    ([1, 4, 5, *[7, 8, 9] * 6, 7, 8], ([1, 4, 5, 7, 8, 9], 5)),
    ([1, 4, *[7] * 31, 2], ([1, 4, *[7] * 31, 2], 0)),
    ([1, 4, *[7] * 32, 2], ([1, 4, 7], 31)),
    ([1, *range(10, 17), *range(10, 17), *range(10, 17)], ([1, *[*range(10, 17)] * 3], 0)),
    ([1], ([1], 0)),
])  # fmt: skip
def test_loops_are_cut(tokens: list[int], expected: tuple):
    assert cut_loop(tokens, [2, 3]) == expected


def test_a_loop_is_said(tmp_path: Path):
    """This model says the same over and over: once is kept, with its times and a warning."""
    stt = nanos2t.load(
        save_tiny(tmp_path, eos_token_id=None, pad_token_id=0, max_length=18), dtype="float64"
    )
    stt.model.decoder.head.bias.data[20] = 99.0
    with pytest.warns(
        UserWarning, match=r"^audio: 0\.0 s: the model repeated the end of 'w20' 16 times$"
    ):
        result = stt.transcribe(SOUNDS[1], sample_rate=RATE, words=True)
    assert result.text == "w20" == result.nbest[0] and result.tokens == [1, 20]
    assert (
        len(result.words) == len(result.token_logprobs) == 1 and result.segments[0].repeated == 16
    )
    with pytest.warns(UserWarning, match=r"a\.wav: 0\.0 s"):
        stt.transcribe(write(tmp_path / "a.wav", SOUNDS[1]))
