"""Shared by the tests of transcription: the bundled model, and when two results are the same."""

from functools import cache

import pytest
import torch

import nanos2t
from nanos2t.transcription.results import Result
from nanos2t.transcription.transcriber import SpeechToText


@cache
def load_bundled() -> SpeechToText:
    return nanos2t.load(dtype=torch.float64)


def assert_same(left: Result, right: Result) -> None:
    assert (left.text, left.tokens, left.language, left.nbest) == (
        right.text,
        right.tokens,
        right.language,
        right.nbest,
    )
    assert left.score == pytest.approx(right.score, abs=1e-6)  # scores are float32
    assert left.token_logprobs == pytest.approx(right.token_logprobs, abs=1e-6)
    assert [word.word for word in left.words] == [word.word for word in right.words]
    for one, other in zip(left.words, right.words):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=1e-9)
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
    assert [(item.start, item.end, item.text) for item in left.segments] == [
        (item.start, item.end, item.text) for item in right.segments
    ]
